"""The statistics of a layer's filters: how activations are distributed, over which classes, which filters go together.

Pure numpy. Sums are exact: an activation is a whole number of steps of its filter, and whole numbers that fit into
float64 and int64 add up to the same in any order. So the result is the same bytes however images are grouped, on any
number of workers and threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .ranking import Top, merge, top

BINS = 50
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)  # of the quantiles
IMAGES = 100  # strongest ones of a filter, whose classes are counted
PLACES = 5  # of the most frequent classes, and of the filters that correlate most
MAX_CLASSES = 2**16  # whose means are kept: memory grows with classes times filters

ROWS = 2**11  # images whose products are summed in float64: 11 + 2 * PRODUCT_BITS is 53
PRODUCT_BITS = 21


@dataclass(frozen=True)
class Basis:
    """What the sums of all parts of a layer share.

    Attributes
    ----------
    maximum : ndarray (filter) float64
        Upper end of the histogram; 0 for filters that are never positive.
    bound : ndarray (filter) float64
        No activation is larger in magnitude: it sets the steps in which activations are counted.
    images : int
        Of the whole store; it sets how fine the steps may be.
    classes : int
        0 where no means of classes are wanted.
    """

    maximum: np.ndarray
    bound: np.ndarray
    images: int
    classes: int

    @classmethod
    def of(cls, maximum: np.ndarray, images: int, classes: int) -> Basis:
        """Make a basis of what rank recorded: a filter's strongest activation (filter)."""
        maximum = np.where(np.isfinite(maximum), maximum, 0).astype(np.float64)
        return cls(np.maximum(maximum, 0), np.abs(maximum), images, classes)

    @property
    def sum_bits(self) -> int:
        """Of an activation, so that the sum over all images stays below 2**53."""
        return 52 - self.images.bit_length()

    @property
    def product_bits(self) -> int:
        """Of an activation, so that a sum of products of deviations from the mean, too, stays below 2**63."""
        return min(PRODUCT_BITS, (63 - self.images.bit_length()) // 2)

    def steps(self, bits: int) -> np.ndarray:
        """Give the size of a step (filter), a power of two, such that the bound has so many bits."""
        return np.ldexp(1.0, np.frexp(self.bound)[1] - bits)


class Sums:
    """What is added up over the images of a layer; in any grouping and order, it comes to the same.

    Attributes
    ----------
    count : int
        Images that could be decoded.
    lowest : ndarray (filter) float64
        The smallest activation. Where it is below minus the bound, the sums are worth nothing: see ``widened``.
    histogram : ndarray (filter, bin) int64
    total : ndarray (filter) int64, product : ndarray (filter, filter) int64
        Sums of activations, and of products of two filters' activations, in steps of ``Basis.product_bits``.
    class_total : ndarray (class, filter) float64, class_count : ndarray (class) int64
        Sums of activations, in steps of ``Basis.sum_bits``, and images of every class.
    top : Top
        The strongest images of every filter (filter, IMAGES).
    """

    def __init__(self, basis: Basis) -> None:
        filters = len(basis.maximum)
        self.basis = basis
        self.count = 0
        self.lowest = np.zeros(filters)
        self.histogram = np.zeros((filters, BINS), np.int64)
        self.total = np.zeros(filters, np.int64)
        self.product = np.zeros((filters, filters), np.int64)
        self.class_total = np.zeros((basis.classes, filters))
        self.class_count = np.zeros(basis.classes, np.int64)
        self.top = Top(np.full((filters, IMAGES), np.nan, np.float32), np.full((filters, IMAGES), -1))

    def take(self, activation: np.ndarray, label: np.ndarray, first_image: int) -> None:
        """Add a run of consecutive images.

        Parameters
        ----------
        activation : ndarray (image, filter) float32
            NaN for an image that could not be decoded. A value that is not finite in another image, which only a
            broken network gives, counts as zero.
        label : ndarray (image) int
            Class index, -1 where it is unknown.
        first_image : int
            Id of the first row.
        """
        tops = [self.top]
        for start in range(0, len(activation), ROWS):
            rows = slice(start, start + ROWS)
            tops.append(top(activation[rows], first_image + start, IMAGES))
            known = ~np.isnan(activation[rows]).all(axis=1)
            finite = np.nan_to_num(activation[rows][known], posinf=0, neginf=0)
            self._take(finite.astype(np.float64), label[rows][known])
        self.top = merge(tops, IMAGES)

    def _take(self, activation: np.ndarray, label: np.ndarray) -> None:
        self.count += len(activation)
        self.lowest = np.minimum(self.lowest, activation.min(axis=0, initial=0))
        self.histogram += _histogram(activation, self.basis.maximum)
        activation = np.clip(activation, -self.basis.bound, self.basis.bound)
        whole = np.rint(activation / self.basis.steps(self.basis.product_bits))
        self.total += whole.sum(axis=0).astype(np.int64)
        self.product += (whole.T @ whole).astype(np.int64)
        if self.basis.classes:
            self._take_classes(np.rint(activation / self.basis.steps(self.basis.sum_bits)), label)

    def _take_classes(self, whole: np.ndarray, label: np.ndarray) -> None:
        order = np.argsort(label, kind="stable")
        order = order[label[order] >= 0]
        found, starts, counts = np.unique(label[order], return_index=True, return_counts=True)
        if len(found):
            self.class_total[found] += np.add.reduceat(whole[order], starts, axis=0)
            self.class_count[found] += counts

    def add(self, other: Sums) -> None:
        """Add the sums of other images."""
        self.lowest = np.minimum(self.lowest, other.lowest)
        for name in ("count", "histogram", "total", "product", "class_total", "class_count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.top = merge([self.top, other.top], IMAGES)

    def widened(self) -> Basis | None:
        """Give the basis to begin again with where an activation was below minus the bound; else nothing.

        Rank records no minimum, and where a rectifier comes last there is no need of one.
        """
        if (self.lowest >= -self.basis.bound).all():
            return None
        return replace(self.basis, bound=np.maximum(self.basis.bound, -self.lowest))


def _histogram(activation: np.ndarray, maximum: np.ndarray) -> np.ndarray:
    """Count activations (image, filter) float64 in bins (filter, bin) from 0 to a maximum (filter)."""
    # A float32 times 50 over a float32 is nearer to no whole number than 2**-24, unless it is one: float64 is exact.
    place = activation * BINS / np.where(maximum > 0, maximum, np.inf)
    bins = np.clip(place, 0, BINS - 1).astype(np.intp)
    filters = len(maximum)
    counts = np.bincount((bins + BINS * np.arange(filters)).ravel(), minlength=filters * BINS)
    return counts.reshape(filters, BINS)


def count_classes(label: np.ndarray, names: int) -> int:
    """Give how many classes have means: those named, or up to the largest label; none without labels, or if too many.

    >>> [count_classes(np.array(label), names) for label, names in (([2, -1, 0], 0), ([2, -1, 0], 10), ([-1], 10))]
    [3, 10, 0]
    """
    largest = int(label.max(initial=-1))
    classes = max(names, largest + 1) if largest >= 0 else 0
    return classes if classes <= MAX_CLASSES else 0


def summarise(sums: Sums, label: np.ndarray) -> dict[str, np.ndarray]:
    """Turn the sums over all images into the arrays that the store keeps, by name.

    Parameters
    ----------
    label : ndarray (filter, image) int
        Classes of the images of ``sums.top``; -1 where it is unknown or there is no image.
    """
    edge = sums.basis.maximum[:, None] * np.arange(BINS + 1) / BINS
    found = {
        "histogram": sums.histogram,
        "bin_edge": edge,
        "level": np.array(LEVELS),
        "quantile": quantiles(sums.histogram, edge),
        **_strongest_classes(label),
        **_correlations(sums),
    }
    return {**found, "class_mean": _class_mean(sums)} if sums.basis.classes else found


def quantiles(histogram: np.ndarray, edge: np.ndarray, levels: tuple[float, ...] = LEVELS) -> np.ndarray:
    """Read quantiles (filter, level) off histograms (filter, bin) with edges (filter, edge), NaN without images.

    Activations are taken as spread evenly within their bin, those below zero as zero: so it is off by a bin's width at
    most.

    >>> quantiles(np.array([[8, 2]]), np.array([[0.0, 1.0, 2.0]]), (0.4, 0.8, 0.9))
    array([[0.5, 1. , 1.5]])
    """
    passed = np.cumsum(histogram, axis=1)
    wanted = passed[:, -1:] * np.array(levels)
    bins = (passed[:, None, :] < wanted[:, :, None]).sum(axis=2)
    inside, before = (np.take_along_axis(values, bins, axis=1) for values in (histogram, passed - histogram))
    low, high = np.take_along_axis(edge, bins, axis=1), np.take_along_axis(edge, bins + 1, axis=1)
    share = np.divide(wanted - before, inside, out=np.full(wanted.shape, np.nan), where=inside > 0)
    return low + share * (high - low)


def _class_mean(sums: Sums) -> np.ndarray:
    total = sums.class_total * sums.basis.steps(sums.basis.sum_bits)
    count = sums.class_count[:, None]
    return np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0).T


def _strongest_classes(label: np.ndarray) -> Mapping[str, np.ndarray]:
    """Give the entropy in bits and the most frequent classes of labels (filter, image), -1 not counted."""
    filters = len(label)
    entropy = np.full(filters, np.nan)
    classes, counts = np.full((filters, PLACES), -1), np.zeros((filters, PLACES), np.int64)
    for f in range(filters):
        found, count = np.unique(label[f][label[f] >= 0], return_counts=True)
        if len(found):
            share = count / count.sum()
            entropy[f] = -(share * np.log2(share)).sum() + 0.0  # never -0
            order = np.argsort(-count, kind="stable")[:PLACES]
            classes[f, : len(order)], counts[f, : len(order)] = found[order], count[order]
    return {"class_entropy": entropy, "top_class": classes, "top_class_count": counts}


def _correlations(sums: Sums) -> Mapping[str, np.ndarray]:
    """Give for every filter those that correlate most with it; equal ones, as float32, by their numbers."""
    correlation = correlate(sums).astype(np.float32)
    np.fill_diagonal(correlation, np.nan)
    order = np.argsort(-correlation, axis=1, kind="stable")[:, :PLACES]  # NaN last
    strongest = np.take_along_axis(correlation, order, axis=1)
    missing = ((0, 0), (0, PLACES - strongest.shape[1]))
    return {
        "coactive": np.pad(np.where(np.isnan(strongest), -1, order), missing, constant_values=-1),
        "correlation": np.pad(strongest, missing, constant_values=np.nan),
    }


def correlate(sums: Sums) -> np.ndarray:
    """Give Pearson's correlation (filter, filter) float64 of activations; NaN where a filter is constant.

    Activations are rounded to steps of at most 2**-20 of the bound (for up to two million images; 2**-18 for thirty
    million); differences below a step may count as none.
    """
    count = max(sums.count, 1)
    middle = np.rint(sums.total / count).astype(np.int64)
    rest = (sums.total - count * middle).astype(np.float64)
    # About the middle, in whole numbers: what overflows on the way comes back, as the result fits into 63 bits.
    shift = np.multiply.outer(middle, sums.total)
    deviation = sums.product - shift - shift.T + count * np.multiply.outer(middle, middle)
    covariance = deviation - np.multiply.outer(rest, rest) / count
    spread = np.sqrt(covariance.diagonal())
    scale = np.multiply.outer(spread, spread)
    undefined = np.full(scale.shape, np.nan)
    return np.clip(np.divide(covariance, scale, out=undefined, where=scale > 0), -1, 1)
