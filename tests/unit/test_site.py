import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from pipeline.site import (
    TILE_PX,
    agreement,
    chapter,
    choose_clearest,
    data_script,
    shrink,
    sketches,
    sprite_sheet,
    thumbnail,
    tiles,
)
from tests.conftest import noise


def opened(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_small_tiles_keep_every_pixel():
    layout = tiles(7, 5, 3)
    pictures = [noise(i, 7, 5) for i in range(4)]
    sheet = opened(sprite_sheet(pictures, layout))
    assert sheet.shape == (14, 15, 3)
    for i, picture in enumerate(pictures):
        y, x = i // 3 * 7, i % 3 * 5
        assert np.array_equal(sheet[y : y + 7, x : x + 5], picture)
    assert (sheet[7:, 5:] == 128).all()


@pytest.mark.parametrize(("height", "width"), [(33, 33), (83, 83), (112, 112), (300, 200)])
def test_large_tiles_begin_on_the_codecs_grid_and_look_alike(height, width):
    layout = tiles(height, width, 9)
    assert max(layout.height, layout.width) <= TILE_PX
    assert layout.height / layout.width == pytest.approx(height / width, rel=0.02)
    assert all(step % 16 == 0 for step in layout.pitch)
    plain = [np.full((layout.height, layout.width, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255))]
    sheet = opened(sprite_sheet(plain, layout)).astype(int)
    assert sheet.shape == (layout.pitch[0], 2 * layout.pitch[1], 3)
    for place, colour in ((0, (255, 0, 0)), (layout.pitch[1], (0, 0, 255))):  # but for a pixel at the edge
        inside = sheet[1 : layout.height - 1, place + 1 : place + layout.width - 1]
        assert np.abs(inside - colour).max() < 8


def test_shrinking_leaves_a_picture_of_the_size_alone():
    picture = noise(0, 20, 10)
    assert shrink(picture, 20, 10) is picture
    assert shrink(picture, 10, 5).shape == (10, 5, 3)


@pytest.mark.parametrize(("side", "shown"), [(96, 96), (224, 160)])
def test_a_thumbnail_is_the_image_and_never_enlarged(side, shown):
    slope = np.tile(np.linspace(0, 255, side).astype(np.uint8)[:, None, None], (1, side, 3))
    found = opened(thumbnail(slope))
    assert found.shape == (shown, shown, 3)
    assert found[0].mean() < 10 < 245 < found[-1].mean()


@pytest.mark.parametrize(
    "text",
    [
        "</script><script>alert(1)</script>",
        "<!--",
        "a\u2028b\u2029c",
        "\udcff lone",
        "'\"\\`${x}",
        "שלום\u202e",
        "\0\n",
    ],
)
def test_a_data_script_holds_any_text_and_no_markup(text):
    script = data_script("layers/x.js", {"key": text, text: 1})
    assert script.isascii()
    assert not re.search(r"[<\n\r\0]", script.removesuffix("\n"))
    value = script.removeprefix('(window.topnine ??= new Map()).set("layers/x.js", ').removesuffix(");\n")
    assert json.loads(value) == {"key": text, text: 1}


def test_a_data_script_takes_no_number_that_is_none():
    with pytest.raises(ValueError, match="not JSON compliant"):
        data_script("x", float("nan"))


def drawn(shift, seed=None):
    """A disc on grey, somewhere; with a seed, noise in its place."""
    y, x = np.mgrid[:60, :60]
    inside = np.hypot(y - 20 - shift, x - 25) < 10
    picture = np.full((60, 60, 3), 128, np.uint8)
    picture[inside] = (250, 200, 30) if seed is None else noise(seed, 60, 60)[inside]
    picture[inside & (y < 20 + shift)] = (
        (10, 90, 200) if seed is None else noise(seed + 1, 60, 60)[inside & (y < 20 + shift)]
    )
    return picture


def test_nine_alike_agree_wherever_they_are_and_nine_unlike_do_not():
    alike = np.stack([drawn(2 * i) for i in range(9)])
    unlike = np.stack([drawn(0, 10 * i + 1) for i in range(9)])
    same, same_patches = (agreement(each) for each in sketches(alike, alike))
    other, _ = (agreement(each) for each in sketches(unlike, unlike))
    assert same == same_patches
    assert same > 0.95
    assert other < 0.3


def test_agreement_is_the_mean_of_all_pairs():
    values = np.random.default_rng(0).standard_normal((5, 40))
    values -= values.mean(axis=1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    pairs = np.corrcoef(values)[np.triu_indices(5, 1)]
    assert agreement(values) == pytest.approx(pairs.mean())
    assert agreement(values[:1]) == 0


def test_flat_pictures_agree_with_nothing():
    flat = np.full((3, 20, 20, 3), 128, np.uint8)
    assert [agreement(each) for each in sketches(flat, flat)] == [0, 0]


def test_the_clearest_come_first_without_doubles_or_dead_ones():
    sketched = np.eye(6)[[0, 0, 1, 2, 3, 4]]  # 0 and 1 show the same
    clearness = np.array([0.9, 0.8, 0.5, 0.7, 0.0, 0.5])
    assert choose_clearest(clearness, sketched, 3) == [0, 3, 2]
    assert choose_clearest(clearness, sketched, 6) == [0, 3, 2, 5, 1]
    assert choose_clearest(np.zeros(6), sketched, 3) == []


@pytest.mark.parametrize(
    ("depths", "deepest"),
    [((2, 5, 8, 10, 12), 12), ((4, 9, 16, 23, 30), 30), ((2, 18, 36, 53, 66), 66)],  # AlexNet, VGG-16, a deep one
)
def test_five_numbered_layers_are_five_chapters(depths, deepest):
    assert [chapter(depth, deepest) for depth in depths] == [0, 1, 2, 3, 4]
    assert chapter(deepest + 5, deepest) == 4
