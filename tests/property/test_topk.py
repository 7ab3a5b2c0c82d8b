"""Ranking against a full sort, over blocks cut and merged in any way, with ties, NaN and zeros."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topnine.pipeline.ranking.topk import Top, merge, running_top, top

values = st.sampled_from([0.0, -1.0, 1.0, 1.5, 2.0, 3.0])
matrices = st.tuples(st.integers(1, 60), st.integers(1, 4)).flatmap(
    lambda shape: arrays.arrays(np.float32, shape, elements=values)
)


def spoiled(activation, rows):
    activation = activation.copy()
    activation[[row for row in rows if row < len(activation)]] = np.nan
    return activation


def full_sort(activation, ranks):
    images = np.full((activation.shape[1], ranks), -1)
    for f in range(activation.shape[1]):
        strongest = sorted((-value, image) for image, value in enumerate(activation[:, f].tolist()) if value > 0)
        images[f, : min(ranks, len(strongest))] = [image for _, image in strongest[:ranks]]
    return images


def cut(activation, cuts, ranks):
    edges = sorted({0, len(activation), *(c % len(activation) for c in cuts)})
    return [top(activation[a:b], a, ranks) for a, b in itertools.pairwise(edges)]


def same(first: Top, second: Top):
    return np.array_equal(first.image, second.image) and np.array_equal(first.activation, second.activation, True)


@given(matrices, st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60)), st.randoms(), st.integers(1, 12))
def test_any_cutting_and_any_order_of_merging_gives_the_full_sort(activation, undecodable, cuts, random, ranks):
    activation = spoiled(activation, undecodable)
    parts = cut(activation, cuts, ranks)
    random.shuffle(parts)
    merged = merge(parts, ranks)
    assert np.array_equal(merged.image, full_sort(activation, ranks))
    ranked = merged.image >= 0
    filters = np.nonzero(ranked)[0]
    assert np.array_equal(merged.activation[ranked], activation[merged.image[ranked], filters])
    assert np.isnan(merged.activation[~ranked]).all()


@given(matrices, st.lists(st.integers(0, 60)), st.lists(st.integers(0, 60)), st.integers(1, 12))
def test_ranking_runs_in_their_order_gives_the_full_sort(activation, undecodable, cuts, ranks):
    activation = spoiled(activation, undecodable)
    edges = sorted({0, len(activation), *(c % len(activation) for c in cuts)})
    running = running_top(((first, activation[first:last]) for first, last in itertools.pairwise(edges)), ranks)
    assert same(running, merge(cut(activation, cuts, ranks), ranks))
    assert np.array_equal(running.image, full_sort(activation, ranks))


@given(matrices, st.lists(st.integers(0, 60)), st.integers(1, 59), st.integers(1, 12), st.booleans())
def test_what_is_below_the_last_rank_of_other_images_may_be_left_out(activation, undecodable, edge, ranks, later):
    activation = spoiled(activation, undecodable)
    edge = min(edge, len(activation) - 1) if len(activation) > 1 else 0
    parts = [(0, activation[:edge]), (edge, activation[edge:])] if edge else [(0, activation), (0, activation[:0])]
    (first, others), rest = parts if later else parts[::-1]
    known = top(others, first, ranks)
    empty = Top(np.full((activation.shape[1], ranks), np.nan, np.float32), np.full((activation.shape[1], ranks), -1))
    merged = merge([known, running_top([rest], ranks, empty, known.activation[:, -1])], ranks)
    assert np.array_equal(merged.image, full_sort(activation, ranks))


@given(matrices, st.lists(st.integers(0, 60), min_size=2), st.integers(1, 12))
def test_merging_is_associative_and_merging_one_changes_nothing(activation, cuts, ranks):
    parts = cut(activation, cuts, ranks)
    whole = merge(parts, ranks)
    assert same(whole, merge([merge(parts[:1], ranks), *parts[1:]], ranks))
    assert same(whole, merge([*parts[:-1], merge(parts[-1:], ranks)], ranks))
    assert same(whole, merge([merge(parts[: len(parts) // 2 + 1], ranks), *parts[len(parts) // 2 + 1 :]], ranks))
