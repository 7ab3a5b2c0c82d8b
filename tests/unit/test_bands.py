"""Images of other bands than three and of more than 8 bits: how their values become the channels of an input."""

import io
import json
import sys

import numpy as np
import pytest
import tifffile
from imagecodecs import png_encode
from PIL import Image

from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.decoding.decode import decode, read_values
from topnine.pipeline.data.decoding.preparation import Preparation
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.data.value_range import find_range
from topnine.pipeline.errors import BandsError, DecodeError, InputError
from topnine.pipeline.store.store import Store

COLOURS = np.asarray(Image.fromarray(noise(1, 5, 5)).resize((40, 30), Image.Resampling.BICUBIC))
FIVE = np.concatenate([COLOURS, 255 - COLOURS[..., :2]], axis=-1)
DEEP = COLOURS.astype(np.uint16) * 200


def tiff(values, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, values, metadata=None, **options)
    return buffer.getvalue()


def npy(values):
    buffer = io.BytesIO()
    np.save(buffer, values)
    return buffer.getvalue()


def saved(image, format, **options):
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def pixels(data, channels=3, **options):
    return decode(data, Preparation(30, (30, 40), channels, **options)).pixels


TIFFS = {
    "plain": tiff(COLOURS, photometric="rgb"),
    "lzw": tiff(COLOURS, photometric="rgb", compression="lzw"),
    "predicted": tiff(COLOURS, photometric="rgb", compression="zlib", predictor=True),
    "zstd": tiff(COLOURS, photometric="rgb", compression="zstd"),
    "tiled": tiff(COLOURS, photometric="rgb", tile=(16, 16)),
    "planes": tiff(np.moveaxis(COLOURS, -1, 0), photometric="rgb", planarconfig="separate"),
    "pages": tiff(np.moveaxis(COLOURS, -1, 0), photometric="minisblack"),
    "big": tiff(COLOURS, photometric="rgb", bigtiff=True),
    "big-endian": tiff(COLOURS, photometric="rgb", byteorder=">"),
    "opacity": tiff(np.dstack([COLOURS, COLOURS[..., :1]]), photometric="rgb", extrasamples=["unassalpha"]),
    "by Pillow": saved(Image.fromarray(COLOURS), "TIFF", compression="tiff_deflate"),
}


@pytest.mark.parametrize("name", TIFFS)
def test_tiffs_are_read_as_they_were_written(name):
    assert np.array_equal(pixels(TIFFS[name]), COLOURS)


@pytest.mark.parametrize(
    "data",
    [TIFFS["plain"], TIFFS["big-endian"], npy(COLOURS), npy(DEEP), png_encode(DEEP), encode(noise(3)),
     *(saved(Image.fromarray(COLOURS), form) for form in ("PNG", "JPEG", "WEBP", "GIF", "BMP"))],
    ids=["tiff", "big-endian tiff", "npy", "deep npy", "deep png", "photo", "png", "jpeg", "webp", "gif", "bmp"],
)  # fmt: skip
def test_a_view_of_a_larger_read_is_decoded_as_the_image_alone(data):
    view = memoryview(b"before" + data + b"behind")[6 : 6 + len(data)]
    limits = {"range": ((0, 51_000),)} if data in (npy(DEEP), png_encode(DEEP)) else {}
    assert np.array_equal(pixels(view, **limits), pixels(data, **limits))


def test_tiffs_of_grey_palettes_and_inks_have_their_colours():
    grey = Image.fromarray(COLOURS).convert("L")
    expected = np.asarray(grey.convert("RGB"))
    assert np.array_equal(pixels(saved(grey, "TIFF")), expected)
    assert np.array_equal(pixels(tiff(255 - np.asarray(grey), photometric="miniswhite")), expected)
    palette = Image.fromarray(COLOURS).convert("P")
    assert np.array_equal(pixels(saved(palette, "TIFF")), np.asarray(palette.convert("RGB")))
    inks = Image.fromarray(COLOURS).convert("CMYK")
    assert np.array_equal(pixels(saved(inks, "TIFF")), np.asarray(inks.convert("RGB")))
    line = Image.fromarray(COLOURS).convert("1")
    assert np.array_equal(pixels(saved(line, "TIFF", compression="group4")), np.asarray(line.convert("RGB")))


@pytest.mark.parametrize("name", TIFFS)
def test_a_tiff_that_ends_early_is_damaged_and_nothing_is_printed(name, capfd):
    data = TIFFS[name]
    for end in (100, len(data) // 2, len(data) - 20):
        with pytest.raises(DecodeError) as error:
            pixels(data[:end])
        assert "0x" not in str(error.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (tiff(FIVE[:, :30], photometric="minisblack", planarconfig="contig"), "it has 5 bands, the network takes 3"),
        (npy(FIVE), "it has 5 bands, the network takes 3: decode.bands chooses some"),
        (npy(np.zeros((4, 9, 4), np.uint8)), "its first dimension or its last may be that of the bands"),
        (npy(np.zeros((2, 3, 9, 9), np.uint8)), r"an array of shape \(2, 3, 9, 9\)"),
        (npy(np.array(["a"])), "an array of <U1, not of numbers"),
        (npy(np.array([{}], object)), "an array of object, not of numbers"),
        (npy(COLOURS)[:500], "EOF"),
        (npy(DEEP), "values of more than 8 bits: data.range says which become black and white"),
        (png_encode(DEEP), "values of more than 8 bits"),
        (saved(Image.fromarray(DEEP[..., 0]), "PNG"), "values of more than 8 bits"),
        (tiff(np.full((9, 9), np.nan, np.float32)), "values of more than 8 bits"),
    ],
)
def test_what_is_no_image_for_the_network_says_why(data, reason):
    with pytest.raises(DecodeError, match=reason):
        pixels(data)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_taken():
    for data in (tiff(COLOURS, photometric="rgb"), npy(COLOURS)):
        with pytest.raises(DecodeError, match="40 x 30 pixels are more than 1000"):
            pixels(data, max_pixels=1000)
    with pytest.raises(DecodeError, match="86400 bytes are more than 16 for each of 1200 pixels"):
        pixels(npy(np.zeros((12, 100, 9)))[:200], max_pixels=1200)


def test_bands_are_chosen_and_ordered():
    for data in (npy(FIVE), npy(np.moveaxis(FIVE, -1, 0)), tiff(FIVE, photometric="minisblack", planarconfig="contig")):
        assert np.array_equal(pixels(data, bands=(4, 0, 2)), FIVE[..., [4, 0, 2]])
        assert np.array_equal(pixels(data, channels=5), FIVE)
        assert np.array_equal(pixels(data, channels=1, bands=(3,)), FIVE[..., 3:4])
        with pytest.raises(BandsError, match=r"it has 5 bands, decode\.bands asks for band 5"):
            pixels(data, bands=(5, 0, 2))
    assert np.array_equal(pixels(encode(COLOURS), bands=(2, 1, 0)), COLOURS[..., ::-1])


def test_opacity_is_a_channel_where_one_is_wanted():
    image = np.dstack([COLOURS, COLOURS[..., 1]])
    assert np.array_equal(pixels(encode(image)), COLOURS)
    assert np.array_equal(pixels(encode(image), channels=4), image)


def test_colours_become_grey_as_pillow_makes_it():
    grey = np.asarray(Image.fromarray(COLOURS).convert("L"))[..., None]
    assert np.array_equal(pixels(encode(COLOURS), channels=1), grey)
    assert np.array_equal(pixels(encode(COLOURS, "BMP"), channels=1), grey)
    assert np.array_equal(pixels(npy(COLOURS), channels=1), grey)


@pytest.mark.parametrize("form", ["npy", "tiff", "png", "grey png"])
def test_deep_values_are_scaled_by_the_range(form):
    low, high = 1000.0, 40000.0
    expected = np.rint((DEEP - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)
    if form == "grey png":
        found = pixels(saved(Image.fromarray(DEEP[..., 0]), "PNG"), channels=1, range=((low, high),))
        assert np.array_equal(found, expected[..., :1])
        return
    data = {"npy": npy, "tiff": lambda values: tiff(values, photometric="rgb"), "png": png_encode}[form](DEEP)
    assert np.array_equal(pixels(data, range=((low, high),)), expected)
    each = pixels(data, range=((0, 10000), (low, high), (5, 6)))
    assert np.array_equal(each[..., 1], expected[..., 1])
    assert not np.array_equal(each[..., 0], expected[..., 0])


def test_eight_bits_stay_as_they_are_beside_deeper_ones():
    for data in (encode(COLOURS), npy(COLOURS), TIFFS["lzw"]):
        assert np.array_equal(pixels(data, range=((0, 4000),)), COLOURS)


def test_the_range_is_that_of_the_deep_images_alone(tmp_path):
    deep = DEEP + 1000
    members = [("0.png", encode(COLOURS)), ("1.npy", npy(deep)), ("2.png", encode(COLOURS))]
    source = ImageSource(find_dataset(str(write_tar(tmp_path / "a.tar", members))), Preparation(30, (30, 40)))
    assert find_range(source) == (tuple(np.percentile(deep, (0.1, 99.9))),)
    damaged = [(f"{i}.png", b"no image") for i in range(6)]
    late = write_tar(tmp_path / "late" / "a.tar", [*damaged, ("7.npy", npy(DEEP))])
    assert len(find_range(ImageSource(find_dataset(str(late)), Preparation(30, (30, 40))))) == 1


def test_values_that_are_no_numbers_are_damage():
    values = np.ones((30, 40), np.float32)
    values[3, 3] = np.nan
    with pytest.raises(DecodeError, match="values that are no numbers"):
        pixels(tiff(values), range=((0, 1),))


def test_the_range_is_that_of_a_sample(tmp_path):
    shards = {}
    for shard in range(3):
        images = [(f"{shard}-{i}.npy", npy(DEEP // (1 + i) + shard)) for i in range(6)]
        shards[f"{shard}.tar"] = images
        write_tar(tmp_path / f"{shard}.tar", images)
    source = ImageSource(find_dataset(str(tmp_path)), Preparation(30, (30, 40)))
    sample = [read_values(data).values for images in shards.values() for _, data in images[:4]]
    ((low, high),) = find_range(source)
    assert (low, high) == tuple(np.percentile(np.concatenate([values.ravel() for values in sample]), (0.1, 99.9)))
    eight = write_tar(tmp_path / "eight" / "a.tar", [("a.png", encode(COLOURS))])
    assert find_range(ImageSource(find_dataset(str(eight)), Preparation(30, (30, 40)))) == ()


def test_a_run_prints_and_records_the_range_and_what_it_assumes(tmp_path):
    for i in range(4):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{i}.npy").write_bytes(npy(np.concatenate([DEEP, DEEP[..., :2] * 2], axis=-1) + i))
    plan = plan_run(
        tmp_path, network__name="tests.oracle.test_inputs:five", network__weights="random",
        data__path=tmp_path / "data", mine__layers="second", mine__block=4,
    )  # fmt: skip
    assert len(plan.config.data.range) == 5
    assert any(line.startswith("values from ") and "see data.range" in line for line in plan.remarks)
    assert any("each of 5 channels is normalised by mean 0.449" in line for line in plan.remarks)
    assert any("pictures show channels 0, 1, 2: see tile.bands" in line for line in plan.remarks)
    run_stages(plan, "index", "mine")
    store = Store.open(plan.config.store)
    recorded = [value for limits in plan.config.data.range for value in limits]
    assert store.attributes["preprocessing"]["range"] == recorded
    assert json.loads(json.dumps(store.attributes["configuration"]))["data"]["range"] == [
        list(limits) for limits in plan.config.data.range
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"network__mean": [0.5, 0.5]}, r"network\.mean is that of 2 channels, and the network takes 3"),
        ({"data__range": [[0, 1], [0, 2]]}, r"data\.range is that of 2 channels, and the network takes 3"),
        ({"data__range": [3, 3]}, r"each pair is a value and a larger one"),
        ({"tile__bands": [0, 1, 3]}, r"tile\.bands asks for channel 3, and the network's input has 3"),
        ({"tile__bands": [0, 1]}, "a picture shows one channel or three"),
        ({"decode__bands": [0, 1, 7]}, r"it has 3 bands, decode\.bands asks for band 7"),
        ({"decode__channels": 4}, r"none that can be mined: it has 3 bands, the network takes 4"),
    ],
)
def test_settings_that_do_not_fit_are_refused_before_anything_is_mined(tmp_path, changes, sentence):
    data = write_tar(tmp_path / "data/a.tar", [("a.png", encode(COLOURS))])
    with pytest.raises(InputError, match=sentence):
        plan_run(tmp_path, data__path=data, **changes)


@pytest.mark.parametrize("missing", ["tifffile", "imagecodecs"])
def test_a_package_that_is_missing_is_no_damage(tmp_path, monkeypatch, missing):
    data = write_tar(tmp_path / "data/a.tar", [("a.tif", TIFFS["lzw"])])
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(InputError, match=r"TIFF needs tifffile and imagecodecs .*: pip install 'topnine\[tiff\]'"):
        plan_run(tmp_path, data__path=data)
