"""JPEGs by simplejpeg: the pixels are Pillow's, and whatever is odd is left to Pillow."""

import io
import struct
from unittest import mock

import numpy as np
import pytest
import simplejpeg
from PIL import Image

from tests.conftest import decode_at, encode, noise
from tests.unit.test_decode import photographs
from topnine.pipeline.data.decoding import decode as module
from topnine.pipeline.data.decoding import jpeg
from topnine.pipeline.data.decoding.decode import decode, open_image, read_values
from topnine.pipeline.data.decoding.preparation import MAX_PIXELS, Preparation
from topnine.pipeline.errors import DecodeError

EXIF = Image.Exif()
EXIF[0x0112] = 6  # turned by a quarter


def saved(mode="RGB", height=121, width=163, **options):
    buffer = io.BytesIO()
    smooth = Image.fromarray(noise(1, 12, 12)).resize((width, height), Image.Resampling.BICUBIC)
    smooth.convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


def with_segment(data, marker, content):
    """A JPEG with one more segment before all others."""
    return data[:2] + struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content + data[2:]


def adobe(data, transform):
    """A JPEG without JFIF, whose colours are what Adobe's marker says."""
    size = int.from_bytes(data[4:6], "big")
    return with_segment(data[:2] + data[4 + size :], 0xEE, b"Adobe\0d\0\0\0\0" + bytes([transform]))


PLAIN = {
    "baseline": saved(),
    "grey": saved("L"),
    "progressive": saved(progressive=True),
    "grey, progressive": saved("L", progressive=True),
    "4:4:4": saved(subsampling=0),
    "4:2:2": saved(subsampling=1),
    "4:2:0": saved(subsampling=2),
    "4:1:1": simplejpeg.encode_jpeg(noise(2, 50, 70), colorsubsampling="411"),
    "4:4:0": simplejpeg.encode_jpeg(noise(2, 50, 70), colorsubsampling="440"),
    "one pixel": saved(height=1, width=1),
    "thin": saved(height=3, width=411),
    "restarts": saved(restart_marker_blocks=3),
    "comment": saved(comment=b"a comment"),
    "profile": saved(icc_profile=bytes(300)),
    "poor": saved(quality=2),
    "colours untransformed": adobe(saved(keep_rgb=True), 0),
    "colours transformed": adobe(saved(), 1),
}
ASKED = {  # Pillow reads the header
    "turned": saved(exif=EXIF),
    "pictures in a picture": with_segment(saved(), 0xE2, b"MPF\0" + bytes(20)),
    "Photoshop": with_segment(saved(), 0xED, b"Photoshop 3.0\0" + bytes(20)),
    "short profile": with_segment(saved(), 0xE2, b"ICC"),
    "padded": saved()[:2] + b"\xff" + saved()[2:],
}
PILLOWS = {"inks": saved("CMYK"), "inks, progressive": saved("CMYK", progressive=True)}


def by_pillow(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def without_simplejpeg():
    return mock.patch.multiple(module, decode_pixels=lambda *_: None, decode_values=lambda *_: None)


@pytest.fixture
def decoded(monkeypatch):
    """The images that simplejpeg decoded."""
    counted = []

    def count(data, *arguments, **options):
        pixels = simplejpeg.decode_jpeg(data, *arguments, **options)
        counted.append(data)
        return pixels

    monkeypatch.setattr(jpeg, "decode_jpeg", count)
    return counted


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
@pytest.mark.parametrize("name", [*PLAIN, *ASKED, *PILLOWS])
def test_pixels_are_pillows(name, decoded):
    data = {**PLAIN, **ASKED, **PILLOWS}[name]
    assert np.array_equal(np.asarray(open_image(data)), by_pillow(data))
    assert bool(decoded) == (name not in PILLOWS)
    assert (jpeg.read_header(data) is not None) == (name in PLAIN)


@pytest.mark.filterwarnings("ignore:Image appears to be a malformed MPO")
@pytest.mark.parametrize("name", [*PLAIN, *ASKED, *PILLOWS])
def test_values_of_its_own_bands_are_pillows(name):
    data = {**PLAIN, **ASKED, **PILLOWS}[name]
    values, has_alpha = read_values(data)
    with without_simplejpeg():
        expected = read_values(data)
    assert np.array_equal(values, expected.values)
    assert has_alpha is expected.has_alpha is False
    before = values.copy()
    open_image(saved(quality=50))
    assert np.array_equal(values, before)  # they do not lie where the next image does


def test_pixels_of_real_photographs_are_pillows(test_data, decoded):
    images = list(photographs(test_data))
    assert all(np.array_equal(np.asarray(open_image(data)), by_pillow(data)) for data in images)
    assert len(decoded) == len(images) == 500


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize("size", [(900, 1200), (901, 1203), (2051, 2049), (150, 2500), (700, 701)])
def test_fast_decoding_shrinks_as_pillow_does(mode, size, decoded):
    data = saved(mode, *size, quality=95)
    fast = decode_at(data, 64, 48, fast=True)
    assert decoded
    with without_simplejpeg():
        expected = decode_at(data, 64, 48, fast=True)
        exact = decode_at(data, 64, 48)
    assert np.array_equal(fast.pixels, expected.pixels)
    assert not np.array_equal(fast.pixels, exact.pixels)


def broken():
    """JPEGs that libjpeg warns of, or cannot read."""
    good = saved(quality=90)
    yield good[:-2]
    yield good[:-500]
    yield good[:200]
    yield good[:-2] + bytes(8) + good[-2:]
    yield good.replace(b"\xff\xda", b"\xff\xda\0", 1)
    middle = len(good) // 2
    yield good[:middle] + bytes(30) + good[middle:]
    yield good[:middle] + b"\xff\xd9" + good[middle:]
    yield with_segment(good, 0xE0, b"JFIF")
    yield with_segment(good, 0xEE, b"Adobe")
    yield with_segment(good, 0xDB, b"\0" * 5)
    yield good[:2] + b"\0\0\0" + good[2:]
    yield good + b"\xff\xd8" + bytes(100)


BROKEN = list(broken())


@pytest.mark.parametrize("data", BROKEN, ids=range(len(BROKEN)))
def test_what_pillow_thinks_of_a_broken_one_holds(data):
    def outcome():
        try:
            image = decode(data, Preparation(48, (48, 48)))
            return image.pixels.tobytes(), image.hash
        except DecodeError as error:
            return str(error)

    found = outcome()
    with without_simplejpeg():
        assert outcome() == found


def test_a_larger_one_is_refused_before_it_is_decoded(decoded):
    for data in (PLAIN["baseline"], ASKED["turned"]):
        with pytest.raises(DecodeError, match="163 x 121 pixels are more than 1000"):
            decode(data, Preparation(48, (48, 48), max_pixels=1000))
    assert decoded == []


def test_a_large_image_takes_memory_of_its_own(monkeypatch):
    data = saved()
    small = np.asarray(open_image(data))
    monkeypatch.setattr(jpeg, "KEPT_BYTES", 100)
    assert np.array_equal(np.asarray(open_image(data)), small)


def test_other_formats_are_none_of_its_own():
    for data in (encode(noise(1)), b"", b"\xff\xd8\xff", b"\xff\xd8\xff" + bytes(50)):
        assert jpeg.read_header(data) is None
    assert jpeg.read_header(PLAIN["grey"]) == (121, 163, 1)
    assert MAX_PIXELS > 121 * 163
