import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.conftest import noise
from topnine.pipeline.drawing.sprites import (
    LOSSLESS_PX,
    TILE_PX,
    Tiles,
    data_script,
    number,
    shrink,
    sprite_sheet,
    thumbnail,
)


def read_webp(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_small_tiles_keep_every_pixel():
    layout = Tiles.fit(7, 5, columns=3)
    pictures = [noise(i, 7, 5) for i in range(4)]
    sheet = read_webp(sprite_sheet(pictures, layout))
    assert sheet.shape == (14, 15, 3)
    for i, picture in enumerate(pictures):
        y, x = i // 3 * 7, i % 3 * 5
        assert np.array_equal(sheet[y : y + 7, x : x + 5], picture)
    assert (sheet[7:, 5:] == 128).all()


@pytest.mark.parametrize(("height", "width"), [(33, 33), (83, 83), (112, 112), (300, 200)])
def test_large_tiles_begin_on_the_codecs_grid_and_look_alike(height, width):
    layout = Tiles.fit(height, width, columns=9)
    assert max(layout.height, layout.width) <= TILE_PX
    assert layout.height / layout.width == pytest.approx(height / width, rel=0.02)
    assert all(step % 16 == 0 for step in layout.pitch)
    plain = [np.full((layout.height, layout.width, 3), colour, np.uint8) for colour in ((255, 0, 0), (0, 0, 255))]
    sheet = read_webp(sprite_sheet(plain, layout)).astype(int)
    assert sheet.shape == (layout.pitch[0], 2 * layout.pitch[1], 3)
    for x, colour in ((0, (255, 0, 0)), (layout.pitch[1], (0, 0, 255))):  # but for a pixel at the edge
        inside = sheet[1 : layout.height - 1, x + 1 : x + layout.width - 1]
        assert np.abs(inside - colour).max() < 8


@pytest.mark.parametrize(("side", "lossless"), [(LOSSLESS_PX, True), (LOSSLESS_PX + 1, False)])
def test_a_page_smooths_exactly_the_tiles_that_are_stored_with_loss(side, lossless):
    layout = Tiles.fit(5, side, columns=2)
    assert layout.describe() == {
        "height": 5, "width": side, "pitch": layout.pitch, "columns": 2, "pixelated": lossless,
    }  # fmt: skip
    picture = noise(0, 5, side)
    exact = np.array_equal(read_webp(sprite_sheet([picture], layout))[:5, :side], picture)
    assert exact == lossless


def test_shrinking_leaves_a_picture_of_the_size_alone():
    picture = noise(0, 20, 10)
    assert shrink(picture, 20, 10) is picture
    assert shrink(picture, 10, 5).shape == (10, 5, 3)


@pytest.mark.parametrize(("side", "thumbnail_side"), [(96, 96), (512, 256)])
def test_a_thumbnail_is_the_image_and_never_enlarged(side, thumbnail_side):
    slope = np.tile(np.linspace(0, 255, side).astype(np.uint8)[:, None, None], (1, side, 3))
    pixels = read_webp(thumbnail(slope))
    assert pixels.shape == (thumbnail_side, thumbnail_side, 3)
    assert pixels[0].mean() < 10 < 245 < pixels[-1].mean()


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
    start = '((window.topnine ??= {}).data ??= new Map()).set("layers/x.js", '
    assert script.startswith(start)
    value = script.removeprefix(start).removesuffix(");\n")
    assert json.loads(value) == {"key": text, text: 1}


def test_a_data_script_takes_no_number_that_is_none():
    with pytest.raises(ValueError, match="not JSON compliant"):
        data_script("x", float("nan"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_becomes_null(value):
    assert data_script("x", number(value)).endswith('"x", null);\n')
