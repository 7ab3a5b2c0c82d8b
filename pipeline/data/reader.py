"""The forms that a shard may have, and reading a dataset's images, whatever the form.

To add a form, write a module in ``forms`` with ``list_images(shard)``, which lists a shard's images in their order
without reading them, and ``open_shard(shard, kept)``, which returns an object whose ``read(offset, size, key)``
returns the bytes of one image. Add the module to ``FORMS`` under the extension of its files. Only ``dataset`` knows a
form, too: that a folder is one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from .entry import Dataset, Entry, Shard, ShardSelection
from .forms import folder, parquet, tar
from .kept import Kept
from .listing import Index, Listing, join

OPEN_SHARDS = 64  # of a reader; more are open only while more threads read
ROW_GROUPS = 2  # of a reader, of which something is kept


class OpenShard(Protocol):
    """A shard that is open for reading."""

    def read(self, offset: int, size: int, key: str, /) -> bytes:
        """Return the bytes of an image, whose unique key tells whether it is the one that was indexed. Thread-safe.

        Raises
        ------
        DecodeError
            There is no image. This is a property of the dataset.
        OSError
            It cannot be read, or it is not what was indexed.
        """

    def close(self) -> None:
        """Close the shard."""


class Form(Protocol):
    """A form of shard: what its module offers."""

    def list_images(self, shard: Shard, /) -> Listing:
        """List a shard's images in the shard's order, without reading them.

        Raises
        ------
        InputError
            It is no shard of this form, or damaged.
        OSError
            It cannot be read.
        """

    def open_shard(self, shard: Shard, kept: Kept, /) -> OpenShard:
        """Open a shard for reading its images; in ``kept`` it can keep what it has read."""


FOLDER = "folder"
FORMS: Mapping[str, Form] = {"tar": tar, "parquet": parquet, FOLDER: folder}


def list_images(shard: Shard) -> Listing:
    """List the images of a shard in its own order, without reading them; InputError says what is wrong with it."""
    return FORMS[shard.form].list_images(shard)


def list_dataset(dataset: Dataset) -> Index:
    """List the images of a dataset, one shard after the other; errors as ``list_images``."""
    return join(dataset, [list_images(shard) for shard in dataset.shards])


def first_images(shard: Shard, count: int) -> list[Entry]:
    """List the first images of a shard; of a tar, without going through all of it."""
    return tar.first_images(shard, count) if shard.form == "tar" else list_images(shard)[:count]


@contextmanager
def open_reader(dataset: Dataset | ShardSelection) -> Iterator[Reader]:
    """Open a dataset for reading its images; its files are closed at the end of the ``with`` block."""
    reader = Reader(dataset)
    try:
        yield reader
    finally:
        reader.close()


@dataclass
class _Opened:
    shard: OpenShard
    users: int = 0


class Reader:
    """Reads the encoded images of a dataset; threads may share one. The shards that were read last are kept open."""

    def __init__(self, dataset: Dataset | ShardSelection) -> None:
        self._shards = dataset.shards
        self._opened: OrderedDict[int, _Opened] = OrderedDict()  # the one that was used last is the last
        self._lock = threading.Lock()
        self._kept = Kept(ROW_GROUPS)

    def read(self, shard: int, offset: int, size: int, key: str) -> bytes:
        """Return the bytes of an image, by the number of its shard, its offset and size in its ``Entry``, and its key.

        Raises
        ------
        DecodeError
            There is no image. This is a property of the dataset.
        OSError
            It cannot be read, its shard ends before it does, or it is not the file that was indexed.
        """
        with self._use(shard) as opened:
            return opened.read(offset, size, key)

    def close(self) -> None:
        """Close the shards that are open."""
        for opened in self._opened.values():
            opened.shard.close()
        self._opened.clear()

    @contextmanager
    def _use(self, number: int) -> Iterator[OpenShard]:
        """Yield a shard that stays open until the end of the ``with`` block."""
        with self._lock:
            if number not in self._opened:
                self._close_idle()
                shard = self._shards[number]
                self._opened[number] = _Opened(FORMS[shard.form].open_shard(shard, self._kept))
            opened = self._opened[number]
            self._opened.move_to_end(number)
            opened.users += 1
        try:
            yield opened.shard
        finally:
            with self._lock:
                opened.users -= 1

    def _close_idle(self) -> None:
        """Close the shards that were not used for longest, so that one more can be opened."""
        idle = [number for number, opened in self._opened.items() if not opened.users]
        for number in idle[: max(0, len(self._opened) + 1 - OPEN_SHARDS)]:
            self._opened.pop(number).shard.close()
