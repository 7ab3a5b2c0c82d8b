import numpy as np
import pytest

from topnine.pipeline.drawing.mosaic import corner, mosaic


def pictures(count, height=3, width=5):
    return [np.full((height, width, 3), number, np.uint8) for number in range(count)]


def test_every_pixel_is_a_pictures_or_the_backgrounds():
    drawn = mosaic(pictures(5), 2, (1, 4), background=200)
    assert drawn.dtype == np.uint8
    assert drawn.shape == (3 * 3 + 2 * 1, 2 * 5 + 4, 3)
    expected = np.full(drawn.shape[:2], 200)
    for number, (top, left) in enumerate([(0, 0), (0, 9), (4, 0), (4, 9), (8, 0)]):
        expected[top : top + 3, left : left + 5] = number
    assert np.array_equal(drawn, np.repeat(expected[:, :, None], 3, axis=2))


@pytest.mark.parametrize("count", [1, 3, 4, 7])
def test_pictures_begin_at_their_corners(count):
    drawn = mosaic(pictures(count), 3, (2, 1))
    for number in range(count):
        top, left = corner(number, 3, (3, 5), (2, 1))
        assert np.all(drawn[top : top + 3, left : left + 5] == number)


def test_fewer_pictures_than_columns_leave_no_empty_columns():
    assert mosaic(pictures(2), 9, (1, 1)).shape == (3, 11, 3)


def test_without_gaps_only_the_last_row_shows_the_background():
    drawn = mosaic(np.stack(pictures(3)), 2, (0, 0))
    assert drawn.shape == (6, 10, 3)
    assert np.all(drawn[3:, 5:] == 255)
    assert (drawn == 255).sum() == 3 * 5 * 3


def test_pictures_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="broadcast"):
        mosaic([*pictures(1), *pictures(1, height=4)], 2, (0, 0))
