import numpy as np
import pytest

from tests.conftest import write_tar
from topnine.pipeline.data import fetching
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import IMAGES_A_READ
from topnine.pipeline.data.fetching import ImageRecord, fetch_ahead, find_stretches
from topnine.pipeline.data.forms.tar import OpenTar
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.errors import DecodeError


def content(number, size=2000):
    return np.random.default_rng(number).bytes(size)


@pytest.fixture
def opened(tmp_path):
    """A reader of two tars of 40 images each, and the records of all, with the bytes that each should have."""
    for name, first in (("a", 0), ("b", 40)):
        write_tar(tmp_path / f"{name}.tar", [(f"{name}{i}.jpg", content(first + i)) for i in range(40)])
    dataset = find_dataset(str(tmp_path))
    records = [
        ImageRecord(number, entry.offset, entry.size, entry.key)
        for number, shard in enumerate(dataset.shards)
        for entry in list_images(shard)
    ]
    with open_reader(dataset) as reader:
        yield reader, records, [content(i) for i in range(80)]


def fetched(reader, batches):
    return [data for part in fetch_ahead(reader, batches) for data in part.data]


def test_images_that_follow_one_another_are_one_read_and_no_read_crosses_a_shard_or_a_batch(opened, monkeypatch):
    reader, records, expected = opened
    read, reads = OpenTar.read, []
    monkeypatch.setattr(OpenTar, "read", lambda self, *where: reads.append(where) or read(self, *where))
    assert fetched(reader, [records[:60], records[60:]]) == expected
    assert len(reads) == 3 + 2 + 2  # of 40, 20 and 20 images, at most 16 together
    assert IMAGES_A_READ == 16


def test_what_is_far_apart_or_in_another_order_is_read_alone_and_repeated_images_too(opened):
    reader, records, expected = opened
    order = [5, 3, 3, 79, 0, 1, 40, 39, 0, 41, 2]  # 41 lies behind 0, but in the other tar
    assert fetched(reader, [[records[i] for i in order]]) == [expected[i] for i in order]


def test_large_images_are_not_read_together(opened, monkeypatch):
    reader, records, _ = opened
    monkeypatch.setattr(fetching, "READ_BYTES", 8000)
    assert {rows.stop - rows.start for rows in find_stretches(reader, records[:40])} == {3, 1}
    monkeypatch.setattr(fetching, "READ_BYTES", 100)
    assert {rows.stop - rows.start for rows in find_stretches(reader, records[:40])} == {1}


def test_the_image_that_cannot_be_read_has_the_error_and_those_before_it_their_bytes(opened, monkeypatch):
    reader, records, expected = opened
    read, bad = OpenTar.read, records[5]

    def fail(self, offset, size, key):
        if offset <= bad.offset < offset + size:
            raise OSError("a bad sector")
        return read(self, offset, size, key)

    monkeypatch.setattr(OpenTar, "read", fail)
    data = fetched(reader, [records[:20]])
    assert data[:5] == expected[:5]
    assert [type(one) for one in data[5:16]] == [OSError] * 11
    assert data[16:] == expected[16:20]  # in the next read


def test_what_is_known_to_be_damaged_is_not_read_and_keeps_its_place(opened):
    reader, records, expected = opened
    for i in (0, 7, 8, 39):
        records[i] = records[i]._replace(damage=f"damage {i}", offset=10**12)
    data = fetched(reader, [records])
    for i, one in enumerate(data):
        if i in (0, 7, 8, 39):
            assert isinstance(one, DecodeError)
            assert str(one) == f"damage {i}"
        else:
            assert one == expected[i]


def test_files_that_are_gone_are_errors_of_reading(opened, tmp_path):
    reader, records, _ = opened
    (tmp_path / "b.tar").unlink()
    assert {type(one) for one in fetched(reader, [records[40:]])} == {FileNotFoundError}
