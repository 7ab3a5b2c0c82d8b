"""Distinct hits against a full sort, each activation compared with all that were kept before."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from topnine.pipeline.ranking.distinct import DistinctRule, Traits, choose_distinct, exclude
from topnine.pipeline.ranking.topk import RANKS, Ranking, top

IMAGES, FILTERS = 40, 3
activations = arrays.arrays(np.float32, (IMAGES, FILTERS), elements=st.sampled_from([np.nan, -1.0, 0.0, 1.0, 2.0, 3.0]))
sources = arrays.arrays(np.uint64, IMAGES, elements=st.integers(0, 12))
looks = arrays.arrays(np.uint64, IMAGES, elements=st.integers(0, 2**6 - 1))
corners = arrays.arrays(np.int64, (IMAGES, FILTERS, 2), elements=st.integers(0, 12))  # top, left of patches of 4 pixels


def slow_choice(activation, alike):
    """Each filter's first nine images of a full sort that are not alike, for this filter, to one before."""
    chosen = np.full((FILTERS, RANKS), -1)
    for f in range(FILTERS):
        kept = []
        for _, image in sorted((-value, i) for i, value in enumerate(activation[:, f].tolist()) if value > 0):
            if len(kept) < RANKS and not any(alike(f, image, other) for other in kept):
                kept.append(image)
        chosen[f, : len(kept)] = kept
    return chosen


def slow_rule(by, distance, source, look, corner):
    """Whether two images are alike for a filter, one pair at a time."""

    def alike(f, one, other):
        if by == "look":
            return (int(look[one]) ^ int(look[other])).bit_count() <= distance
        (y, x), (other_y, other_x) = corner[one, f].tolist(), corner[other, f].tolist()
        there = y + 2 in range(other_y, other_y + 4) and x + 2 in range(other_x, other_x + 4)
        back = other_y + 2 in range(y, y + 4) and other_x + 2 in range(x, x + 4)
        return source[one] == source[other] and (by == "source" or there or back)

    return alike


@settings(deadline=None, max_examples=200)
@given(
    activations,
    sources,
    looks,
    corners,
    st.sampled_from(["place", "source", "look"]),
    st.integers(0, 3),
    st.integers(9, 14),
)
def test_nine_distinct_hits_are_those_of_a_full_comparison(activation, source, look, corner, by, distance, ranks):
    rule = DistinctRule(by, "", distance)
    box = np.concatenate([corner, corner + 4], axis=2).astype(float)

    def rank(values):
        ranked = top(values, ranks=ranks)
        filters = np.where(ranked.image < 0, -1, np.arange(FILTERS)[:, None]).astype(np.int32)
        return Ranking(ranked.activation, ranked.image, filters, filters)

    def describe(hits):
        return Traits(source[hits.image], look[hits.image], box[hits.image, np.arange(FILTERS)[:, None]])

    def rank_others(taken):
        passes.append(taken)
        assert len(passes) <= RANKS  # each adds a hit, so it ends
        traits = Traits(source[:, None], look[:, None], box)
        return rank(exclude(activation, traits, taken, describe(taken.hits), rule))

    passes = []
    chosen = choose_distinct(rank(activation), rule, describe, rank_others, ranks)
    assert np.array_equal(chosen.image, slow_choice(activation, slow_rule(by, distance, source, look, corner)))
    kept = chosen.image >= 0
    filters = np.nonzero(kept)[0]
    assert np.array_equal(chosen.activation[kept], activation[chosen.image[kept], filters])
    assert np.array_equal(chosen.row[kept], filters)
