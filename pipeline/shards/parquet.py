"""Parquet shards as Hugging Face ships them: ``image`` = struct of bytes and path, ``label`` = class index."""

from __future__ import annotations

import threading
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DecodeError, InputError
from .entry import Entry
from .files import is_url


def scan(path: str) -> list[Entry]:
    """List the images of a parquet file in row order; their bytes are not read.

    Raises
    ------
    InputError
        Not a parquet file, or one without a column ``image`` of bytes and path; pyarrow is not installed.
    """
    file = _open(path)
    types, ArrowException = _arrow().types, _arrow().ArrowException  # noqa: N806
    leaves = {file.schema.column(i).path for i in range(len(file.schema))}
    if "image.bytes" not in leaves:
        raise InputError(f"shard {path} has no column image with bytes: its columns are {', '.join(sorted(leaves))}.")
    kind = file.schema_arrow.field("image").type.field("bytes").type
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise InputError(f"shard {path}: the bytes of column image are of type {kind}, expected binary.")
    wanted = [name for name in ("image.path", "label") if name in leaves]
    try:
        rows = file.read(columns=wanted).to_pylist() if wanted else [{}] * file.metadata.num_rows
    except (ArrowException, OSError) as error:
        raise InputError(f"shard {path} is damaged: {_first_line(error)}. Copy the shard again.") from error
    return [_entry(path, number, row) for number, row in enumerate(rows)]


def _entry(path: str, number: int, row: dict[str, Any]) -> Entry:
    stem = PurePosixPath(path).stem
    label = row.get("label")
    if not isinstance(label, int | None):
        raise InputError(f"shard {path}: row {number} has label {str(label)[:40]!r}, expected a class index.")
    name = str((row.get("image") or {}).get("path") or "").replace("\0", "_")
    key = PurePosixPath(name).stem or f"{stem}-{number:06d}"
    return Entry(key, stem, number, 0, -1 if label is None else label)


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


class ParquetFile:
    """Reads images by row; the row group that was read last is kept, for rows are read in order."""

    def __init__(self, path: str) -> None:
        self._file = _open(path)
        sizes = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = [sum(sizes[:i]) for i in range(len(sizes) + 1)]
        self._groups: dict[int, Any] = {}
        self._lock = threading.Lock()

    def read(self, row: int, _: int) -> bytes:
        """Give the bytes of the image in a row; DecodeError if it has none."""
        group = next(i for i, start in enumerate(self._starts[1:]) if row < start)
        with self._lock:
            if group not in self._groups:
                try:
                    column = self._file.read_row_group(group, columns=["image.bytes"]).column("image")
                except (_arrow().ArrowException, OSError) as error:
                    raise DecodeError(f"row group {group} cannot be read: {_first_line(error)}") from None
                self._groups = {**dict(list(self._groups.items())[-1:]), group: column}  # this and the one before
            value = self._groups[group][row - self._starts[group]].as_py()
        data = value and value.get("bytes")
        if data is None:
            raise DecodeError("the image is null")
        return bytes(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _arrow() -> Any:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("parquet shards need the extra 'parquet': pip install 'topnine[parquet]'.") from error
    return pyarrow


def _open(path: str) -> Any:
    arrow = _arrow()
    parquet = arrow.parquet
    try:
        if not is_url(path):
            return parquet.ParquetFile(Path(path))
        import fsspec

        system, place = fsspec.url_to_fs(path)
        return parquet.ParquetFile(system.open(place, "rb", cache_type="none"))  # only what is asked for
    except (arrow.ArrowException, OSError) as error:
        raise InputError(f"shard {path} is damaged: {_first_line(error)}. Copy the shard again.") from error
