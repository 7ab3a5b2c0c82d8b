"""From the pixels of an image to the network's input, and back."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..network.architecture import Architecture


def normalisation_rows(
    architecture: Architecture, width: int, channels: int, precision: str = "float32"
) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and deviation of a row of pixels, (x * channel) from 0 to 255: what ``normalise`` takes.

    They are uploaded with every batch, a few kB, so that no batch reads what another stream has written. In ``float64``
    they are the architecture's decimal numbers times 255, not their float32 neighbours, which are up to 6e-8 away.
    """
    dtype = np.dtype("float64" if precision == "float64" else "float32")
    mean, std = (dtype.type(255) * np.array(values, dtype) for values in architecture.normalisation(channels))
    return np.tile(mean, width), np.tile(std, width)


def normalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Return the network's input (image, channel, y, x) for images (image, y, x, channel) uint8, on their device.

    It has the precision of mean and deviation.
    """
    rows = images.flatten(2).to(mean.dtype).sub_(mean).div_(std)  # whole rows at once: four times as fast as by channel
    return rows.view(images.shape).permute(0, 3, 1, 2)


def to_picture(pixels: Tensor, architecture: Architecture) -> Tensor:
    """Return normalised pixels (channel, y, x) as pixels (y, x, channel) uint8, on their device."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in architecture.normalisation(len(pixels)))
    return ((pixels.permute(1, 2, 0) * std + mean) * 255).round().clamp(0, 255).byte()
