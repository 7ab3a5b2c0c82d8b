"""Totals of every filter over a run of images (how many, how active, how strong), and adding up those of several runs.

Floating-point addition is not associative, so the sums depend on how they are grouped. To give the same bytes whoever
did the work, images are always grouped alike: each block is summed by itself, the blocks of a task are added in their
order, then the tasks in theirs. Neither the number of workers nor the order in which tasks end changes the grouping.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Totals:
    """Totals of every filter over a run of images.

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

    @classmethod
    def of(cls, activation: np.ndarray) -> Totals:
        """Compute the totals of activations (image, filter) float32; images that are all NaN are left out."""
        undecodable = np.flatnonzero(np.isnan(activation[:, 0]))  # few, if any: the other filters only of these
        undecodable = undecodable[np.isnan(activation[undecodable]).all(axis=1)]
        known = np.delete(activation, undecodable, axis=0) if len(undecodable) else activation
        return cls(
            count=len(known),
            active=(known > 0).sum(axis=0, dtype=np.uint32).astype(np.int64),
            total=known.sum(axis=0, dtype=np.float64),
            maximum=known.max(axis=0) if len(known) else np.full(activation.shape[1], np.nan, np.float32),
        )


def add_totals(parts: Sequence[Totals]) -> Totals:
    """Add up the totals of several runs of images, in the order given: another order may change the sums' last bits.

    >>> parts = [Totals.of(np.array([[1.0, 0.0], [np.nan, np.nan]])), Totals.of(np.array([[3.0, 0.0]]))]
    >>> add_totals(parts)
    Totals(count=2, active=array([2, 0]), total=array([4., 0.]), maximum=array([3., 0.]))
    """
    return Totals(
        count=sum(part.count for part in parts),
        active=np.sum([part.active for part in parts], axis=0),
        total=np.sum([part.total for part in parts], axis=0),
        maximum=np.fmax.reduce([part.maximum for part in parts]),
    )
