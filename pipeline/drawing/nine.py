"""The nine of a filter as pictures: whole windows, as in the paper; or what lies in the footprints of the projections.

A footprint holds nearly all of a projection; most of the window around it is mid grey. Where the projection is weak,
the patch shows what the filter did not respond to. So the second form crops both to the footprint, and fades the patch
where its mask is weak.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from .contrast import contrast, full_contrast
from .mosaic import WHITE

FADED = 235  # the grey that a patch fades to
SAME = 0.999  # projections whose cosine is above it are the same but for a factor
KEPT = 0.25  # of its own brightness, where it is faded altogether

Pictures = list[np.ndarray]  # (y, x, rgb) uint8, by rank


def draw_windows(projections: np.ndarray, patches: np.ndarray, quantile: float) -> tuple[Pictures, Pictures]:
    """Draw projections and patches (rank, y, x, rgb) whole; all projections have one scale: see ``contrast``."""
    full = full_contrast(projections, quantile) if len(projections) else 1.0
    return list(contrast(projections, full=full)), list(patches)


def draw_footprints(
    projections: np.ndarray, patches: np.ndarray, footprints: np.ndarray, masks: np.ndarray, quantile: float
) -> tuple[Pictures, Pictures]:
    """Draw what lies in the footprints; all projections have one scale, so that a weaker one is fainter.

    Parameters
    ----------
    projections : ndarray (rank, y, x, rgb) float32
    patches : ndarray (rank, y, x, rgb) uint8
    footprints : ndarray (rank, corner) int
        In pixels of the patches.
    masks : ndarray (rank, y, x) uint8
    quantile : float
        Of the absolute values in the footprints, drawn with full contrast.
    """
    crops = find_crops(footprints, projections.shape[1:3])
    shown = [projection[crop] for projection, crop in zip(projections, crops, strict=True)]
    full = full_contrast(np.concatenate([values.ravel() for values in shown] or [np.zeros(1)]), quantile)
    faded = [fade(patch[crop], mask[crop]) for patch, mask, crop in zip(patches, masks, crops, strict=True)]
    return [contrast(values, full=full) for values in shown], faded


def find_common(projections: np.ndarray) -> int | None:
    """Return the rank of a projection that stands for all (rank, y, x, rgb); None where they differ.

    It does where most are the same but for a factor, as in a layer that works on pixels; those at the edge of an image
    may be shifted. A single projection stands for itself.
    """
    flat = projections.reshape(len(projections), -1).astype(np.float64)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), np.finfo(np.float64).tiny)
    same = (flat @ flat.T > SAME).sum(axis=1)
    rank = int(same.argmax()) if len(same) else 0
    return rank if len(same) == 0 or same[rank] > len(same) / 2 else None


def find_crops(footprints: np.ndarray, size: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Return what is cropped out of patches of a size: the squares around footprints (rank, corner).

    None is smaller than the middle one of the filter, so that the nine are alike in scale. A square that would leave
    the patch is moved inside.

    >>> find_crops(np.array([[0, 1, 2, 3], [4, 4, 8, 8], [0, 0, 6, 6]]), (9, 9))[0]
    (slice(0, 4, None), slice(0, 4, None))
    """
    if not len(footprints):
        return []
    extents = (footprints[:, 2:] - footprints[:, :2]).max(axis=1)
    middle = int(np.sort(extents)[len(extents) // 2])
    crops = []
    for (top, left, bottom, right), extent in zip(footprints.tolist(), extents.tolist(), strict=True):
        side = max(extent, middle)
        starts = [(low + high - side) // 2 for low, high in ((top, bottom), (left, right))]
        starts = [max(0, min(start, length - side)) for start, length in zip(starts, size, strict=True)]
        y, x = (slice(start, min(start + side, length)) for start, length in zip(starts, size, strict=True))
        crops.append((y, x))
    return crops


def fade(patch: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Fade a patch (y, x, rgb) uint8 to light grey where its mask (y, x) uint8 is weak."""
    shown = mask[..., np.newaxis] / 255
    grey = KEPT * patch.mean(axis=2, keepdims=True) + (1 - KEPT) * FADED
    faded: np.ndarray = np.round(shown * patch + (1 - shown) * grey).astype(np.uint8)
    return faded


def fit(picture: np.ndarray, side: int) -> np.ndarray:
    """Return a picture (y, x, rgb) uint8 resized so that its longer side has a length, in the middle of a square."""
    height, width = picture.shape[:2]
    scale = side / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS))
    square = np.full((side, side, 3), WHITE, np.uint8)
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = resized
    return square
