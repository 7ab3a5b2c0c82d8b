"""Pixels of any number of channels as red, green and blue."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

COLOURS = 3


def default_bands(channels: int) -> tuple[int, ...]:
    """Return the channels that a picture shows unless others are chosen: the first three, or the first one as grey.

    >>> default_bands(5), default_bands(2)
    ((0, 1, 2), (0,))
    """
    return (0, 1, 2) if channels >= COLOURS else (0,)


def to_rgb(pixels: np.ndarray, bands: Sequence[int] = ()) -> np.ndarray:
    """Return pixels (…, channel) as (…, rgb): of three channels as they are, of others those chosen.

    Parameters
    ----------
    bands : sequence of int
        Three channels, or one that is drawn as grey; none = ``default_bands``.

    >>> to_rgb(np.array([[1, 2, 3, 4, 5]]), [4, 2, 0]).tolist(), to_rgb(np.array([[7]])).tolist()
    ([[5, 3, 1]], [[7, 7, 7]])
    """
    channels = pixels.shape[-1]
    if channels == COLOURS and not bands:
        return pixels
    chosen = pixels[..., list(bands or default_bands(channels))]
    return chosen if chosen.shape[-1] == COLOURS else chosen.repeat(COLOURS, axis=-1)
