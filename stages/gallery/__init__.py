"""Stage gallery: a static site of every layer of a run."""
