"""Workers that run tasks: the only package that imports distributed."""
