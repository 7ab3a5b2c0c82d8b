"""The bands of an image as the channels of the network's input, in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from ...errors import BandsError, DecodeError
from .arrays import Bands
from .preparation import COLOURS, Preparation

DEEP = "values of more than 8 bits: data.range says which become black and white"
PORTION = 2**20  # values that are scaled at a time


def to_channels(image: Bands, preparation: Preparation) -> np.ndarray:
    """Return an image's bands as channels (y, x, channel) uint8.

    ``preparation.bands`` are taken, or all. Where there are others than channels, opacity is left out, one band becomes
    red, green and blue, and these three become the one of a network that takes grey: as Pillow makes it.

    Raises
    ------
    BandsError
        The bands are not those wanted, or the values have more than 8 bits and there is no range.
    DecodeError
        They are no numbers.
    """
    values, has_alpha = image
    count, channels = values.shape[2], preparation.channels
    if preparation.bands:
        if max(preparation.bands) >= count:
            raise BandsError(f"it has {count} bands, decode.bands asks for band {max(preparation.bands)}")
        values, has_alpha = values[..., list(preparation.bands)], False
    if has_alpha and values.shape[2] != channels:
        values = values[..., :-1]
    scaled = scale(values, preparation.range)
    bands = scaled.shape[2]
    if bands == channels:
        return scaled
    if bands == 1 and channels == COLOURS:
        return scaled.repeat(COLOURS, axis=2)
    if bands == COLOURS and channels == 1:
        return np.asarray(Image.fromarray(np.ascontiguousarray(scaled)).convert("L"))[..., None]
    raise BandsError(f"it has {count} bands, the network takes {channels}: decode.bands chooses some")


def scale(values: np.ndarray, limits: Sequence[tuple[float, float]]) -> np.ndarray:
    """Return values (y, x, band) as uint8: those between the limits, of all bands or of each, become 0 to 255.

    Values of 8 bits stay as they are; errors as ``to_channels``.

    >>> scale(np.array([[[0], [50], [80], [300]]]), [(50, 100)]).ravel().tolist()
    [0, 0, 153, 255]
    """
    if values.dtype == np.uint8:
        return values
    if not limits:
        raise BandsError(DEEP)
    if len(limits) not in (1, values.shape[2]):
        raise BandsError(f"it has {values.shape[2]} bands, data.range is that of {len(limits)}")
    low, high = np.array(limits, np.float64).T
    scaled = np.empty(values.shape, np.uint8)
    rows = max(1, PORTION // max(1, values[:1].size))
    for start in range(0, len(values), rows):
        part = values[start : start + rows].astype(np.float64)
        if not np.isfinite(part).all():
            raise DecodeError("values that are no numbers")
        part = np.rint((part - low) * (255 / (high - low)))
        scaled[start : start + rows] = part.clip(0, 255)
    return scaled


def split_planes(image: Image.Image | np.ndarray) -> list[Image.Image]:
    """Return an image as pictures that Pillow resizes: one of red, green and blue, or one for each channel."""
    if isinstance(image, Image.Image):
        return [image]
    if image.shape[2] == COLOURS:
        return [Image.fromarray(np.ascontiguousarray(image))]
    return [Image.fromarray(np.ascontiguousarray(image[..., channel])) for channel in range(image.shape[2])]
