import numpy as np

from topnine.pipeline.ranking.totals import Totals, add_totals


def test_totals_leave_undecodable_images_out_and_add_up():
    activation = np.array([[1, 0], [np.nan, np.nan], [3, 0]], np.float32)
    totals = add_totals([Totals.of(activation[:1]), Totals.of(activation[1:2]), Totals.of(activation[2:])])
    assert totals.count == 2
    assert totals.active.tolist() == [2, 0]
    assert totals.total.tolist() == [4, 0]
    assert totals.maximum.tolist() == [3, 0]


def test_an_image_that_is_nan_for_one_filter_only_counts():
    totals = Totals.of(np.array([[np.nan, 1], [2, 3]], np.float32))
    assert totals.count == 2
    assert totals.active.tolist() == [1, 2]


def test_totals_are_added_in_the_order_given():
    parts = [Totals.of(np.array([[value]])) for value in (1e16, 1.0, -1e16)]
    assert add_totals(parts).total.tolist() == [0]
    assert add_totals([parts[0], parts[2], parts[1]]).total.tolist() == [1]
