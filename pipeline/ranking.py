"""The strongest activations of every filter: top-k of a block, and merging two of them.

Pure numpy, with one tie rule: activation descending, then image id ascending. Only positive values rank.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np

RANKS = 9
MERGED_A_FILTER = 4  # activations that wait to be merged, on average


@dataclass(frozen=True)
class Top:
    """The strongest activations of every filter, strongest first.

    Attributes
    ----------
    activation : ndarray (filter, rank) float32
        NaN where fewer images activate the filter.
    image : ndarray (filter, rank) int64
        Image ids, -1 there.
    """

    activation: np.ndarray
    image: np.ndarray


@dataclass(frozen=True)
class Ranking(Top):
    """The strongest activations of every filter, and where in the map they are.

    Attributes
    ----------
    row, column : ndarray (filter, rank) int32
        -1 where the rank is empty.
    """

    row: np.ndarray
    column: np.ndarray

    def places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Give image, row and column (filter, rank)."""
        return self.image, self.row, self.column


Ranks = TypeVar("Ranks", bound=Top)


def top(activation: np.ndarray, first_image: int = 0, ranks: int = RANKS) -> Top:
    """Rank a run of consecutive images.

    Parameters
    ----------
    activation : ndarray (image, filter) float32
        NaN for an image that could not be decoded; NaN and values that are not positive do not rank.
    first_image : int
        Id of the first row.
    ranks : int
        How many to keep.

    Examples
    --------
    >>> top(np.array([[1.0], [3.0], [3.0], [0.0]]), first_image=10, ranks=4).image
    array([[11, 12, 10, -1]])
    """
    competing = activation > 0
    if len(activation) > ranks:
        competing &= activation >= np.partition(np.nan_to_num(activation), -ranks, axis=0)[-ranks]  # ties with it, too
    return _strongest([_flat(activation, competing, first_image)], activation.shape[1], ranks)


def running_top(runs: Iterable[tuple[int, np.ndarray]], ranks: int = RANKS, before: Top | None = None) -> Top:
    """Rank runs of images that follow each other: most of what cannot rank any more is dropped unsorted.

    Parameters
    ----------
    runs : iterable of (int, ndarray (image, filter) float32)
        The id of the first image, ascending, and activations as ``top`` takes them. At least one.
    before : Top, optional
        The ranks of images with smaller ids, to go on from.
    """
    runs = iter(runs)
    if before is None:
        first, activation = next(runs)
        before = top(activation, first, ranks)
    found = before
    pending: list[_Flat] = []
    for first, activation in runs:
        pending.append(_flat(activation, activation > np.nan_to_num(found.activation[:, -1]), first))  # ties come late
        if sum(len(values) for _, _, values in pending) > MERGED_A_FILTER * activation.shape[1]:
            found, pending = _strongest([_filled(found), *pending], activation.shape[1], ranks), []
    return _strongest([_filled(found), *pending], len(found.image), ranks)


def merge(parts: Sequence[Ranks], ranks: int = RANKS) -> Ranks:
    """Merge the ranks of several runs of images, of one kind; associative, and the same in any order."""
    (kind,) = {type(part) for part in parts}
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts], axis=1) for f in fields(kind)}
    order = np.lexsort((joined["image"], -joined["activation"]), axis=1)[:, :ranks]  # NaN, where nothing is, comes last
    return kind(**{name: np.take_along_axis(values, order, axis=1) for name, values in joined.items()})


_Flat = tuple[np.ndarray, np.ndarray, np.ndarray]  # filter, image, activation


def _flat(activation: np.ndarray, competing: np.ndarray, first_image: int) -> _Flat:
    at = np.flatnonzero(competing)
    image, filter = np.divmod(at, activation.shape[1])
    return filter, image + first_image, activation.reshape(-1)[at]


def _filled(top: Top) -> _Flat:
    filter, rank = np.nonzero(top.image >= 0)
    return filter, top.image[filter, rank], top.activation[filter, rank]


def _strongest(parts: list[_Flat], filters: int, ranks: int) -> Top:
    filter, image, value = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.lexsort((image, -value, filter))
    filter, image, value = filter[order], image[order], value[order]
    rank = np.arange(len(filter)) - np.searchsorted(filter, filter)  # within its filter
    kept = rank < ranks
    activation, images = np.full((filters, ranks), np.nan, np.float32), np.full((filters, ranks), -1)
    activation[filter[kept], rank[kept]], images[filter[kept], rank[kept]] = value[kept], image[kept]
    return Top(activation, images)


@dataclass(frozen=True)
class Figures:
    """Per-filter figures of a run of images, in a form that adds up: merging is exact in any grouping but order.

    Attributes
    ----------
    count : int
        Images that could be decoded.
    active : ndarray (filter) int64
        Images with a positive activation.
    total : ndarray (filter) float64
        Sum of activations.
    maximum : ndarray (filter) float32
        NaN where no image could be decoded.
    """

    count: int
    active: np.ndarray
    total: np.ndarray
    maximum: np.ndarray


def figures(activation: np.ndarray) -> Figures:
    """Take the figures of a run of images from their activations (image, filter); NaN rows are left out."""
    bad = np.flatnonzero(np.isnan(activation[:, 0]))  # few, if any
    bad = bad[np.isnan(activation[bad]).all(axis=1)]
    known = np.delete(activation, bad, axis=0) if len(bad) else activation
    maximum = known.max(axis=0) if len(known) else np.full(activation.shape[1], np.nan, np.float32)
    return Figures(
        len(known),
        (known > 0).sum(axis=0, dtype=np.uint32).astype(np.int64),
        known.sum(axis=0, dtype=np.float64),
        maximum,
    )


def add_figures(parts: list[Figures]) -> Figures:
    """Add up the figures of several runs of images, in the order given (sums of floats depend on it)."""
    return Figures(
        sum(part.count for part in parts),
        np.sum([part.active for part in parts], axis=0),
        np.sum([part.total for part in parts], axis=0),
        np.fmax.reduce([part.maximum for part in parts]),
    )
