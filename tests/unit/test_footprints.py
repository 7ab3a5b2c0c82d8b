"""Where projections have their energy, against a search of all squares and a Gaussian."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from topnine.pipeline.compute.footprints import BLUR, ENERGY, draw_mask, find_footprint, trace


def sparse(seed, height, width, share):
    random = np.random.default_rng(seed)
    return (random.normal(size=(height, width, 3)) * (random.random((height, width, 1)) < share)).astype(np.float32)


def energies(projection, side):
    """The energy of every square of a side, and of the shorter boxes where the projection is narrower."""
    energy = np.square(projection, dtype=np.float64).sum(axis=2)
    height, width = min(side, energy.shape[0]), min(side, energy.shape[1])
    windows = np.lib.stride_tricks.sliding_window_view(energy, (height, width))
    return windows.sum(axis=(2, 3))


@pytest.mark.parametrize(("height", "width"), [(19, 19), (7, 16), (16, 7), (1, 9), (1, 1)])
@pytest.mark.parametrize("seed", range(20))
def test_the_footprint_is_the_smallest_square_with_nearly_all_energy(seed, height, width):
    projection = sparse(seed, height, width, 0.15)
    top, left, bottom, right = find_footprint(projection)
    wanted = ENERGY * np.square(projection, dtype=np.float64).sum()
    if not wanted:
        assert (top, left, bottom, right) == (0, 0, height, width)
        return
    side = max(bottom - top, right - left)
    assert (bottom - top, right - left) == (min(side, height), min(side, width))
    assert np.square(projection[top:bottom, left:right], dtype=np.float64).sum() >= wanted * (1 - 1e-12)
    smaller = side - 1
    assert not smaller or energies(projection, smaller).max() < wanted * (1 + 1e-12)


def test_the_footprint_stands_in_the_pixels_of_the_box():
    projection = np.zeros((9, 9, 3), np.float32)
    projection[2:5, 4:7] = 1
    footprint, mask = trace(projection, np.array([10, 20, 19, 29]))
    assert footprint.tolist() == [12, 24, 15, 27]
    assert footprint.dtype == np.int32
    assert mask[3, 5] == 255
    assert mask[8, 0] == 0


@pytest.mark.parametrize("side", [12, 60])
def test_a_mask_is_the_projection_blurred_and_scaled(side):
    projection = np.zeros((80, 90, 3), np.float32)
    projection[30:50, 40:60] = sparse(1, 20, 20, 0.5)
    mask = draw_mask(projection, side).astype(float)
    width = 2 * round(side / BLUR) + 1  # of each of three boxes, which together have the variance of the Gaussian
    blurred = gaussian_filter(np.abs(projection).sum(axis=2), np.sqrt(3 * (width**2 - 1) / 12))
    expected = 255 * np.sqrt(np.clip(blurred / np.quantile(blurred, 0.98), 0, 1))
    assert np.corrcoef(mask.ravel(), expected.ravel())[0, 1] > 0.98
    assert mask[40, 50] > 200
    assert mask[:15].max() == 0


def test_a_mask_is_as_strong_at_the_border_as_inside():
    projection = np.ones((40, 40, 3), np.float32)
    assert (draw_mask(projection, 40) == 255).all()


def test_nothing_is_projected_where_there_is_nothing():
    assert not draw_mask(np.zeros((8, 8, 3), np.float32), 8).any()
