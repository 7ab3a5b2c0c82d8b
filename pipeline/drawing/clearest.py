"""Which filters the gallery's tour shows: the filters whose strongest hits look alike. No I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

SKETCH_PX = 16  # side of a sketch: so coarse that a small shift does not count as a difference
SKETCH_VALUES = 2 * SKETCH_PX**2  # the gradient's two components in every pixel
OVERSAMPLING = 4  # a sketch is the average of this many samples along each side of a pixel
SAME_PATTERN = 0.8  # two filters show the same pattern from this correlation of their mean sketches on
SAME_IMAGES = 0.5  # and above this fraction of images that they share among their hits
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue: ITU-R BT.601
GREY = 128  # zero in a projection

# Where each chapter of the tour ends, as a fraction of the depth of the deepest numbered layer.
CHAPTER_ENDS = (0.2, 0.45, 0.7, 0.88, math.inf)

Box = tuple[float, float, float, float]


def compare_hits(projections: np.ndarray, patches: np.ndarray) -> tuple[float, np.ndarray]:
    """Compute how much a filter's hits look alike, and a sketch of the filter.

    Parameters
    ----------
    projections, patches : ndarray (rank, y, x, rgb) uint8
        Of the filter's hits; none for a dead filter.

    Returns
    -------
    agreement : float
        The mean correlation of the projections plus that of the patches: at most 2; 0 for a dead filter.
    sketch : ndarray (value) float32
        The means of the projections' and of the patches' sketches, each of length 1; 0 for a dead filter.
    """
    if not len(projections):
        return 0.0, np.zeros(2 * SKETCH_VALUES, np.float32)
    sketches = sketch_hits(projections, patches)
    agreement = sum(map(mean_correlation, sketches))
    means = [each.mean(axis=0) for each in sketches]
    return agreement, np.concatenate([mean / max(np.linalg.norm(mean), 1e-6) for mean in means])


def sketch_hits(projections: np.ndarray, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute sketches of hits: small pictures that can be compared wherever the pattern is in the patch.

    A sketch holds the gradient of the luminance. So edges count and colours do not: nine patches of one colour are not
    alike.

    Each projection is cropped to its energy: to a square around its centre of gravity that extends twice the standard
    deviation to each side. The patch is cropped to the same square.

    Parameters
    ----------
    projections, patches : ndarray (rank, y, x, rgb) uint8

    Returns
    -------
    projections, patches : ndarray (rank, value) float32
        Each sketch has mean 0 and length 1, or is 0 where the picture is flat.
    """
    boxes = [_energy_box(projection) for projection in projections]
    return _sketch(projections, boxes), _sketch(patches, boxes)


def mean_correlation(sketches: np.ndarray) -> float:
    """Compute the mean correlation over all pairs of sketches (rank, value); 0 for fewer than two."""
    count = len(sketches)
    if count < 2:
        return 0.0
    total = np.square(sketches.sum(axis=0)).sum() - np.square(sketches).sum()
    return float(total / (count * (count - 1)))


def compute_clearness(agreement: np.ndarray, ranked: np.ndarray, maximum: np.ndarray) -> np.ndarray:
    """Compute by how much each filter of a layer is worth showing: its agreement times how active it is.

    Parameters
    ----------
    agreement : ndarray (filter)
        Of the filter's hits, as ``compare_hits`` returns it.
    ranked : ndarray (filter)
        The fraction of the filter's ranks that are filled.
    maximum : ndarray (filter)
        The strongest activation; NaN where there is none. It counts in units of the layer's median, up to 1.

    Returns
    -------
    ndarray (filter)
        0 for dead filters.
    """
    maximum = np.nan_to_num(maximum)
    live = maximum[maximum > 0]
    median = np.median(live) if len(live) else 1
    clearness: np.ndarray = agreement * (ranked * np.clip(maximum / median, 0, 1))
    return clearness


def choose_clearest(clearness: np.ndarray, sketches: np.ndarray, images: np.ndarray, count: int) -> list[int]:
    """Choose the clearest filters. Those that show the same pattern or the same images as a chosen one come last.

    Parameters
    ----------
    clearness : ndarray (filter)
        Filters at or below 0 are never chosen.
    sketches : ndarray (filter, value)
        As ``compare_hits`` returns them.
    images : ndarray (filter, rank)
        Ids of the filters' images, -1 for a rank that is not filled.
    count : int

    Returns
    -------
    list of int
        Fewer than ``count`` where fewer filters have a clearness above 0. Ties go to the lower number.
    """
    order = [int(f) for f in np.argsort(-clearness, kind="stable") if clearness[f] > 0]
    chosen: list[int] = []
    for f in order:
        if len(chosen) < count and not any(_are_alike(f, other, sketches, images) for other in chosen):
            chosen.append(f)
    others = [f for f in order if f not in chosen]
    return [*chosen, *others[: count - len(chosen)]]


def _are_alike(first: int, second: int, sketches: np.ndarray, images: np.ndarray) -> bool:
    """Return whether two filters show the same: in their projections, in their patches, or by their images."""
    likeness = (sketches[first] * sketches[second]).reshape(2, -1).sum(axis=1).max()
    shared = np.isin(images[first], images[second][images[second] >= 0]).mean()
    return bool(likeness >= SAME_PATTERN or shared > SAME_IMAGES)


def chapter(depth: int, deepest: int) -> int:
    """Return the chapter of the tour that a layer belongs to, by its depth: from 0, edges, to 4, objects.

    Parameters
    ----------
    depth, deepest : int
        Operations from the input to the layer, and to the deepest numbered layer.

    >>> [chapter(depth, 11) for depth in (1, 4, 7, 9, 11)]
    [0, 1, 2, 3, 4]
    """
    return next(i for i, end in enumerate(CHAPTER_ENDS) if depth / deepest <= end)


def _energy_box(projection: np.ndarray) -> Box:
    """Return the square that holds a projection's energy: left, top, right, bottom in pixels."""
    energy = np.abs(projection.astype(np.float32) - GREY).sum(axis=2) + 1e-6
    (y, variance_y), (x, variance_x) = (_moments(energy.sum(axis=axis) / energy.sum()) for axis in (1, 0))
    radius = max(1.0, 2 * math.sqrt((variance_y + variance_x) / 2))
    return x - radius, y - radius, x + radius, y + radius


def _moments(weights: np.ndarray) -> tuple[float, float]:
    """Return the mean and the variance of the pixels' centres along one side; the weights add up to 1."""
    centres = np.arange(0.5, len(weights))
    mean = float(weights @ centres)
    return mean, float(weights @ (centres - mean) ** 2)


def _sketch(pictures: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """Return the sketches (rank, value) float32 of pictures (rank, y, x, rgb) uint8, each cropped to its box."""
    cropped = [_crop(picture, box) for picture, box in zip(pictures, boxes, strict=True)]
    luminance = np.stack(cropped).astype(np.float32) @ LUMINANCE
    values = np.stack(np.gradient(luminance, axis=(1, 2)), axis=1).reshape(len(pictures), -1)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    normalised: np.ndarray = values / np.where(length > 0, length, 1)
    return normalised


def _crop(picture: np.ndarray, box: Box) -> np.ndarray:
    """Return the part of a picture in a box, in a sketch's size; mid grey where the box leaves the picture."""
    side = OVERSAMPLING * SKETCH_PX
    enlarged = Image.fromarray(picture).transform(
        (side, side), Image.Transform.EXTENT, box, Image.Resampling.BILINEAR, fillcolor=(GREY,) * 3
    )
    return np.asarray(enlarged.resize((SKETCH_PX, SKETCH_PX), Image.Resampling.BOX))
