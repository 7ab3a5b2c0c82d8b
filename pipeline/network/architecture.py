"""What is known of a network before it is built: how to build it, its layers, and how it wants its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what its layers are.

    Attributes
    ----------
    build : callable
        Returns the module with fresh weights.
    layers : dict of name to module path
        The numbered layers, 1, 2, 3, … in this order.
    mean, std : (red, green, blue)
        What the network's input is normalised by, as fractions of 255.
    resize, crop : int
        To what the shortest side of an image is resized, and the side of the square that is then cropped, in pixels.
    fit, interpolation : str
        How it becomes a square, and the filter of the resizing: see ``DecodeConfig``.
    wanted_by : str
        Whose word that is, as a part of a sentence; empty where it is assumed.
    categories : tuple of str
        The names of the classes that it tells apart, where they are known.
    """

    build: Callable[[], nn.Module]
    layers: dict[str, str]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    resize: int = 256
    crop: int = 224
    fit: str = "crop"
    interpolation: str = "bilinear"
    wanted_by: str = ""
    categories: tuple[str, ...] = ()
