"""Where projections have their energy: the square around nearly all of it, and a smooth mask."""

from __future__ import annotations

import numpy as np

ENERGY = 0.99  # of a projection's, inside of its footprint
BLUR = 12  # a mask is blurred over so many parts of its footprint's side
BLURS = 3  # of boxes, one after the other, are almost a Gaussian
FULL = 0.98  # the quantile of the blurred values at which a mask is full


def trace(projection: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the footprint (corner) int32 and the mask (y, x) uint8 of a projection (y, x, channel).

    The footprint is in the pixels that the projection's ``box`` (corner) is in.
    """
    top, left, bottom, right = find_footprint(projection)
    footprint = (box[[0, 1, 0, 1]] + (top, left, bottom, right)).astype(np.int32)
    return footprint, draw_mask(projection, max(bottom - top, right - left))


def find_footprint(projection: np.ndarray) -> tuple[int, int, int, int]:
    """Return the smallest square with 99 % of the energy of a projection, which is the sum of its squared values.

    Parameters
    ----------
    projection : ndarray (y, x, channel)

    Returns
    -------
    (int, int, int, int)
        Top, left, bottom, right in pixels of the projection. Where the square is longer than a side of the projection,
        it ends there. Without any energy it is the whole projection. Of several squares of one side it is the one with
        the most energy.

    Examples
    --------
    >>> projection = np.zeros((9, 7, 3))
    >>> projection[2:5, 3:5] = 1
    >>> find_footprint(projection)
    (2, 2, 5, 5)
    """
    height, width = projection.shape[:2]
    sums = np.zeros((height + 1, width + 1))
    sums[1:, 1:] = np.square(projection, dtype=np.float64).sum(axis=2).cumsum(axis=0).cumsum(axis=1)
    wanted = ENERGY * sums[-1, -1]
    if not wanted:
        return 0, 0, height, width
    shortest, longest = 1, max(height, width)
    while shortest < longest:
        side = (shortest + longest) // 2
        if _energies(sums, side).max() >= wanted:
            longest = side
        else:
            shortest = side + 1
    energies = _energies(sums, longest)
    top, left = (int(index) for index in np.unravel_index(energies.argmax(), energies.shape))
    return top, left, top + min(longest, height), left + min(longest, width)


def _energies(sums: np.ndarray, side: int) -> np.ndarray:
    """Return the energy of every square of a side, by its top and left."""
    height, width = min(side, len(sums) - 1), min(side, len(sums[0]) - 1)
    across = sums[:, width:] - sums[:, :-width]
    energies: np.ndarray = across[height:] - across[:-height]
    return energies


def draw_mask(projection: np.ndarray, side: int) -> np.ndarray:
    """Return how much of the patch a projection covers (y, x): 255 where it is strong, 0 where there is nothing of it.

    It is the square root of the projection's absolute value, blurred over a twelfth of the ``side`` of its footprint.
    """
    radius = max(1, round(side / BLUR))
    strength = _blur(_blur(np.abs(projection).sum(axis=2, dtype=np.float64), radius).T, radius).T
    full = np.quantile(strength, FULL) or strength.max() or 1.0
    mask: np.ndarray = np.round(255 * np.sqrt(np.clip(strength / full, 0, 1))).astype(np.uint8)
    return mask


def _blur(values: np.ndarray, radius: int) -> np.ndarray:
    """Average values (y, x) along y; what lies outside counts neither as strong nor as weak."""
    covered = np.ones((len(values), 1))
    for _ in range(BLURS):
        values, covered = _sum_boxes(values, radius), _sum_boxes(covered, radius)
    return values / covered


def _sum_boxes(values: np.ndarray, radius: int) -> np.ndarray:
    """Sum values (y, x) along y, over boxes of a radius; outside are zeros."""
    height, width = values.shape
    sums = np.zeros((height + 2 * radius + 1, width))
    np.cumsum(values, axis=0, out=sums[radius + 1 : radius + 1 + height])
    sums[radius + 1 + height :] = sums[radius + height]
    boxes: np.ndarray = np.maximum(sums[2 * radius + 1 :] - sums[:height], 0)  # a difference may be a little below zero
    return boxes
