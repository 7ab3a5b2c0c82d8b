import numpy as np

from pipeline.figures import Cell, contrast, filter_sheet, first_filters, patch_grid, sheet


def cell(filter=3, size=27, filled=9):
    rng = np.random.default_rng(filter)
    patch = rng.integers(0, 256, (9, size, size, 3), np.uint8)
    projection = rng.standard_normal((9, size, size, 3)).astype(np.float32)
    return Cell(filter, patch, projection, np.arange(9) < filled)


def test_zero_is_mid_grey_and_the_scale_is_symmetric():
    drawn = contrast(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]), quantile=1.0)
    assert drawn.tolist() == [1, 64, 128, 192, 255]
    assert np.all(contrast(np.zeros((3, 3))) == 128)


def test_a_few_strong_pixels_do_not_drown_the_rest():
    projection = np.full(1000, 0.5)
    projection[:3] = 100
    assert contrast(projection)[500] == 255
    assert contrast(projection, quantile=1.0)[500] == 129


def test_patches_stand_in_the_sheet_pixel_for_pixel_in_their_places():
    cells = [cell(1, size=83), cell(2, size=83)]
    picture = np.asarray(sheet(cells, (1, 2), "title", 0.995))
    for each in cells:
        for patch in each.patch:
            rows, columns = np.nonzero((picture == patch[0, 0]).all(axis=2))
            assert any(
                np.array_equal(picture[y : y + 83, x : x + 83], patch) for y, x in zip(rows, columns, strict=True)
            )


def test_small_patches_are_enlarged_by_whole_numbers():
    only = cell(size=7)
    picture = np.asarray(patch_grid(only.patch[:1], "x"))
    zoom = round(80 / 7)
    enlarged = only.patch[0].repeat(zoom, axis=0).repeat(zoom, axis=1)
    rows, columns = np.nonzero((picture == enlarged[0, 0]).all(axis=2))
    top, left = rows.min(), columns[rows == rows.min()].min()
    assert np.array_equal(picture[top : top + 7 * zoom, left : left + 7 * zoom], enlarged)


def test_projections_are_left_and_patches_right():
    dark = Cell(0, np.zeros((9, 83, 83, 3), np.uint8), np.zeros((9, 83, 83, 3), np.float32), np.ones(9, bool))
    picture = np.asarray(sheet([dark], (1, 1), "", 0.995)).astype(int)
    half = picture.shape[1] // 2
    assert (picture[:, :half] == 128).all(axis=2).sum() >= 9 * 83 * 83
    assert (picture[:, half:] == 0).all(axis=2).sum() >= 9 * 83 * 83


def test_missing_ranks_are_blank_and_long_captions_are_cut():
    picture = filter_sheet(cell(filled=2), ["x" * 300] * 9, "title " * 40, 0.995)
    assert picture.width < 2000
    pixels = np.asarray(picture)
    zoom = round(200 / 27)
    assert (pixels == 225).all(axis=2).sum() == 2 * 7 * (27 * zoom) ** 2


def test_first_filters_show_every_filter():
    weights = np.random.default_rng(0).standard_normal((10, 3, 7, 7)).astype(np.float32)
    assert first_filters(weights, "t").height > 100
