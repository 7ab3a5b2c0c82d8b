import csv
import os
import threading

import numpy as np
import pytest
from pyarrow import parquet

from topnine.pipeline import tables
from topnine.pipeline.errors import InputError
from topnine.pipeline.tables import WRITERS, replacing, write_csv, write_parquet

COLUMNS = {
    "key": np.array(['a "b", c', "=1+1", "two\nlines", "ü—学"], object),
    "value": np.array([0.1, 1 / 3, -2e-30, np.nan], np.float32),
    "image": np.array([1, -1, 2**40, 0]),
}


def test_csv_has_names_then_rows_with_the_line_ends_of_the_standard(tmp_path):
    write_csv([COLUMNS], tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes().decode() == (
        'key,value,image\r\n"a ""b"", c",0.1,1\r\n=1+1,0.33333334,-1\r\n"two\nlines",-2e-30,1099511627776\r\n'
        "ü—学,nan,0\r\n"
    )
    with (tmp_path / "x.csv").open(newline="", encoding="utf-8") as file:
        _, *rows = csv.reader(file, strict=True)
    assert [row[0] for row in rows] == COLUMNS["key"].tolist()
    assert np.array_equal(np.array([row[1] for row in rows], np.float32), COLUMNS["value"], equal_nan=True)


def test_csv_takes_columns_of_python_values_and_none_is_empty(tmp_path):
    write_csv([{"a": ["1.50", None], "b": [True, 3]}], tmp_path / "x.csv")
    assert (tmp_path / "x.csv").read_bytes() == b"a,b\r\n1.50,True\r\n,3\r\n"


def test_parquet_keeps_values_and_types(tmp_path):
    write_parquet([COLUMNS], tmp_path / "x.parquet")
    table = parquet.read_table(tmp_path / "x.parquet")
    assert [str(field.type) for field in table.schema] == ["string", "float", "int64"]
    for name, values in COLUMNS.items():
        assert table[name].to_pylist()[:3] == values.tolist()[:3]


def test_without_pyarrow_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"x.parquet needs pyarrow: pip install 'topnine\[parquet\]'"):
        write_parquet([COLUMNS], tmp_path / "x.parquet")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", WRITERS)
def test_a_table_that_fails_leaves_the_file_before_and_nothing_else(tmp_path, form):
    path = tmp_path / f"x{form}"
    path.write_bytes(b"before")
    with pytest.raises(ValueError, match=r"argument|length"):
        WRITERS[form]([{"a": np.arange(9), "b": np.arange(9)}, {"a": np.arange(99_999), "b": np.arange(99_998)}], path)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {path.name: b"before"}


def test_a_file_is_replaced_only_at_the_end_and_a_link_stays_one(tmp_path):
    target, link = tmp_path / "target", tmp_path / "folder/link"
    link.parent.mkdir()
    target.write_text("before")
    link.symlink_to("../target")
    with replacing(link) as temporary:
        temporary.write_text("after")
        assert target.read_text() == "before"
    assert link.is_symlink()
    assert target.read_text() == "after"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "link", "target"]


def test_an_error_keeps_the_file_even_where_nothing_was_written(tmp_path):
    with pytest.raises(KeyboardInterrupt), replacing(tmp_path / "x"):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_a_pipe_is_written_to_and_not_replaced(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_bytes()))
    reader.start()
    write_csv([{"a": [1]}], pipe)
    reader.join()
    assert received == [b"a\r\n1\r\n"]
    assert pipe.is_fifo()
