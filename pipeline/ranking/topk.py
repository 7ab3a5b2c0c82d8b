"""The strongest activations of every filter: ranking a run of images, and merging the ranks of several runs.

The tie rule, which holds wherever activations are ranked or merged: the larger activation comes first; of equal
activations, the one with the smaller image id. It also decides which of several equal activations gets the last rank.
Each image has one activation per filter, and only positive activations rank. Partitioning alone promises no order
among ties, so every function here sorts explicitly.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, TypeVar

import numpy as np

RANKS = 9
PENDING_PER_FILTER = 4  # activations that wait to be merged, on average


@dataclass(frozen=True)
class Top:
    """The strongest activations of every filter, strongest first.

    Attributes
    ----------
    activation : ndarray (filter, rank) float32
        NaN where fewer images activate the filter.
    image : ndarray (filter, rank) int64
        Image ids, -1 where the activation is NaN.
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


Ranked = TypeVar("Ranked", bound=Top)


def top(activation: np.ndarray, first_image: int = 0, ranks: int = RANKS) -> Top:
    """Rank a run of consecutive images.

    Parameters
    ----------
    activation : ndarray (image, filter) float32
        NaN for an image that could not be decoded. NaN and values that are not positive do not rank.
    first_image : int
        Id of the first row.
    ranks : int
        How many activations of a filter to keep.

    Examples
    --------
    >>> top(np.array([[1.0], [3.0], [3.0], [0.0]]), first_image=10, ranks=4).image
    array([[11, 12, 10, -1]])
    """
    competing = activation > 0
    if len(activation) > ranks:
        last = np.partition(np.nan_to_num(activation), -ranks, axis=0)[-ranks]
        competing &= activation >= last  # keeps all that tie for the last rank
    return _strongest([_select(activation, competing, first_image)], activation.shape[1], ranks)


def running_top(
    runs: Iterable[tuple[int, np.ndarray]],
    ranks: int = RANKS,
    before: Top | None = None,
    floor: np.ndarray | None = None,
) -> Top:
    """Rank runs of images one after the other, dropping most activations unsorted.

    Parameters
    ----------
    runs : iterable of (int, ndarray (image, filter) float32)
        The id of each run's first image, ascending, and activations as in ``top``. At least one run.
    ranks : int
        How many activations of a filter to keep.
    before : Top, optional
        The ranks of images with smaller ids, to continue from.
    floor : ndarray (filter) float32, optional
        What the last rank of every filter will at least be when these ranks are merged with others; NaN where that is
        not known. Activations below it are left out.
    """
    runs = iter(runs)
    if before is None:
        first, activation = next(runs)
        before = top(activation, first, ranks)
    strongest, filters = before, len(before.image)
    # What ties with the floor may have a smaller id than those that it ties with.
    below = np.zeros(filters, np.float32) if floor is None else np.nextafter(np.nan_to_num(floor), np.float32(0))
    pending: list[_Entries] = []
    for first, activation in runs:
        # Later images have larger ids: one that only ties with the last rank does not get in.
        pending.append(_select(activation, activation > np.fmax(strongest.activation[:, -1], below), first))
        if sum(len(entries.image) for entries in pending) > max(PENDING_PER_FILTER, ranks // 2) * filters:
            strongest, pending = _strongest([_entries(strongest), *pending], filters, ranks), []
    return _strongest([_entries(strongest), *pending], filters, ranks)


def merge(parts: Sequence[Ranked], ranks: int = RANKS) -> Ranked:
    """Merge the ranks of several runs of images, all of one type; associative, and the same in any order."""
    (kind,) = {type(part) for part in parts}
    joined = {f.name: np.concatenate([getattr(part, f.name) for part in parts], axis=1) for f in fields(kind)}
    order = np.lexsort((joined["image"], -joined["activation"]), axis=1)[:, :ranks]  # NaN, an empty rank, comes last
    return kind(**{name: np.take_along_axis(values, order, axis=1) for name, values in joined.items()})


class _Entries(NamedTuple):
    """Activations (entry) of any filters, in any order."""

    filter: np.ndarray
    image: np.ndarray
    activation: np.ndarray


def _select(activation: np.ndarray, selected: np.ndarray, first_image: int) -> _Entries:
    """Return the selected ones of the activations (image, filter) of a run."""
    positions = np.flatnonzero(selected)
    image, filters = np.divmod(positions, activation.shape[1])
    return _Entries(filters, image + first_image, activation.reshape(-1)[positions])


def _entries(ranks: Top) -> _Entries:
    """Return what ranks hold, without the empty ones."""
    filters, rank = np.nonzero(ranks.image >= 0)
    return _Entries(filters, ranks.image[filters, rank], ranks.activation[filters, rank])


def _strongest(parts: list[_Entries], filters: int, ranks: int) -> Top:
    joined = _Entries(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    order = np.lexsort((joined.image, -joined.activation, joined.filter))
    filter_, image, value = (array[order] for array in joined)
    rank = np.arange(len(order)) - np.searchsorted(filter_, filter_)  # within its filter
    kept = rank < ranks
    activation, images = np.full((filters, ranks), np.nan, np.float32), np.full((filters, ranks), -1)
    activation[filter_[kept], rank[kept]], images[filter_[kept], rank[kept]] = value[kept], image[kept]
    return Top(activation, images)
