import numpy as np
import pytest
import torch

from tests.conftest import normalised
from topnine.pipeline.compute.normalise import to_picture
from topnine.pipeline.compute.perturbations import occlude, square_centres, transform, transformations
from topnine.pipeline.network.registry import ARCHITECTURES


@pytest.mark.parametrize(("top", "left"), [(-3, 2), (5, 5), (2, -4)])
def test_a_square_is_cut_off_at_the_edges(top, left):
    pixels = torch.ones(3, 8, 8)
    covered = occlude(pixels, top, left, 5)
    for y in range(8):
        for x in range(8):
            inside = top <= y < top + 5 and left <= x < left + 5
            assert (covered[:, y, x] == (0 if inside else 1)).all()
    assert (pixels == 1).all()


def test_places_tile_the_image_in_as_many_steps_as_the_paper_may_have():
    assert len(square_centres(224, 8)) == 28
    assert square_centres(96, 3).tolist() == list(range(1, 96, 3))


@pytest.mark.parametrize("crop", [64, 96, 224, 299])
def test_transformations_begin_at_the_image_as_it_is(crop):
    pixels = torch.randn(3, 16, 16)
    for own in transformations(crop):
        assert own.neutral in own.values
        assert list(own.values) == sorted(set(own.values))
        assert transform(pixels, own, own.neutral) is pixels
        assert {own.values[0], own.values[-1]} <= set(own.shown)


def test_the_papers_translation_is_that_of_the_papers_input():
    translation = transformations(224)[0]
    assert translation.values == tuple(range(-60, 61, 5))


def test_outside_of_a_moved_image_is_the_mean():
    translation, _, rotation = transformations(16)
    moved = transform(torch.ones(3, 16, 16), translation, 4)
    assert torch.allclose(moved[:, 4:], torch.ones(1), atol=1e-5)
    assert moved[:, :4].abs().max() < 1e-5
    assert transform(torch.ones(3, 16, 16), rotation, 45)[0, 0, 0] == 0


def test_a_picture_comes_back_from_normalised_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (1, 8, 8, 3), np.uint8)
    for name in ("tiny_zfnet", "zfnet", "googlenet"):
        architecture = ARCHITECTURES[name]
        assert (
            to_picture(normalised(torch.from_numpy(pixels), architecture)[0], architecture).numpy() == pixels[0]
        ).all()
