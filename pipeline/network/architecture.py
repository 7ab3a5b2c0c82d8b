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
    mean, std : tuple of float (channel)
        What the network's input is normalised by, as fractions of 255.
    resize, size, fit, interpolation
        How an image becomes the network's input, and the filter of the resizing: see ``DecodeConfig``.
    channels : int
        Of the network's input; 0 where they have still to be found out.
    wanted_by : str
        Whose word that is, as a part of a sentence; empty where it is assumed.
    categories : tuple of str
        The names of the classes that it tells apart, where they are known.
    """

    build: Callable[[], nn.Module]
    layers: dict[str, str]
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    resize: int | tuple[int, int] = 256
    size: tuple[int, int] = (224, 224)
    fit: str = "crop"
    interpolation: str = "bilinear"
    channels: int = 3
    wanted_by: str = ""
    categories: tuple[str, ...] = ()

    def normalisation(self, channels: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return mean and deviation of an input of so many channels: of others than it gives, the average of these."""
        mean, std = (
            values if len(values) == channels else (round(sum(values) / len(values), 6),) * channels
            for values in (self.mean, self.std)
        )
        return mean, std
