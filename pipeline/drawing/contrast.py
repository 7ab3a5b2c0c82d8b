"""Signed values to visible ones: projections and weights on mid grey."""

from __future__ import annotations

import numpy as np


def contrast(projection: np.ndarray, quantile: float = 0.995) -> np.ndarray:
    """Draw a projection on mid grey, with one scale for all of the array.

    Parameters
    ----------
    projection : ndarray float
        Of any shape: a projection (y, x, rgb), or a layer's weights.
    quantile : float
        The quantile of the absolute values that gets full contrast, 0 to 1; what is beyond it is clipped.

    Returns
    -------
    ndarray uint8
        Of the same shape. Zero is drawn as 128, and the scale is symmetric: 1 and 255 are full contrast.

    Notes
    -----
    With the maximum in the place of the quantile, a few strong pixels leave the others of deep layers almost grey.
    """
    full = np.quantile(np.abs(projection), quantile) or np.abs(projection).max() or 1.0
    return np.round(np.clip(128 + 127 * projection / full, 1, 255)).astype(np.uint8)
