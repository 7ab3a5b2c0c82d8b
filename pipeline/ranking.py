"""The strongest activations of every filter: top-k of a block, and merging two of them.

Pure numpy, with one tie rule: activation descending, then image id ascending. Only positive values rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RANKS = 9


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
    values = np.where(activation > 0, activation, np.nan).T
    images = np.broadcast_to(np.arange(first_image, first_image + len(activation)), values.shape)
    return _strongest(values, images, ranks)


def merge(tops: list[Top], ranks: int = RANKS) -> Top:
    """Merge the ranks of several runs of images; associative, and the same in any order."""
    values = np.concatenate([part.activation for part in tops], axis=1)
    images = np.concatenate([part.image for part in tops], axis=1)
    return _strongest(values, images, ranks)


def _strongest(values: np.ndarray, images: np.ndarray, ranks: int) -> Top:
    order = np.lexsort((images, -values), axis=1)[:, :ranks]  # NaN sorts last
    values = np.take_along_axis(values, order, axis=1)
    images = np.where(np.isnan(values), -1, np.take_along_axis(images, order, axis=1))
    missing = ((0, 0), (0, max(0, ranks - values.shape[1])))
    return Top(
        np.pad(values, missing, constant_values=np.nan).astype(np.float32),
        np.pad(images, missing, constant_values=-1).astype(np.int64),
    )


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
    known = activation[~np.isnan(activation).all(axis=1)]
    maximum = known.max(axis=0) if len(known) else np.full(activation.shape[1], np.nan, np.float32)
    return Figures(len(known), (known > 0).sum(axis=0), known.sum(axis=0, dtype=np.float64), maximum)


def add_figures(parts: list[Figures]) -> Figures:
    """Add up the figures of several runs of images, in the order given (sums of floats depend on it)."""
    return Figures(
        sum(part.count for part in parts),
        np.sum([part.active for part in parts], axis=0),
        np.sum([part.total for part in parts], axis=0),
        np.fmax.reduce([part.maximum for part in parts]),
    )
