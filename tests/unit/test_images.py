from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from tests.conftest import decode_at as decode
from tests.conftest import encode, noise, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.decoding import decode as decoding
from topnine.pipeline.data.decoding.preparation import Preparation
from topnine.pipeline.data.fetching import ImageRecord, Look
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.data.reader import list_images
from topnine.pipeline.errors import DecodeError, WorkError

IMAGES = [encode(noise(i, 40 + i, 50)) for i in range(12)]
CONFIG = Preparation(32, (24, 24))


def open_tar(folder, images=IMAGES, config=CONFIG, max_pixels=10_000):
    """Write images into a tar; return the source, and the records that an index would hold."""
    dataset = find_dataset(str(write_tar(folder / "a.tar", [(f"{i}.png", data) for i, data in enumerate(images)])))
    entries = list_images(dataset.shards[0])
    records = [ImageRecord(0, entry.offset, entry.size, entry.key, entry.damage) for entry in entries]
    return ImageSource(dataset, replace(config, max_pixels=max_pixels)), records


def look_of(data):
    decoded = decode(data, 32, 24)
    return Look(decoded.hash, decoded.geometry.height, decoded.geometry.width)


def decode_one(reader, record):
    """Return an image as mine has it; DecodeError where it is damaged."""
    (batch,) = reader.decode_batches([[record]], 1, 1, lambda images: np.full((images, 24, 24, 3), 7, np.uint8))
    (image,) = batch.images
    if isinstance(image, DecodeError):
        assert not batch.pixels.any()
        raise image
    assert np.array_equal(batch.pixels[0], image.pixels)
    return image


def test_images_are_decoded_as_configured(tmp_path):
    source, records = open_tar(tmp_path)
    with source.open() as reader:
        for data, record in zip(IMAGES, records, strict=True):
            decoded, expected = decode_one(reader, record), decode(data, 32, 24)
            assert np.array_equal(decoded.pixels, expected.pixels)
            assert (decoded.geometry, decoded.hash) == (expected.geometry, expected.hash)


def test_fast_decoding_is_passed_on(tmp_path):
    data = encode(np.asarray(noise(1, 200, 200)), "JPEG")
    pixels = {}
    for fast in (False, True):
        source, (record,) = open_tar(tmp_path, [data], replace(CONFIG, fast=fast), 40_000)
        with source.open() as reader:
            pixels[fast] = decode_one(reader, record).pixels
        assert np.array_equal(pixels[fast], decode(data, 32, 24, fast=fast).pixels)
    assert not np.array_equal(pixels[False], pixels[True])


def test_pixels_come_in_the_order_of_the_records_repeated_ones_too(tmp_path):
    source, records = open_tar(tmp_path)
    order = [3, 1, 11, 3, 0, 7]
    with source.open() as reader:
        pixels = reader.read_pixels([records[i] for i in order], threads=3)
        none = reader.read_pixels([], threads=3)
    assert (pixels.dtype, none.shape) == (np.uint8, (0, 24, 24, 3))
    assert np.array_equal(pixels, np.stack([decode(IMAGES[i], 32, 24).pixels for i in order]))


@pytest.mark.parametrize(
    ("data", "max_pixels", "reason"),
    [(b"text", 10_000, "not an image"), (IMAGES[0], 1999, "50 x 40 pixels are more than 1999")],
)
def test_bytes_that_are_no_image_are_damage_and_no_failure_of_work(tmp_path, data, max_pixels, reason):
    source, (record,) = open_tar(tmp_path, [data], max_pixels=max_pixels)
    with source.open() as reader, pytest.raises(DecodeError) as error:
        decode_one(reader, record)
    assert str(error.value) == reason


def test_an_image_that_is_known_to_be_damaged_is_not_read(tmp_path):
    source, (record, *_) = open_tar(tmp_path)
    (tmp_path / "a.tar").unlink()
    with source.open() as reader, pytest.raises(DecodeError) as error:
        decode_one(reader, record._replace(damage="is a link, not a plain file"))
    assert str(error.value) == "is a link, not a plain file"


def test_bytes_that_cannot_be_read_are_a_failure_of_work(tmp_path):
    source, (record, *_) = open_tar(tmp_path)
    with source.open() as reader, pytest.raises(WorkError) as error:
        decode_one(reader, record._replace(size=10**6))
    assert str(error.value).startswith("shard a.tar: image 0 cannot be read: shard a.tar is truncated: ")
    (tmp_path / "a.tar").unlink()
    with source.open() as reader, pytest.raises(WorkError, match=r"^shard a\.tar: image 0 cannot be read: .*No such"):
        decode_one(reader, record)


def test_a_mined_image_that_cannot_be_read_or_decoded_any_more_is_a_failure_of_work(tmp_path):
    source, records = open_tar(tmp_path)
    content = bytearray((tmp_path / "a.tar").read_bytes())
    content[records[2].offset : records[2].offset + 8] = b"notanpng"
    (tmp_path / "a.tar").write_bytes(content)
    broken = {
        "image 2 in shard a.tar was mined but cannot be decoded now: not an image. Has the shard changed?": records[2],
        "image 3 in shard a.tar was mined but cannot be decoded now: shard a.tar is truncated: ": records[3]._replace(
            size=10**6, look=look_of(IMAGES[3])
        ),
    }
    for sentence, record in broken.items():
        with source.open() as reader, pytest.raises(WorkError) as error:
            reader.read_pixels([records[0], record], threads=2)
        assert str(error.value).startswith(sentence)
        assert str(error.value).endswith("Has the shard changed?")


def test_a_mined_image_is_compared_with_what_it_looked_like(tmp_path):
    source, records = open_tar(tmp_path)
    known = [record._replace(look=look_of(data)) for record, data in zip(records, IMAGES, strict=True)]
    with source.open() as reader:
        assert reader.read_pixels(known, threads=2).shape == (12, 24, 24, 3)
        assert decode_one(reader, known[5]).geometry.height == 45
        for field in Look._fields:
            other = known[5]._replace(look=known[5].look._replace(**{field: getattr(known[5].look, field) + 1}))
            words = r"^shard a\.tar: image 5 has changed since it was mined: it has 45 × 50 pixels, difference hash "
            for read in (lambda record: reader.read_pixels([known[0], record], threads=2), partial(decode_one, reader)):
                with pytest.raises(WorkError, match=words):
                    read(other)


def test_an_image_that_was_mined_and_is_damaged_now_is_a_failure_of_work(tmp_path):
    source, (record,) = open_tar(tmp_path, [b"text"])
    with source.open() as reader, pytest.raises(WorkError, match=r"image 0 in shard a\.tar was mined but cannot be"):
        decode_one(reader, record._replace(look=look_of(IMAGES[0])))


def test_memory_that_runs_out_is_a_failure_of_work(tmp_path, monkeypatch):
    source, (record, *_) = open_tar(tmp_path)

    def exhausted(*_):
        raise MemoryError

    monkeypatch.setattr(decoding, "_decode", exhausted)
    with source.open() as reader:
        for read in (partial(decode_one, reader), lambda record: reader.read_pixels([record], threads=1)):
            with pytest.raises(WorkError, match=r"^shard a\.tar: image 0 cannot be decoded: memory ran out"):
                read(record)


def test_images_of_batches_come_in_order_and_what_cannot_be_decoded_is_black(tmp_path):
    data = [IMAGES[0], b"text", *IMAGES[1:6]]
    source, records = open_tar(tmp_path, data)
    records[4] = records[4]._replace(damage="is a link, not a plain file")
    batches = [records[:3], [], records[3:4], records[4:]]
    with source.open() as reader:
        decoded = list(reader.decode_batches(batches, 3, 2, lambda images: np.full((images, 24, 24, 3), 7, np.uint8)))
    assert [batch.records for batch in decoded] == [batch for batch in batches if batch]
    outcomes = [(image, pixels) for batch in decoded for image, pixels in zip(batch.images, batch.pixels, strict=True)]
    for number, (image, pixels) in enumerate(outcomes):
        if number in (1, 4):
            assert isinstance(image, DecodeError)
            assert not pixels.any()
        else:
            assert np.array_equal(pixels, decode(data[number], 32, 24).pixels)
