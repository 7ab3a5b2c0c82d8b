import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.conftest import encode, noise, write_tar
from tests.forms import FORMS as WRITERS
from tests.forms import Picture
from topnine.pipeline.data import reader as reader_module
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Dataset, Shard
from topnine.pipeline.data.forms import tar
from topnine.pipeline.data.reader import FORMS, list_images, open_reader

PICTURES = [Picture(f"{i}", f"n{i % 2:08d}", i % 2, encode(noise(i))) for i in range(4)]


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_every_form_is_listed_and_read_alike(tmp_path, write):
    dataset = find_dataset(str(write(PICTURES, tmp_path)["path"]))
    entries = [(number, entry) for number, shard in enumerate(dataset.shards) for entry in list_images(shard)]
    with open_reader(dataset) as reader:
        data = {entry.key: reader.read(shard, entry.offset, entry.size, entry.key) for shard, entry in entries}
    assert data == {picture.key: picture.data for picture in PICTURES}


def test_the_writers_of_these_tests_cover_every_form(tmp_path):
    datasets = [find_dataset(str(write(PICTURES, tmp_path / write.__name__)["path"])) for write in WRITERS]
    assert {shard.form for dataset in datasets for shard in dataset.shards} == set(FORMS)


def test_a_read_past_the_end_of_a_tar_names_the_shard(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"12345")
    shard = Shard("a.tar", str(path), "tar", 5, 0.0)
    words = r"shard a\.tar is truncated: an image needs bytes 3\.\.13, the file ends at 5\. Copy the shard again\."
    with open_reader(Dataset("a", (shard,))) as reader, pytest.raises(OSError, match=words):
        reader.read(0, 3, 10, "x")


def test_a_file_of_a_folder_that_is_gone_or_another_one_is_a_failure(tmp_path):
    for name in ("1.png", "2.png"):
        (tmp_path / name).write_bytes(b"x")
    dataset = find_dataset(str(tmp_path))
    with open_reader(dataset) as reader:
        assert reader.read(0, 0, 1, "1") == b"x"
        with pytest.raises(OSError, match="it has 1 bytes now, and had 2 when it was indexed"):
            reader.read(0, 0, 2, "1")
        (tmp_path / "2.png").write_bytes(b"longer")
        with pytest.raises(OSError, match=r"2\.png has 6 bytes now, and had 1 when it was listed"):
            reader.read(0, 1, 1, "2")
        (tmp_path / "2.png").unlink()
        with pytest.raises(OSError, match="No such file or directory"):
            reader.read(0, 1, 1, "2")
    with open_reader(dataset) as reader, pytest.raises(OSError, match="has only 1 images now"):
        reader.read(0, 1, 1, "2")
    (tmp_path / "1.png").rename(tmp_path / "3.png")
    with open_reader(dataset) as reader, pytest.raises(OSError, match="has changed since it was indexed: 3 is in its"):
        reader.read(0, 0, 1, "1")


def test_a_bounded_number_of_shards_is_open_and_none_is_closed_under_a_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(reader_module, "OPEN_SHARDS", 3)
    for i in range(12):
        write_tar(tmp_path / f"{i:02}.tar", [(f"{i}.png", bytes([i]) * 100)])
    dataset = find_dataset(str(tmp_path))
    entries = [list_images(shard)[0] for shard in dataset.shards]
    opened, most, lock = set(), [0], threading.Lock()

    class Counted(tar.OpenTar):
        def __init__(self, shard):
            super().__init__(shard)
            with lock:
                opened.add(self)
                most[0] = max(most[0], len(opened))

        def read(self, *where):
            time.sleep(0.001)
            assert self in opened
            data = super().read(*where)
            assert self in opened
            return data

        def close(self):
            with lock:
                opened.remove(self)
            super().close()

    monkeypatch.setattr(tar, "OpenTar", Counted)
    with open_reader(dataset) as reader, ThreadPoolExecutor(4) as pool:

        def read(i):
            return reader.read(i, entries[i].offset, entries[i].size, entries[i].key)

        order = [i % 12 for i in range(0, 700, 7)]
        assert list(pool.map(read, order)) == [bytes([i]) * 100 for i in order]
    assert opened == set()
    assert most[0] <= 3 + 4


def test_a_shard_is_opened_once_by_all_threads_and_closed_at_the_end(tmp_path, monkeypatch):
    image = encode(noise(1))
    dataset = find_dataset(str(write_tar(tmp_path / "a.tar", [("1.png", image)])))
    (entry,) = list_images(dataset.shards[0])
    opened, closed = [], []

    class Counted(tar.OpenTar):
        def __init__(self, shard):
            opened.append(shard)
            super().__init__(shard)

        def close(self):
            closed.append(self)
            super().close()

    monkeypatch.setattr(tar, "OpenTar", Counted)
    data = []
    with open_reader(dataset) as reader:
        threads = [
            threading.Thread(target=lambda: data.append(reader.read(0, entry.offset, entry.size, entry.key)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not closed
    assert (data, len(opened), len(closed)) == ([image] * 8, 1, 1)
