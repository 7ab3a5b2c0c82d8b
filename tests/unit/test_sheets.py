from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from topnine.pipeline.drawing.contrast import contrast
from topnine.pipeline.drawing.nine import find_common
from topnine.pipeline.drawing.sheets import (
    Cell,
    View,
    _describe_cell,
    choose_filters,
    filter_sheet,
    first_filters,
    patch_grid,
    sheet,
)

WINDOWS, FOOTPRINTS = View(False, 0.995), View(True, 0.995)


def cell(filter=3, size=27, filled=9):
    rng = np.random.default_rng(filter)
    patch = rng.integers(0, 256, (9, size, size, 3), np.uint8)
    projection = rng.standard_normal((9, size, size, 3)).astype(np.float32)
    footprint = np.tile([0, 0, size, size], (9, 1))
    return Cell(filter, patch, projection, footprint, np.full((9, size, size), 255, np.uint8), filled)


def find(picture, part):
    """List where in a picture another one stands, pixel for pixel: top and left."""
    height, width = part.shape[:2]
    corners = zip(*np.nonzero((picture == part[0, 0]).all(axis=2)), strict=True)
    return [(y, x) for y, x in corners if np.array_equal(picture[y : y + height, x : x + width], part)]


def test_patches_and_projections_stand_in_the_sheet_pixel_for_pixel_in_the_same_places():
    cells = [cell(1, size=83), cell(2, size=83)]
    picture = np.asarray(sheet(cells, (1, 2), "title", WINDOWS))
    shifts = set()
    for filter in cells:
        patches = [find(picture, patch) for patch in filter.patch]
        projections = [find(picture, drawn) for drawn in contrast(filter.projection, 0.995)]  # with one scale
        for (patch,), (projection,) in zip(patches, projections, strict=True):
            shifts.add((patch[0] - projection[0], patch[1] - projection[1]))
        corners = [corner for (corner,) in patches]
        assert corners == sorted(corners)  # strongest first, row by row
    ((down, across),) = shifts
    assert (down, across > picture.shape[1] // 3) == (0, True)


def test_projections_that_are_all_the_same_are_drawn_once():
    first = cell(2, size=7)
    factors = np.arange(9, 0, -1, np.float32)[:, None, None, None]
    same = replace(first, projection=first.projection[:1] * factors)
    assert find_common(first.projection) is None
    assert find_common(same.projection) == 0
    shifted = same.projection.copy()
    shifted[0] = np.roll(shifted[0], 2, axis=1)  # at the edge of its image
    assert find_common(shifted) == 1
    once = np.asarray(sheet([same], (1, 1), "", FOOTPRINTS))
    assert once.shape == np.asarray(sheet([first], (1, 1), "", WINDOWS)).shape
    one_image = replace(first, filled=1)  # stands for nothing but itself
    drawn = np.asarray(sheet([one_image], (1, 1), "", WINDOWS))
    assert find(drawn, contrast(first.projection[:1], 0.995)[0].repeat(11, 0).repeat(11, 1))
    side = 3 * 77 + 2 * 3
    enlarged = Image.fromarray(contrast(same.projection, 0.995)[0]).resize((side, side), Image.Resampling.NEAREST)
    assert len(find(once, np.asarray(enlarged))) == 1
    assert find(once, same.patch[8].repeat(11, 0).repeat(11, 1))


def test_below_the_patches_stand_the_classes_as_far_as_they_fit():
    names = ("boxer", "a name that is much too long to stand below three patches", "boxer", "kelpie")
    described = _describe_cell(replace(cell(7), classes=names), 250)
    assert described == "7: 2 × boxer, kelpie"
    assert _describe_cell(cell(7), 250) == "7"
    assert _describe_cell(replace(cell(7), classes=names), 10) == "7"
    named, plain = (
        np.asarray(sheet([replace(cell(7), classes=classes)], (1, 1), "", WINDOWS)) for classes in (names, ())
    )
    changed = np.nonzero((named != plain).any(axis=(0, 2)))[0]
    assert changed.min() > named.shape[1] // 2  # on the right


def test_small_patches_are_enlarged_by_whole_numbers():
    patch = cell(size=7).patch[:1]
    zoom = round(80 / 7)
    enlarged = patch[0].repeat(zoom, axis=0).repeat(zoom, axis=1)
    assert len(find(np.asarray(patch_grid(patch, "x")), enlarged)) == 1


def test_projections_are_left_and_patches_right():
    dark = replace(cell(size=83), patch=np.zeros((9, 83, 83, 3), np.uint8), projection=np.zeros((9, 83, 83, 3)))
    picture = np.asarray(sheet([dark], (1, 1), "", WINDOWS)).astype(int)
    half = picture.shape[1] // 2
    assert (picture[:, :half] == 128).all(axis=2).sum() >= 9 * 83 * 83
    assert (picture[:, half:] == 0).all(axis=2).sum() >= 9 * 83 * 83


def test_missing_ranks_are_blank_and_long_captions_are_cut():
    picture = filter_sheet(cell(filled=2), ["x" * 300] * 9, "title " * 40, WINDOWS)
    assert picture.width < 2000
    pixels = np.asarray(picture)
    zoom = round(200 / 27)
    assert (pixels == 225).all(axis=2).sum() == 2 * 7 * (27 * zoom) ** 2


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (4, 2), (5, 3), (25, 5)])
def test_a_grid_is_as_near_to_a_square_as_it_can_be(count, columns):
    patches = np.random.default_rng(0).integers(0, 256, (count, 80, 80, 3), np.uint8)
    picture = np.asarray(patch_grid(patches, ""))
    corners = [corner for patch in patches for corner in find(picture, patch)]
    assert corners == sorted(corners)
    assert len({left for _, left in corners}) == columns
    assert len(corners) == count


def test_first_filters_show_every_filter_with_a_contrast_of_its_own():
    weights = np.random.default_rng(0).standard_normal((10, 3, 7, 7)).astype(np.float32)
    weights *= np.arange(1, 11, dtype=np.float32).reshape(10, 1, 1, 1)
    picture = np.asarray(first_filters(weights.transpose(0, 2, 3, 1), "t"))
    for filter in weights:
        drawn = contrast(filter.transpose(1, 2, 0), 1.0).repeat(7, axis=0).repeat(7, axis=1)
        assert len(find(picture, drawn)) == 1


def test_the_same_seed_chooses_the_same_filters_in_the_order_of_their_numbers():
    live = np.arange(0, 200, 2)
    chosen = choose_filters(live, 10, seed=3).tolist()
    assert chosen == choose_filters(live, 10, seed=3).tolist() == sorted(set(chosen))
    assert len(chosen) == 10
    assert set(chosen) <= set(live.tolist())
    assert chosen != choose_filters(live, 10, seed=4).tolist()
    assert choose_filters(live[:3], 10, seed=3).tolist() == [0, 2, 4]


def test_tiles_of_footprints_have_one_size_and_missing_ranks_are_blank():
    footprint = np.array([[0, 0, 9, 9], [5, 5, 25, 25], *[[10, 10, 20, 20]] * 7])
    picture = np.asarray(filter_sheet(replace(cell(filled=2), footprint=footprint), ["x"] * 9, "t", FOOTPRINTS))
    assert (picture == 225).all(axis=2).sum() == 2 * 7 * 200**2


def test_a_dead_filter_has_a_sheet_of_blanks():
    for view in (WINDOWS, FOOTPRINTS):
        picture = np.asarray(filter_sheet(cell(filled=0), [""] * 9, "t", view))
        assert (picture == 225).all(axis=2).sum() >= 2 * 9 * (27 * 7) ** 2
