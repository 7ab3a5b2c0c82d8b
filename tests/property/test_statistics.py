"""Statistics against slow sums in exact arithmetic, over images cut, added and ordered in any way."""

import itertools
import math
import pickle
import tracemalloc
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topnine.pipeline.ranking.statistics import (
    HISTOGRAM_BINS,
    LISTED,
    PRODUCT_ROWS,
    QUANTILE_LEVELS,
    STRONGEST_IMAGES,
    Basis,
    Sums,
    count_classes,
    summarise,
)
from topnine.pipeline.ranking.totals import Totals

values = st.sampled_from([0.0, 0.0, 1e-3, 0.1, 1.0, 1.5, 2.0, 3.0, 1000.0])
signed = st.sampled_from([0.0, -5.0, -0.25, 0.1, 1.0, 2.0])
floats = st.floats(-4, 4, width=32)
shapes = st.tuples(st.integers(1, 130), st.integers(1, 8))
matrices = st.one_of(
    *(shapes.flatmap(lambda shape, of=of: arrays.arrays(np.float32, shape, elements=of)) for of in (values, signed)),
    shapes.flatmap(lambda shape: arrays.arrays(np.float32, shape, elements=floats, fill=st.just(0.0))),
)


@st.composite
def layers(draw):
    """Activations (image, filter) with dead and constant filters and undecodable images, and labels (image)."""
    activation = draw(matrices)
    for f, value in draw(st.dictionaries(st.integers(0, 7), st.sampled_from([0.0, -1.0, 0.3]), max_size=3)).items():
        activation[:, f : f + 1] = value
    for source in draw(st.lists(st.integers(0, 7), max_size=2)):
        activation[:, -1:] = activation[:, source : source + 1] if source < activation.shape[1] else activation[:, -1:]
    activation[[row for row in draw(st.lists(st.integers(0, 129))) if row < len(activation)]] = np.nan
    label = draw(arrays.arrays(np.int32, len(activation), elements=st.integers(-1, draw(st.integers(-1, 6)))))
    return activation, label


def summarised(activation, label, cuts=(), random=None, names=0):
    """Sum up the images in parts that are cut and ordered in any way, as the stage does."""
    maximum = Totals.of(activation).maximum
    basis = Basis.of(maximum, len(activation), count_classes(label, names))
    edges = sorted({0, len(activation), *(c % len(activation) for c in cuts)})
    parts = list(itertools.pairwise(edges))
    if random:
        random.shuffle(parts)
    passes = 0
    while basis:
        passes += 1
        sums = Sums(basis)
        for a, b in parts:
            part = Sums(basis)
            part.add_images(activation[a:b], label[a:b], a)
            sums.add(pickle.loads(pickle.dumps(part)))
        basis = sums.wider_basis()
    assert passes <= (2 if np.nanmin(activation, initial=0) < 0 else 1)
    return summarise(sums, np.where(sums.top.image >= 0, label[sums.top.image], -1))


def slow_histogram(column):
    highest = max(column, default=0)
    counts = [0] * HISTOGRAM_BINS
    for value in column:
        position = Fraction(value) * HISTOGRAM_BINS / Fraction(highest) if value > 0 else 0
        counts[min(math.floor(position), HISTOGRAM_BINS - 1)] += 1
    return counts


def slow_classes(column, labels):
    """Entropy, classes and counts of the hundred strongest, from a full sort; column has every image, NaN included."""
    strongest = sorted((-value, image) for image, value in enumerate(column) if value > 0)[:STRONGEST_IMAGES]
    counts = Counter(labels[image] for _, image in strongest if labels[image] >= 0)
    total = sum(counts.values())
    entropy = math.fsum(n / total * math.log2(total / n) for n in counts.values()) if counts else math.nan
    frequent = counts.most_common(LISTED)  # which keeps the order of the first, the strongest images where counts tie
    return entropy, frequent + [(-1, 0)] * (LISTED - len(frequent))


def slow_lift(count, column, labels, class_):
    """How much more frequent a class is among the hundred strongest than among all images that were decoded."""
    if class_ < 0:
        return math.nan
    strongest = sorted((-value, image) for image, value in enumerate(column) if value > 0)[:STRONGEST_IMAGES]
    labelled = sum(labels[image] >= 0 for _, image in strongest)
    decoded = [label for value, label in zip(column, labels, strict=True) if not math.isnan(value) and label >= 0]
    return (count / labelled) / (decoded.count(class_) / len(decoded))


def slow_correlation(first, second):
    count = len(first)
    if count == 0 or len(set(first)) == 1 or len(set(second)) == 1:
        return math.nan
    one, two = (math.fsum(column) / count for column in (first, second))
    products = math.fsum((a - one) * (b - two) for a, b in zip(first, second, strict=True))
    return products / math.sqrt(math.fsum((a - one) ** 2 for a in first) * math.fsum((b - two) ** 2 for b in second))


@settings(max_examples=150, deadline=None)
@given(layers(), st.lists(st.integers(0, 130)), st.randoms())
def test_every_statistic_is_what_a_slow_sum_gives(layer, cuts, random):
    activation, label = layer
    summary = summarised(activation, label, cuts, random)
    known = ~np.isnan(activation[:, 0])
    for f, column in enumerate(activation.T.astype(float).tolist()):
        live = [value for value in column if not math.isnan(value)]
        assert summary["histogram"][f].tolist() == slow_histogram(live)
        highest = max(0, max(live, default=0))
        assert np.allclose(summary["bin_edge"][f], np.linspace(0, highest, HISTOGRAM_BINS + 1), rtol=1e-6)
        if live:
            for level, quantile in zip(QUANTILE_LEVELS, summary["activation_quantile"][f], strict=True):
                true = np.quantile(np.maximum(live, 0), level, method="inverted_cdf")
                assert abs(quantile - true) <= highest / HISTOGRAM_BINS * (1 + 1e-6)
        else:
            assert np.isnan(summary["activation_quantile"][f]).all()
        entropy, frequent = slow_classes(column, label.tolist())
        assert np.isclose(summary["class_entropy"][f], entropy, atol=1e-12, equal_nan=True)
        pairs = zip(summary["top_class"][f].tolist(), summary["top_class_count"][f].tolist(), strict=True)
        assert list(pairs) == frequent
        lifts = [slow_lift(count, column, label.tolist(), class_) for class_, count in frequent]
        assert np.allclose(summary["top_class_lift"][f], lifts, equal_nan=True)
    assert ("class_mean" in summary) == bool((label >= 0).any())
    for c in range(label.max(initial=-1) + 1):
        rows = activation[known & (label == c)].astype(float)
        wanted = rows.mean(axis=0) if len(rows) else np.full(activation.shape[1], np.nan)
        assert np.allclose(summary["class_mean"][:, c], wanted, rtol=1e-6, atol=1e-9, equal_nan=True)


@settings(max_examples=100, deadline=None)
@given(layers())
def test_the_filters_that_correlate_most_are_those_of_two_slow_passes(layer):
    activation, label = layer
    summary = summarised(activation, label)
    columns = activation[~np.isnan(activation[:, 0])].T.astype(float).tolist()
    for f, column in enumerate(columns):
        slow = {g: slow_correlation(column, other) for g, other in enumerate(columns) if g != f}
        defined = sorted((value for value in slow.values() if not math.isnan(value)), reverse=True)[:LISTED]
        others, correlation = summary["coactive"][f].tolist(), summary["correlation"][f].tolist()
        assert others[len(defined) :] == [-1] * (LISTED - len(defined))
        assert all(math.isnan(value) for value in correlation[len(defined) :])
        assert np.allclose(correlation[: len(defined)], defined, atol=2e-5)
        assert np.allclose([slow[other] for other in others[: len(defined)]], defined, atol=2e-5)
        for (one, other), (a, b) in zip(itertools.pairwise(others), itertools.pairwise(correlation), strict=True):
            assert a > b or (a == b and one < other) or math.isnan(b)


@settings(deadline=None)
@given(layers(), st.lists(st.integers(0, 130)), st.randoms(), st.sampled_from([0, 9]))
def test_the_same_bytes_however_images_are_grouped_and_ordered(layer, cuts, random, names):
    whole, parts = summarised(*layer, names=names), summarised(*layer, cuts, random, names=names)
    assert whole.keys() == parts.keys()
    for name, array in whole.items():
        assert array.tobytes() == parts[name].tobytes(), name


def test_ties_among_correlations_go_to_the_smaller_number():
    random = np.random.default_rng(0)
    one, other = random.random((2, 50)).astype(np.float32)
    summary = summarised(np.stack([other, one, one, other, one, one], axis=1), np.full(50, -1))
    assert summary["coactive"][4].tolist()[:3] == [1, 2, 5]
    assert summary["correlation"][4].tolist()[:3] == [1, 1, 1]


@pytest.mark.parametrize("images", [1, 1000, 2**20, 2**21 - 1, 2**21, 2**24 - 1, 2**30])
def test_whole_numbers_fit_into_what_they_are_summed_in(images):
    basis = Basis.of(np.ones(1), images, 1)
    assert PRODUCT_ROWS * 4**basis.product_bits <= 2**53  # a product of matrices in float64
    assert images * (4**basis.product_bits + 1) < 2**63  # int64, with the mean rounded to a whole number
    assert images * 2**basis.sum_bits < 2**53  # float64


@pytest.mark.parametrize("exponent", [-140, -126, -100, -91, -60, 0, 60, 127])
def test_activations_of_any_size_are_counted_in_whole_steps(exponent):
    """Float32 counts the steps where it can, and float64 elsewhere: the same sums, scaled."""
    numbers = np.random.default_rng(0).integers(0, 2**8, (300, 3))
    activation, label = np.ldexp(numbers, exponent - 8).astype(np.float32), np.arange(300) % 4
    sums = Sums(Basis.of(activation.max(axis=0), 2**21 - 1, 4))
    sums.add_images(activation, label, 0)
    steps = sums.basis.steps(sums.basis.product_bits)
    assert (sums.total * steps == activation.sum(axis=0, dtype=np.float64)).all()
    exact = np.stack([activation[label == c].sum(axis=0, dtype=np.float64) for c in range(4)])
    assert (sums.class_total * sums.basis.steps(sums.basis.sum_bits) == exact).all()
    reference = numbers.T @ numbers
    assert np.array_equal(sums.product / sums.product[0, 0], reference / reference[0, 0])


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_over_as_many_images_as_imagenet_has_do_not_overflow(sign):
    """Every activation is as large as it can be: all steps of the grid are used, all products have one sign."""
    images = 1_281_167
    one = np.where(np.arange(images) % 2, 1, -1).astype(np.float32) * np.float32(1 - 2**-21)
    activation = np.stack([one, sign * one, np.full(images, 0.7, np.float32)], axis=1)
    summary = summarised(activation, np.arange(images) % 1000)
    assert summary["coactive"][0].tolist() == [1, -1, -1, -1, -1]
    assert summary["correlation"][0][0] == sign
    assert np.array_equal(summary["class_mean"][2], np.full(1000, np.float32(0.7)))
    assert summary["histogram"][2, -1] == images


def test_a_large_mean_with_small_deviations_keeps_its_correlation():
    random = np.random.default_rng(0)
    noise = random.standard_normal((5000, 2))
    activation = (100 + noise @ [[1, 0.6], [0, 0.8]]).astype(np.float32)
    summary = summarised(activation, np.full(5000, -1))
    assert abs(summary["correlation"][0][0] - np.corrcoef(activation.T.astype(float))[0, 1]) < 1e-6


def test_memory_does_not_grow_with_the_images_of_a_block():
    def peak(portions):
        activation = np.random.default_rng(0).random((portions * PRODUCT_ROWS, 64), np.float32)
        sums, label = Sums(Basis.of(np.ones(64), len(activation), 10)), np.arange(len(activation)) % 10
        tracemalloc.start()
        sums.add_images(activation, label, 0)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(12) < 1.25 * peak(3)


def test_a_broken_networks_values_are_counted_as_zero():
    activation = np.array([[1, 2], [np.nan, 1], [np.inf, 3], [np.nan, np.nan]], np.float32)
    sums = Sums(Basis.of(np.array([np.inf, 3]), 4, 0))
    sums.add_images(activation, np.full(4, -1), 0)
    assert sums.count == 3
    assert sums.histogram.sum(axis=1).tolist() == [3, 3]
    assert sums.histogram[0, 0] == 3
