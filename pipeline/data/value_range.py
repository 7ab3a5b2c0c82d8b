"""Which values of deep images become black and white, where the configuration leaves it open: those of a sample."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np

from ..errors import DecodeError
from .decoding.decode import read_values
from .decoding.preparation import COLOURS
from .images import ImageSource

LOOKED_AT = 4  # images, for whether values are deep
SHARDS = 16
IMAGES_A_SHARD = 4
PERCENTILES = (0.1, 99.9)
PIXELS = 2**16  # of an image, about


def find_range(images: ImageSource) -> tuple[tuple[float, float], ...]:
    """Return the range of the values of images, a pair for all bands or, of more than three, one for each.

    It is empty where the first images that can be decoded have 8 bits. Otherwise it reaches from the 0.1st to the
    99.9th percentile of the values of the deep ones among the first images of some shards, spread over all.

    Raises
    ------
    InputError
        A package that reads them is not installed.
    """
    first = [*islice(_read_values(images, [0], 4 * LOOKED_AT), LOOKED_AT)]
    deep = [_thin(values) for values in first if values.dtype != np.uint8]
    if not deep:
        return ()
    total = len(images.dataset.shards)
    shards = np.unique(np.linspace(0, total - 1, min(total, SHARDS)).round().astype(int)).tolist()
    sampled = _read_values(images, shards, IMAGES_A_SHARD)
    sample = [_thin(values) for values in sampled if values.dtype != np.uint8] or deep
    bands = sample[0].shape[1]
    values = np.concatenate([each for each in sample if each.shape[1] == bands])
    values = values[np.isfinite(values).all(axis=1)]
    if not len(values):
        return ((0.0, 1.0),)
    limits = np.percentile(values, PERCENTILES, axis=0 if images.preparation.channels > COLOURS else None)
    pairs = np.atleast_2d(limits.T)
    return tuple((float(low), float(high) if high > low else float(low) + 1) for low, high in pairs)


def _read_values(images: ImageSource, shards: list[int], count: int) -> Iterator[np.ndarray]:
    """Yield the values (y, x, band) of the bands that are used of a sample of some shards."""
    preparation = images.preparation
    for number in shards:
        for data in images.read_sample(images.dataset.shards[number], count):
            try:
                values, has_alpha = read_values(data, preparation.max_pixels)
            except (DecodeError, MemoryError):
                continue
            if preparation.bands and max(preparation.bands) < values.shape[2]:
                values, has_alpha = values[..., list(preparation.bands)], False
            yield values[..., :-1] if has_alpha and values.shape[2] != preparation.channels else values


def _thin(values: np.ndarray) -> np.ndarray:
    """Return some pixels (pixel, band) of an image, evenly spread."""
    step = max(1, int((values.shape[0] * values.shape[1] / PIXELS) ** 0.5))
    return values[::step, ::step].reshape(-1, values.shape[2]).astype(np.float64)
