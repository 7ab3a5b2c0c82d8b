"""Totals of images in two parts against those of the whole."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.property.test_topk import matrices, spoiled
from topnine.pipeline.ranking.totals import Totals, add_totals


@given(matrices, st.lists(st.integers(0, 60)), st.integers(1, 59))
def test_totals_are_those_of_the_whole(activation, undecodable, edge):
    activation = spoiled(activation, undecodable)
    edge %= len(activation)
    parts = [Totals.of(part) for part in (activation[:edge], activation[edge:]) if len(part)]
    totals = add_totals(parts)
    known = activation[~np.isnan(activation).any(axis=1)]
    assert totals.count == len(known)
    assert np.array_equal(totals.active, (known > 0).sum(axis=0))
    assert np.allclose(totals.total, known.sum(axis=0, dtype=np.float64))
    if len(known):
        assert np.array_equal(totals.maximum, known.max(axis=0))
