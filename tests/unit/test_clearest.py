import numpy as np
import pytest

from tests.conftest import noise
from topnine.pipeline.drawing.clearest import (
    chapter,
    choose_clearest,
    compare_hits,
    compute_clearness,
    mean_correlation,
    sketch_hits,
)


def draw_disc(shift, seed=None):
    """Draw a disc of two colours on grey, somewhere; with a seed, a disc of noise."""
    y, x = np.mgrid[:60, :60]
    inside = np.hypot(y - 20 - shift, x - 25) < 10
    picture = np.full((60, 60, 3), 128, np.uint8)
    picture[inside] = (250, 200, 30) if seed is None else noise(seed, 60, 60)[inside]
    picture[inside & (y < 20 + shift)] = (
        (10, 90, 200) if seed is None else noise(seed + 1, 60, 60)[inside & (y < 20 + shift)]
    )
    return picture


def test_nine_alike_agree_wherever_they_are_and_nine_unlike_do_not():
    alike = np.stack([draw_disc(2 * i) for i in range(9)])
    unlike = np.stack([draw_disc(0, 10 * i + 1) for i in range(9)])
    same, same_patches = (mean_correlation(sketches) for sketches in sketch_hits(alike, alike))
    other, _ = (mean_correlation(sketches) for sketches in sketch_hits(unlike, unlike))
    assert same == same_patches
    assert same > 0.95
    assert other < 0.3


def test_the_mean_correlation_is_that_of_all_pairs():
    values = np.random.default_rng(0).standard_normal((5, 40))
    values -= values.mean(axis=1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    pairs = np.corrcoef(values)[np.triu_indices(5, 1)]
    assert mean_correlation(values) == pytest.approx(pairs.mean())
    assert mean_correlation(values[:1]) == 0


def test_flat_pictures_agree_with_nothing():
    flat = np.full((3, 20, 20, 3), 128, np.uint8)
    assert [mean_correlation(sketches) for sketches in sketch_hits(flat, flat)] == [0, 0]


def test_a_filters_hits_are_compared_by_their_projections_and_by_their_patches():
    alike = np.stack([draw_disc(2 * i) for i in range(9)])
    unlike = np.stack([draw_disc(0, 10 * i + 1) for i in range(9)])
    both, sketch = compare_hits(alike, alike)
    one, _ = compare_hits(alike, unlike)
    assert 1.9 < both <= 2
    assert 0.9 < one < 1.4
    assert [np.linalg.norm(half) for half in np.split(sketch, 2)] == pytest.approx([1, 1], abs=1e-5)


def test_a_dead_filter_has_no_agreement_and_a_sketch_like_any_other():
    dead, sketch = compare_hits(np.empty((0, 20, 20, 3), np.uint8), np.empty((0, 20, 20, 3), np.uint8))
    _, other = compare_hits(draw_disc(0)[None], draw_disc(0)[None])
    assert dead == 0
    assert not sketch.any()
    assert (sketch.shape, sketch.dtype) == (other.shape, other.dtype)


def test_clearness_counts_filled_ranks_and_activations_up_to_the_median_of_live_filters():
    agreement = np.array([1.0, 1.0, 2.0, 1.0, 1.0])
    ranked = np.array([1.0, 0.5, 1.0, 1.0, 0.0])
    maximum = np.array([4.0, 4.0, 9.0, 1.0, np.nan])  # the median of those that live is 4
    assert compute_clearness(agreement, ranked, maximum).tolist() == [1.0, 0.5, 2.0, 0.25, 0.0]
    assert compute_clearness(agreement[:2], np.zeros(2), np.full(2, np.nan)).tolist() == [0, 0]


def test_the_clearest_come_first_without_doubles_or_dead_ones():
    sketched = np.tile(np.eye(6)[[0, 0, 1, 2, 3, 4]], 2)  # 0 and 1 show the same
    images = np.arange(54).reshape(6, 9)
    clearness = np.array([0.9, 0.8, 0.5, 0.7, 0.0, 0.5])
    assert choose_clearest(clearness, sketched, images, 3) == [0, 3, 2]
    assert choose_clearest(clearness, sketched, images, 6) == [0, 3, 2, 5, 1]
    assert choose_clearest(np.zeros(6), sketched, images, 3) == []


def test_filters_that_share_their_images_or_whose_patches_are_alike_are_alike():
    clearness, different = np.array([0.9, 0.8, 0.7]), np.tile(np.eye(3), 2)
    images = np.arange(27).reshape(3, 9)
    images[1, :5] = images[0, :5]
    assert choose_clearest(clearness, different, images, 2) == [0, 2]
    images[1, 4] = -1
    assert choose_clearest(clearness, different, images, 2) == [0, 1]
    only_patches = np.concatenate([np.eye(3), np.eye(3)[[0, 0, 1]]], axis=1)
    assert choose_clearest(clearness, only_patches, np.arange(27).reshape(3, 9), 2) == [0, 2]


def test_colours_alone_do_not_make_hits_alike():
    """Discs of one colour, of the same luminance as the ground, with noise: only their colour is the same."""
    noisy = [np.clip(draw_disc(0) * 0 + 128 + (noise(i, 60, 60) % 40 - 20), 0, 255).astype(np.uint8) for i in range(9)]
    red = [picture + np.array([60, 0, 0], np.uint8) for picture in noisy]
    _, patches = sketch_hits(np.stack([draw_disc(0)] * 9), np.stack(red))
    assert mean_correlation(patches) < 0.2


@pytest.mark.parametrize(
    ("depths", "deepest"),
    [((2, 5, 8, 10, 12), 12), ((4, 9, 16, 23, 30), 30), ((2, 18, 36, 53, 66), 66)],  # AlexNet, VGG-16, a deep one
)
def test_five_numbered_layers_are_five_chapters(depths, deepest):
    assert [chapter(depth, deepest) for depth in depths] == [0, 1, 2, 3, 4]
    assert chapter(deepest + 5, deepest) == 4
