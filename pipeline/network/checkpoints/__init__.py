"""Checkpoints as training leaves them: from a file to a state dict with the keys of a module."""
