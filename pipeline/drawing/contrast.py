"""Signed values to visible ones: projections and weights on mid grey."""

from __future__ import annotations

import numpy as np


def contrast(projection: np.ndarray, quantile: float = 0.995, full: float | None = None) -> np.ndarray:
    """Draw a projection on mid grey, with one scale for all of the array.

    Parameters
    ----------
    projection : ndarray float
        Of any shape: a projection (y, x, rgb), or a layer's weights.
    quantile : float
        The quantile of the absolute values that gets full contrast, 0 to 1; what is beyond it is clipped.
    full : float, optional
        The absolute value that gets full contrast, in place of the quantile: see ``full_contrast``.

    Returns
    -------
    ndarray uint8
        Of the same shape. Zero is drawn as 128, and the scale is symmetric: 1 and 255 are full contrast.

    Notes
    -----
    With the maximum in the place of the quantile, a few strong pixels leave the others of deep layers almost grey.
    """
    full = full_contrast(projection, quantile) if full is None else full
    return np.round(np.clip(128 + 127 * projection / full, 1, 255)).astype(np.uint8)


def full_contrast(values: np.ndarray, quantile: float) -> float:
    """Return the quantile of absolute values that gets full contrast; where that is 0 their maximum, or else 1."""
    strength = np.abs(values)
    return float(np.quantile(strength, quantile) or strength.max() or 1.0)
