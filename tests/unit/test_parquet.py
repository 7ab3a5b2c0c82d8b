from concurrent.futures import ThreadPoolExecutor

import pyarrow as arrow
import pytest
from pyarrow import parquet

from tests.conftest import noise
from topnine.pipeline import files
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Shard
from topnine.pipeline.data.forms import parquet as module
from topnine.pipeline.data.forms.parquet import OpenParquet, list_images
from topnine.pipeline.data.kept import Kept
from topnine.pipeline.data.reader import open_reader
from topnine.pipeline.errors import DecodeError, InputError

IMAGE = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
SCHEMA = arrow.schema([("image", IMAGE), ("label", arrow.int64())])


def shard_of(path):
    return Shard(path.name, str(path), "parquet", path.stat().st_size, 0.0)


def open_parquet(path, kept=None):
    return OpenParquet(shard_of(path), kept or Kept(2))


def write_rows(path, rows, schema=SCHEMA, **options):
    parquet.write_table(arrow.Table.from_pylist(rows, schema), path, **options)
    return path


def row(number, **changes):
    return {"image": {"bytes": bytes([number]), "path": f"x/{number}.jpg"}, "label": number, **changes}


def test_rows_are_listed_with_their_names_and_labels(tmp_path):
    rows = [row(0), row(1, label=None), row(2, image={"bytes": b"2", "path": None}), row(3, image=None)]
    entries = list_images(shard_of(write_rows(tmp_path / "train-0.parquet", rows)))
    expected = [("0", 0), ("1", -1), ("train-0-000002", 2), ("train-0-000003", 3)]
    assert [(entry.key, entry.label) for entry in entries] == expected
    assert [(entry.offset, entry.size, entry.folder) for entry in entries] == [(i, 0, "train-0") for i in range(4)]


@pytest.mark.parametrize("order", [range(20), range(19, -1, -1), [0, 19, 7, 8, 0, 13]])
@pytest.mark.parametrize("portion_rows", [1, 2, 32])
def test_rows_are_read_in_any_order_and_two_row_groups_are_kept(tmp_path, order, portion_rows, monkeypatch):
    monkeypatch.setattr(module, "PORTION_ROWS", portion_rows)
    monkeypatch.setattr(module, "PORTION_BYTES", 1)
    kept = Kept(2)
    file = open_parquet(write_rows(tmp_path / "a.parquet", [row(i) for i in range(20)], row_group_size=7), kept)
    for i in order:
        assert file.read(i, 0, "") == bytes([i])
        assert len(kept._values) <= 2
    file.close()
    assert not kept._values


def test_all_shards_of_a_reader_keep_two_row_groups_together(tmp_path):
    for number in range(5):
        write_rows(tmp_path / f"{number}.parquet", [row(10 * number + i) for i in range(10)], row_group_size=4)
    dataset = find_dataset(str(tmp_path))
    with open_reader(dataset) as reader, ThreadPoolExecutor(4) as pool:
        places = [(shard, i) for shard in range(5) for i in range(10)] * 2
        data = list(pool.map(lambda place: reader.read(*place, 0, ""), places))
        assert data == [bytes([10 * shard + i]) for shard, i in places]
        assert len(reader._kept._values) == 2


def test_one_row_group_is_held_at_a_time_however_many_shards_there_are(tmp_path):
    images = [noise(i, 300, 300).tobytes() for i in range(100)]
    rows = [row(0, image={"bytes": data, "path": f"{i}"}) for i, data in enumerate(images)]
    for number in range(3):
        write_rows(tmp_path / f"{number}.parquet", rows, row_group_size=100, compression="none")
    most, before = 0, arrow.total_allocated_bytes()
    with open_reader(find_dataset(str(tmp_path))) as reader:
        for shard in range(3):
            for i in range(100):
                assert reader.read(shard, i, 0, "") == images[i]
                most = max(most, arrow.total_allocated_bytes() - before)
    assert most < 26 * 2**20 + 4 * 5 * 2**20  # a row group, and two portions of two


def test_an_image_that_is_null_is_damaged(tmp_path):
    rows = [row(0, image=None), row(1, image={"bytes": None, "path": "1.jpg"})]
    file = open_parquet(write_rows(tmp_path / "a.parquet", rows))
    for i in range(2):
        with pytest.raises(DecodeError, match="the image is null"):
            file.read(i, 0, "")


def test_a_damaged_row_group_is_no_damage_of_its_images(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [row(i) for i in range(20)], row_group_size=10, compression="none")
    column = parquet.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    file = open_parquet(path)
    assert file.read(9, 0, "") == b"\x09"
    for _ in range(2):
        with pytest.raises(OSError, match="row group 1 cannot be decoded: "):
            file.read(10, 0, "")
    assert file.read(9, 0, "") == b"\x09"


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), PermissionError(13, "forbidden")])
def test_an_error_of_reading_is_passed_on_as_it_is_and_may_pass(tmp_path, monkeypatch, error):
    path = write_rows(tmp_path / "a.parquet", [row(i) for i in range(20)], row_group_size=10)
    file = open_parquet(path)
    read, failing = files.OpenFile.read, []

    def fail(self, offset, size):
        if failing:
            raise error
        return read(self, offset, size)

    monkeypatch.setattr(files.OpenFile, "read", fail)
    failing.append(True)
    for act in (lambda: file.read(3, 0, ""), lambda: list_images(shard_of(path))):
        with pytest.raises(type(error), match=error.strerror):
            act()
    failing.clear()
    assert file.read(3, 0, "") == b"\x03"
    assert len(list_images(shard_of(path))) == 20


def test_an_answer_that_is_too_short_is_no_image(tmp_path, monkeypatch):
    path = write_rows(tmp_path / "a.parquet", [row(i) for i in range(20)], row_group_size=10)
    file = open_parquet(path)
    monkeypatch.setattr(files.OpenFile, "_read_local", lambda self, offset, size: b"x" * (size // 2))
    with pytest.raises(OSError, match=r"gave .* of .* bytes at"):
        file.read(3, 0, "")
    with pytest.raises(OSError, match=r"gave .* of .* bytes at"):
        list_images(shard_of(path))


def test_a_truncated_file_has_no_footer_and_is_refused(tmp_path):
    path = write_rows(tmp_path / "a.parquet", [row(i) for i in range(20)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"a\.parquet is damaged: "):
        list_images(shard_of(path))


def test_what_has_no_column_of_images_is_refused(tmp_path):
    text = arrow.schema([("image", arrow.struct([("bytes", arrow.string())]))])
    other = arrow.schema([("text", arrow.string()), ("label", arrow.string())])
    named = arrow.schema([("image", IMAGE), ("label", arrow.string())])
    refused = [
        (text, {"image": {"bytes": "x"}}, "the bytes of column image are of type string, expected binary"),
        (other, {"text": "x", "label": "y"}, "has no column image with bytes: its columns are label, text"),
        (named, row(0, label="cat"), "row 0 has label 'cat', expected a class index"),
    ]
    for schema, content, words in refused:
        with pytest.raises(InputError, match=words):
            list_images(shard_of(write_rows(tmp_path / "a.parquet", [content], schema)))


def test_a_damaged_file_is_refused_by_one_line(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1" + b"x" * 100)
    with pytest.raises(InputError, match=r"a\.parquet is damaged: .*\. Copy the shard again\.$") as error:
        list_images(shard_of(path))
    assert "\n" not in str(error.value)
