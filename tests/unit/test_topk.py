import numpy as np

from topnine.pipeline.ranking.topk import merge, top


def test_ties_go_to_the_smaller_image_and_only_positive_values_rank():
    activation = np.array([[2, 0], [3, -1], [np.nan, np.nan], [3, 0.5], [2, 0]], np.float32)
    ranks = top(activation, first_image=100, ranks=3)
    assert ranks.image.tolist() == [[101, 103, 100], [103, -1, -1]]
    assert ranks.activation[0].tolist() == [3, 3, 2]
    assert np.isnan(ranks.activation[1, 1:]).all()


def test_a_tie_at_the_last_rank_is_decided_by_the_image_whatever_the_order_of_merging():
    parts = [top(np.ones((4, 1), np.float32), first, ranks=3) for first in (8, 0, 4)]
    assert merge(parts, ranks=3).image.tolist() == [[0, 1, 2]]
