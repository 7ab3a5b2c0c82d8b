"""The nine of a filter as pictures."""

import numpy as np
import pytest

from topnine.pipeline.drawing.contrast import contrast
from topnine.pipeline.drawing.nine import FADED, draw_footprints, draw_windows, fade, find_crops, fit


def arrays(ranks=3, size=20):
    random = np.random.default_rng(0)
    projections = random.standard_normal((ranks, size, size, 3)).astype(np.float32)
    return projections, random.integers(0, 256, projections.shape, np.uint8)


def test_a_weaker_projection_is_fainter():
    projections, patches = arrays()
    projections[1] /= 10
    drawn, same = draw_windows(projections, patches, 0.995)
    assert np.abs(drawn[1].astype(int) - 128).mean() < np.abs(drawn[0].astype(int) - 128).mean() / 5
    assert np.array_equal(np.array(same), patches)
    footprints = np.tile([0, 0, 20, 20], (3, 1))
    masks = np.full((3, 20, 20), 255, np.uint8)
    cropped, whole = draw_footprints(projections, patches, footprints, masks, 0.995)
    assert np.array_equal(np.array(cropped), contrast(projections, 0.995))
    assert np.array_equal(np.array(whole), patches)


def test_both_are_cropped_to_the_same_square_and_the_scale_is_that_of_what_is_shown():
    projections, patches = arrays()
    projections[:, :5] = 1000  # outside of the footprints
    footprints = np.array([[6, 6, 16, 16]] * 3)
    drawn, faded = draw_footprints(projections, patches, footprints, np.full((3, 20, 20), 255, np.uint8), 0.995)
    assert np.array_equal(np.array(drawn), contrast(projections[:, 6:16, 6:16], 0.995))
    assert np.array_equal(np.array(faded), patches[:, 6:16, 6:16])


@pytest.mark.parametrize("size", [(20, 20), (12, 30)])
def test_crops_hold_the_footprints_and_lie_in_the_patch(size):
    random = np.random.default_rng(1)
    for _ in range(50):
        side = random.integers(1, min(size) + 1, 9)
        top, left = (random.integers(0, length - side + 1) for length in size)
        footprints = np.stack([top, left, top + side, left + side], axis=1)
        crops = find_crops(footprints, size)
        middle = np.sort(side)[4]
        for (y, x), (top, left, bottom, right), own in zip(crops, footprints.tolist(), side.tolist(), strict=True):
            assert 0 <= y.start <= top <= bottom <= y.stop <= size[0]
            assert 0 <= x.start <= left <= right <= x.stop <= size[1]
            assert y.stop - y.start == x.stop - x.start == max(own, middle)


def test_a_patch_fades_to_grey_where_its_mask_is_weak():
    patch = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    mask = np.zeros((8, 8), np.uint8)
    mask[:4] = 255
    faded = fade(patch, mask)
    assert np.array_equal(faded[:4], patch[:4])
    assert np.ptp(faded[4:].astype(int), axis=2).max() == 0
    assert np.abs(faded[4:].astype(int) - FADED).max() <= 60


def test_pictures_of_any_shape_become_squares():
    wide = np.zeros((5, 20, 3), np.uint8)
    square = fit(wide, 40)
    assert square.shape == (40, 40, 3)
    assert (square[16:24] < 5).all()
    assert (square[:12] == 255).all()
    assert fit(np.zeros((1, 1, 3), np.uint8), 7).shape == (7, 7, 3)
