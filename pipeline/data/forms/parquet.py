"""Parquet shards as Hugging Face ships them: ``image`` = struct of bytes and path, ``label`` = class index."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from itertools import accumulate
from pathlib import PurePosixPath
from typing import Any

from ...errors import DecodeError, InputError, first_line
from ...files import FileStream, OpenFile
from ..entry import Shard, Together
from ..kept import Kept
from ..listing import Listing, ListingBuilder

PORTION_BYTES = 4 * 2**20  # of a row group that is decoded at once
PORTION_ROWS = 16  # at least: threads read a little out of order
PORTIONS = 2  # of a row group that are kept
LISTED_ROWS = 4096  # whose names and labels are read at once


def list_images(shard: Shard) -> Listing:
    """List the images of a parquet file in row order; their bytes are not read.

    Raises
    ------
    InputError
        Not a parquet file, or one without a column ``image`` of bytes and path; pyarrow is not installed.
    OSError
        It cannot be read.
    """
    with _ParquetFile(shard) as file:
        columns = file.columns()
        _check_image_column(shard.path, file, columns)
        wanted = [name for name in ("image.path", "label") if name in columns]
        images, stem = ListingBuilder(), PurePosixPath(shard.path).stem
        if not wanted:
            for number in range(file.rows):
                images.add(_default_key(stem, number), stem, number, 0)
            return images.finish()
        try:
            for batch in file.iterate(wanted, LISTED_ROWS, range(len(file.groups))):
                for row in batch.to_pylist():
                    _add(images, shard.path, stem, row)
        except OSError as error:
            raise file.damage(error) from error
        return images.finish()


def together(shard: Shard) -> Together:
    """Return how the rows of a parquet file are read together: in their order, as they are decoded in it."""
    return Together(PORTION_ROWS, 1)


def open_shard(shard: Shard, kept: Kept) -> OpenParquet:
    """Open a parquet file for reading its images."""
    return OpenParquet(shard, kept)


class OpenParquet:
    """Reads images by row. A row group is decoded from its first row on, a portion at a time: rows are read in order.

    Parquet holds a whole page of the row group that it decodes, which may be all of it. So a reader decodes one row
    group at a time, and of the one before it keeps the last portions: threads read a little out of order.
    """

    def __init__(self, shard: Shard, kept: Kept) -> None:
        self._kept = kept
        self._file = _ParquetFile(shard)
        self._first_rows = list(accumulate(self._file.groups, initial=0))

    def read(self, row: int, _: int, key: str) -> bytes:
        """Return the bytes of the image in a row.

        Raises
        ------
        DecodeError
            The image is null.
        OSError
            The row group cannot be read or decoded.
        """
        group = bisect_right(self._first_rows, row) - 1
        if group >= len(self._file.groups):
            raise OSError(f"it has only {self._file.rows:,} rows now")
        row -= self._first_rows[group]
        with self._kept.lock:
            reading: _RowGroup = self._kept.get(self, group, lambda: _RowGroup(self._file, group))
            if not reading.has(row):
                self._decode_up_to(row, reading)
            image = reading.get(row).as_py()
        data = image and image.get("bytes")
        if data is None:
            raise DecodeError("the image is null")
        return bytes(data)

    def close(self) -> None:
        """Close the file."""
        with self._kept.lock:
            self._kept.forget(self)
            self._file.close()

    def _decode_up_to(self, row: int, reading: _RowGroup) -> None:
        for other in self._kept.values():
            if other is not reading:
                other.pause()
        try:
            reading.decode_up_to(row)
        except BaseException:
            reading.pause()  # it is somewhere amid the row group
            raise


class _RowGroup:
    """A row group that is decoded from its first row on; the last portions are kept."""

    def __init__(self, file: _ParquetFile, number: int) -> None:
        self._file = file
        self._number = number
        self._portions: deque[tuple[int, Any]] = deque()  # of the first row, and the images from it on
        self._batches: Iterator[Any] | None = None
        self._end = 0  # the row up to which it is decoded

    def has(self, row: int) -> bool:
        """Return whether a row is in the portions that are kept."""
        return any(first <= row < first + len(images) for first, images in self._portions)

    def get(self, row: int) -> Any:
        """Return the image in a row that is kept."""
        return next(images[row - first] for first, images in reversed(self._portions) if first <= row)

    def decode_up_to(self, row: int) -> None:
        """Decode portions until a row is in one of them."""
        if self._batches is None or row < self._end:
            self.pause()
            self._portions.clear()
            self._batches, self._end = self._file.iterate_images(self._number), 0
        while row >= self._end:
            if len(self._portions) == PORTIONS:
                self._portions.popleft()  # its memory is free before the next one is decoded
            batch = next(self._batches, None)
            if batch is None:
                raise OSError(f"row group {self._number} has only {self._end:,} rows")
            self._portions.append((self._end, batch.column("image")))
            self._end += len(batch)

    def pause(self) -> None:
        """Free the memory that decoding takes; the portions are kept."""
        self._batches = None


class _ParquetFile:
    """A parquet file that is open; every error in reading it is an OSError.

    Attributes
    ----------
    groups : list of int
        Rows of each row group.
    """

    def __init__(self, shard: Shard) -> None:
        arrow = _arrow()
        self._path = shard.path
        self._stream = FileStream(OpenFile(shard.path, shard.size))
        try:
            self.arrow = arrow.parquet.ParquetFile(
                self._stream, buffer_size=PORTION_BYTES, pre_buffer=False, page_checksum_verification=True
            )
        except (arrow.ArrowException, OSError) as error:
            self._stream.close()
            raise self.damage(error) from error
        metadata = self.arrow.metadata
        self.groups = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        self.rows = metadata.num_rows

    def columns(self) -> set[str]:
        """Return the paths of the columns."""
        schema = self.arrow.schema
        return {schema.column(i).path for i in range(len(schema))}

    def iterate_images(self, group: int) -> Iterator[Any]:
        """Yield the images of a row group in portions."""
        metadata = self.arrow.metadata.row_group(group)
        rows = PORTION_BYTES * int(metadata.num_rows) // max(1, int(metadata.total_byte_size))
        return self.iterate(["image.bytes"], max(PORTION_ROWS, rows), [group])

    def iterate(self, columns: Sequence[str], rows: int, groups: Sequence[int]) -> Iterator[Any]:
        """Yield some columns of row groups, so many rows at a time; OSError where they cannot be read or decoded."""
        arrow = _arrow()
        try:
            yield from self.arrow.iter_batches(rows, row_groups=list(groups), columns=list(columns), use_threads=False)
        except (arrow.ArrowException, OSError) as error:
            if self._stream.error is not None:
                raise self._stream.error from None
            numbers = f"row group {groups[0]}" if len(groups) == 1 else "its row groups"
            raise OSError(f"{numbers} cannot be decoded: {first_line(error)}") from error

    def damage(self, error: Exception) -> Exception:
        """Return the error of reading that is behind an error, or if there is none, one that says it is damaged."""
        damaged = InputError(f"shard {self._path} is damaged: {first_line(error)}. Copy the shard again.")
        return self._stream.error or damaged

    def close(self) -> None:
        """Close the file."""
        self.arrow.close()
        self._stream.close()

    def __enter__(self) -> _ParquetFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _check_image_column(path: str, file: _ParquetFile, columns: set[str]) -> None:
    if "image.bytes" not in columns:
        raise InputError(f"shard {path} has no column image with bytes: its columns are {', '.join(sorted(columns))}.")
    kind = file.arrow.schema_arrow.field("image").type.field("bytes").type
    types = _arrow().types
    if not (types.is_binary(kind) or types.is_large_binary(kind)):
        raise InputError(f"shard {path}: the bytes of column image are of type {kind}, expected binary.")


def _add(images: ListingBuilder, path: str, stem: str, row: dict[str, Any]) -> None:
    """Add the image of the next row."""
    number, label = len(images), row.get("label")
    if not isinstance(label, int | None):
        raise InputError(f"shard {path}: row {number} has label {str(label)[:40]!r}, expected a class index.")
    name = str((row.get("image") or {}).get("path") or "").replace("\0", "_")
    images.add(PurePosixPath(name).stem or _default_key(stem, number), stem, number, 0, -1 if label is None else label)


def _default_key(stem: str, number: int) -> str:
    return f"{stem}-{number:06d}"


def _arrow() -> Any:
    """Return pyarrow, which is only needed for parquet; InputError if it is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise InputError("parquet shards need the extra 'parquet': pip install 'topnine[parquet]'.") from error
    return pyarrow
