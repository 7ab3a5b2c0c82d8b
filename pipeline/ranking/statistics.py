"""Statistics of a layer's filters: how their activations are distributed, over which classes, and what correlates.

Sums are exact: an activation is rounded to a whole number of steps of its filter, and whole numbers that fit into
float64 and int64 have the same sum in any order. So the result is the same bytes however images are grouped, on any
number of workers and threads.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .topk import Top, merge, running_top

HISTOGRAM_BINS = 50
QUANTILE_LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999)
STRONGEST_IMAGES = 100  # of a filter, whose classes are counted
LISTED = 5  # most frequent classes of a filter, and filters that correlate most with it
MAX_MEAN_CLASSES = 2**16  # with a mean activation each: memory grows with classes times filters

PRODUCT_BITS = 21  # of an activation, where products are summed
PRODUCT_ROWS = 2**11  # images whose products are summed in float64: 11 + 2 * PRODUCT_BITS is 53
FLOAT32_EXPONENT = 127  # the largest
PORTION_VALUES = 2**18  # activations that are summed at once: what is computed of them stays in a processor's cache


@dataclass(frozen=True)
class Basis:
    """What the sums of all parts of a layer share.

    Attributes
    ----------
    maximum : ndarray (filter) float64
        Upper end of the histogram; 0 for filters that are never positive.
    bound : ndarray (filter) float64
        The largest magnitude of an activation. It sets the steps in which activations are counted.
    images : int
        Number of images in the whole store. It sets how fine the steps may be.
    classes : int
        Number of classes with a mean activation; 0 where none are wanted.
    """

    maximum: np.ndarray
    bound: np.ndarray
    images: int
    classes: int

    @classmethod
    def of(cls, maximum: np.ndarray, images: int, classes: int) -> Basis:
        """Return a basis for what rank recorded: the strongest activation of every filter (filter)."""
        maximum = np.where(np.isfinite(maximum), maximum, 0).astype(np.float64)
        return cls(np.maximum(maximum, 0), np.abs(maximum), images, classes)

    @property
    def sum_bits(self) -> int:
        """Bits of an activation such that the sum over all images stays below 2**53."""
        return 52 - self.images.bit_length()

    @property
    def product_bits(self) -> int:
        """Bits of an activation such that a sum of products of deviations from the mean stays below 2**63."""
        return min(PRODUCT_BITS, (63 - self.images.bit_length()) // 2)

    def steps(self, bits: int) -> np.ndarray:
        """Return the size of a step (filter), a power of two, such that the bound takes that many bits."""
        steps: np.ndarray = np.ldexp(1.0, np.frexp(self.bound)[1] - bits)
        return steps

    def scale(self, bits: int) -> np.ndarray:
        """Return what turns activations into numbers of steps (filter), as float32 where that loses nothing.

        It is a power of two, so the product with a float32 is exact, and so is rounding it: a float32 beyond 2**24 is
        whole. Only for a bound below 2**-90 are there too many steps in 1 for float32.
        """
        scale = 1 / self.steps(bits)
        return scale.astype(np.float32) if (scale < 2.0**FLOAT32_EXPONENT).all() else scale


class Sums:
    """Sums over the images of a layer, the same in any grouping and order.

    Parameters
    ----------
    basis : Basis
    floor : ndarray (filter) float32, optional
        See ``running_top``: the weakest of STRONGEST_IMAGES of other images that are added later.

    Attributes
    ----------
    count : int
        Images that could be decoded.
    lowest : ndarray (filter) float64
        The smallest activation, or 0. Where it is below −bound, the sums are invalid: see ``wider_basis``.
    histogram : ndarray (filter, bin) int64
    total : ndarray (filter) int64, product : ndarray (filter, filter) int64
        Sums of activations, and of products of two filters' activations, in steps of ``Basis.product_bits``.
    class_total : ndarray (class, filter) float64, class_count : ndarray (class) int64
        Sums of activations, in steps of ``Basis.sum_bits``, and images of every class.
    top : Top
        The strongest images of every filter (filter, STRONGEST_IMAGES).
    """

    def __init__(self, basis: Basis, floor: np.ndarray | None = None) -> None:
        filters = len(basis.maximum)
        self.basis = basis
        self._floor = floor
        self.count = 0
        self.lowest = np.zeros(filters)
        self.histogram = np.zeros((filters, HISTOGRAM_BINS), np.int64)
        self.total = np.zeros(filters, np.int64)
        self.product = np.zeros((filters, filters), np.int64)
        self.class_total = np.zeros((basis.classes, filters))
        self.class_count = np.zeros(basis.classes, np.int64)
        ranks = (filters, STRONGEST_IMAGES)
        self.top = Top(np.full(ranks, np.nan, np.float32), np.full(ranks, -1))

    def add_images(self, activation: np.ndarray, label: np.ndarray, first_image: int) -> None:
        """Add a run of consecutive images.

        Parameters
        ----------
        activation : ndarray (image, filter) float32
            NaN for an image that could not be decoded. A value of another image that is not finite, which only a
            broken network computes, counts as zero.
        label : ndarray (image) int
            Class index, -1 where it is unknown.
        first_image : int
            Id of the first row, larger than all that were added before.
        """
        work = _Work(self.basis)
        portions = range(0, len(activation), work.rows)
        runs = ((first_image + start, activation[start : start + work.rows]) for start in portions)
        before = self.top if self.count or self._floor is not None else None
        self.top = running_top(runs, STRONGEST_IMAGES, before, self._floor)
        undecodable = np.isnan(activation[:, 0])  # few, if any: the other filters only of these
        undecodable[undecodable] = np.isnan(activation[undecodable]).all(axis=1)
        known = np.flatnonzero(~undecodable)
        self.count += len(known)
        if self.basis.classes:  # a portion then has few classes, and the images of each one after the other
            known = known[np.argsort(label[known], kind="stable")]
        for start in range(0, len(known), work.rows):
            rows = known[start : start + work.rows]
            self._add_portion(work.take(activation, rows), label[rows], work)

    def _add_portion(self, activation: np.ndarray, label: np.ndarray, work: _Work) -> None:
        """Add images, PRODUCT_ROWS at most, of sorted labels (image); their activations (image, filter) are changed."""
        lowest, highest = activation.min(axis=0), activation.max(axis=0)
        if not np.isfinite([lowest, highest]).all():
            np.nan_to_num(activation, copy=False, posinf=0, neginf=0)
            lowest, highest = activation.min(axis=0), activation.max(axis=0)
        self.lowest = np.minimum(self.lowest, lowest)
        counts = np.bincount(work.find_bins(activation), minlength=self.histogram.size)
        self.histogram += counts.reshape(self.histogram.shape)
        if (lowest < -self.basis.bound).any() or (highest > self.basis.bound).any():
            np.clip(activation, -self.basis.bound, self.basis.bound, out=activation, casting="same_kind")
        whole = work.count_steps(activation, work.product_scale)
        self.total += whole.sum(axis=0).astype(np.int64)
        self.product += (whole.T @ whole).astype(np.int64)
        if self.basis.classes:
            self._add_to_classes(work.count_steps(activation, work.sum_scale), label)

    def _add_to_classes(self, whole: np.ndarray, label: np.ndarray) -> None:
        """Add images, in the order of their labels (image), to their classes."""
        classes, starts, counts = np.unique(label, return_index=True, return_counts=True)
        for class_, start, count in zip(classes.tolist(), starts.tolist(), counts.tolist(), strict=True):
            if class_ >= 0:
                self.class_total[class_] += whole[start : start + count].sum(axis=0)
                self.class_count[class_] += count

    def add(self, other: Sums) -> None:
        """Add the sums of other images."""
        self.lowest = np.minimum(self.lowest, other.lowest)
        for name in ("count", "histogram", "total", "product", "class_total", "class_count"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.top = merge([self.top, other.top], STRONGEST_IMAGES)

    def wider_basis(self) -> Basis | None:
        """If an activation was below −bound the sums are invalid: return a wider basis to start over with, else None.

        Rank records no minimum, and layers that end in a rectifier do not need one.
        """
        if (self.lowest >= -self.basis.bound).all():
            return None
        return replace(self.basis, bound=np.maximum(self.basis.bound, -self.lowest))


class _Work:
    """Computes what is summed, in memory that is used again: taking new memory each time costs more than computing.

    Attributes
    ----------
    rows : int
        How many images there is memory for.
    product_scale, sum_scale : ndarray (filter)
        Steps in 1, for sums of products and of classes.
    """

    def __init__(self, basis: Basis) -> None:
        filters = len(basis.maximum)
        self.rows = max(PRODUCT_ROWS // 4, min(PRODUCT_ROWS, PORTION_VALUES // filters))
        self.product_scale, self.sum_scale = basis.scale(basis.product_bits), basis.scale(basis.sum_bits)
        self._width = np.where(basis.maximum > 0, basis.maximum, np.inf)
        self._first_bin = HISTOGRAM_BINS * np.arange(filters)
        shape = self.rows, filters
        self._taken, self._scaled = np.empty(shape, np.float32), np.empty(shape, np.float32)
        self._exact, self._bins = np.empty(shape), np.empty(shape, np.intp)

    def take(self, activation: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return some rows (image) of activations (image, filter)."""
        return np.take(activation, rows, axis=0, out=self._taken[: len(rows)], mode="clip")  # "raise" copies twice

    def find_bins(self, activation: np.ndarray) -> np.ndarray:
        """Return the bins of activations (image, filter) in one row, numbered through all filters."""
        position, bins = self._exact[: len(activation)], self._bins[: len(activation)]
        # 50·a/b of float32 a, b is a whole number or at least 2⁻²⁴ away from one: float64 puts it into the right bin.
        np.copyto(position, activation)
        position *= HISTOGRAM_BINS
        position /= self._width
        np.clip(position, 0, HISTOGRAM_BINS - 1, out=position)
        np.copyto(bins, position, casting="unsafe")
        bins += self._first_bin
        return bins.ravel()

    def count_steps(self, activation: np.ndarray, scale: np.ndarray) -> np.ndarray:
        """Return activations (image, filter) in whole numbers of steps, as float64."""
        whole = self._exact[: len(activation)]
        if scale.dtype == np.float32:
            scaled = np.multiply(activation, scale, out=self._scaled[: len(activation)])
            np.copyto(whole, np.rint(scaled, out=scaled))
        else:
            np.rint(np.multiply(activation, scale, out=whole), out=whole)
        return whole


def count_classes(label: np.ndarray, named: int) -> int:
    """Return how many classes have a mean: all that are named or, if more, up to the largest label.

    None without labels, nor where there are more than MAX_MEAN_CLASSES.

    >>> [count_classes(np.array(label), named) for label, named in (([2, -1, 0], 0), ([2, -1, 0], 10), ([-1], 10))]
    [3, 10, 0]
    """
    largest = int(label.max(initial=-1))
    classes = max(named, largest + 1) if largest >= 0 else 0
    return classes if classes <= MAX_MEAN_CLASSES else 0


def summarise(sums: Sums, label: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays that the store keeps, by name, from the sums over all images.

    Parameters
    ----------
    label : ndarray (filter, image) int
        Classes of the images of ``sums.top``; -1 where the class is unknown or there is no image.
    """
    edge = sums.basis.maximum[:, None] * np.arange(HISTOGRAM_BINS + 1) / HISTOGRAM_BINS
    arrays = {
        "histogram": sums.histogram,
        "bin_edge": edge,
        "activation_quantile": quantiles(sums.histogram, edge),
        **_strongest_classes(label, sums.class_count),
        **_strongest_correlations(sums),
    }
    return {**arrays, "class_mean": _class_mean(sums)} if sums.basis.classes else arrays


def quantiles(histogram: np.ndarray, edge: np.ndarray, levels: tuple[float, ...] = QUANTILE_LEVELS) -> np.ndarray:
    """Estimate quantiles (filter, level) from histograms (filter, bin) with edges (filter, edge); NaN without images.

    Activations are assumed to be spread evenly within their bin, and negative ones to be zero. So the error is at most
    a bin's width.

    >>> quantiles(np.array([[8, 2]]), np.array([[0.0, 1.0, 2.0]]), (0.4, 0.8, 0.9))
    array([[0.5, 1. , 1.5]])
    """
    cumulative = np.cumsum(histogram, axis=1)
    wanted = cumulative[:, -1:] * np.array(levels)
    bins = (cumulative[:, None, :] < wanted[:, :, None]).sum(axis=2)
    inside, before = (np.take_along_axis(counts, bins, axis=1) for counts in (histogram, cumulative - histogram))
    low, high = np.take_along_axis(edge, bins, axis=1), np.take_along_axis(edge, bins + 1, axis=1)
    fraction = np.divide(wanted - before, inside, out=np.full(wanted.shape, np.nan), where=inside > 0)
    quantile: np.ndarray = low + fraction * (high - low)
    return quantile


def _class_mean(sums: Sums) -> np.ndarray:
    """Compute the mean activations (filter, class); NaN for a class without images."""
    total = sums.class_total * sums.basis.steps(sums.basis.sum_bits)
    count = sums.class_count[:, None]
    mean: np.ndarray = np.divide(total, count, out=np.full(total.shape, np.nan), where=count > 0)
    return mean.T


def _strongest_classes(label: np.ndarray, images: np.ndarray) -> dict[str, np.ndarray]:
    """Compute the entropy in bits, the most frequent classes of labels (filter, image), and how preferred each is.

    Parameters
    ----------
    label : ndarray (filter, image) int
        In the order of the activations, the strongest first; -1 is not counted. Of classes that are equally frequent,
        that of the stronger image comes first.
    images : ndarray (class) int
        Images of every class in the dataset; empty where they were not counted.
    """
    filters = len(label)
    entropy = np.full(filters, np.nan)
    classes, counts = np.full((filters, LISTED), -1), np.zeros((filters, LISTED), np.int64)
    lift = np.full((filters, LISTED), np.nan)
    for f in range(filters):
        class_, first, count = np.unique(label[f][label[f] >= 0], return_index=True, return_counts=True)
        if len(class_):
            fraction = count / count.sum()
            entropy[f] = -(fraction * np.log2(fraction)).sum() + 0.0  # never -0
            order = np.lexsort((first, -count))[:LISTED]
            classes[f, : len(order)], counts[f, : len(order)] = class_[order], count[order]
            if len(images):
                lift[f, : len(order)] = fraction[order] / (images[class_[order]] / images.sum())
    return {"class_entropy": entropy, "top_class": classes, "top_class_count": counts, "top_class_lift": lift}


def _strongest_correlations(sums: Sums) -> dict[str, np.ndarray]:
    """Return the filters that correlate most with every filter; of equal correlations, in float32, by their numbers."""
    correlation = correlate(sums).astype(np.float32)
    np.fill_diagonal(correlation, np.nan)
    order = np.argsort(-correlation, axis=1, kind="stable")[:, :LISTED]  # NaN last
    strongest = np.take_along_axis(correlation, order, axis=1)
    missing = ((0, 0), (0, LISTED - strongest.shape[1]))
    return {
        "coactive": np.pad(np.where(np.isnan(strongest), -1, order), missing, constant_values=-1),
        "correlation": np.pad(strongest, missing, constant_values=np.nan),
    }


def correlate(sums: Sums) -> np.ndarray:
    """Compute Pearson's correlation (filter, filter) float64 of activations; NaN where a filter is constant.

    Activations are rounded to steps of at most 2**-20 of the bound (for up to two million images; 2**-18 for thirty
    million). A filter whose activations differ by less than a step may count as constant.
    """
    count = max(sums.count, 1)
    mean = np.rint(sums.total / count).astype(np.int64)
    rest = (sums.total - count * mean).astype(np.float64)
    # Deviations from the rounded mean, in whole numbers. Terms may overflow on the way: int64 wraps around, and the
    # result is right, as it fits into 63 bits.
    shift = np.multiply.outer(mean, sums.total)
    deviation = sums.product - shift - shift.T + count * np.multiply.outer(mean, mean)
    covariance = deviation - np.multiply.outer(rest, rest) / count
    spread = np.sqrt(covariance.diagonal())
    scale = np.multiply.outer(spread, spread)
    undefined = np.full(scale.shape, np.nan)
    correlation: np.ndarray = np.divide(covariance, scale, out=undefined, where=scale > 0)
    return correlation.clip(-1, 1)
