"""A module as a user has it, and what is done to it so that it can be mined."""

from .tensors import constants

__all__ = ["constants"]
