"""The forms that a shard may have, and reading a dataset's images, whatever the form.

To add a form, write a module in ``forms`` with ``list_images(shard)``, which lists a shard's images in their order
without reading them, ``open_shard(shard, kept)``, which returns an object whose ``read(offset, size, key)``
returns the bytes of one image, and ``together(shard)``, which says how many are read at once. Add the module to
``FORMS`` under the extension of its files. Only ``dataset`` knows a form, too: that a folder is one.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from ..errors import DecodeError
from ..files import is_url
from ..prefetch import map_ahead
from .decoding.preparation import Encoded
from .entry import IN_FLIGHT, Dataset, Entry, Shard, ShardSelection, Together
from .forms import folder, parquet, tar
from .kept import Kept
from .listing import Index, Listing, join

Data = Encoded | DecodeError | OSError  # of an image, or why it cannot be read

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

    def together(self, shard: Shard, /) -> Together:
        """Return how its images are read together."""


FOLDER = "folder"
FORMS: Mapping[str, Form] = {"tar": tar, "parquet": parquet, FOLDER: folder}


def list_images(shard: Shard) -> Listing:
    """List the images of a shard in its own order, without reading them; InputError says what is wrong with it."""
    return FORMS[shard.form].list_images(shard)


def list_shards(shards: Sequence[Shard]) -> list[Listing]:
    """List the images of shards, those of a bucket side by side; errors as ``list_images``."""
    at_once = IN_FLIGHT if is_url(shards[0].path) else 1
    with closing(map_ahead(list_images, shards, at_once, 2 * at_once)) as listings:
        return list(listings)


def list_dataset(dataset: Dataset) -> Index:
    """List the images of a dataset, shard by shard; errors as ``list_images``."""
    return join(dataset, list_shards(dataset.shards))


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


class Place(NamedTuple):
    """Where an image is in its shard: its offset and size as its ``Entry`` has them, and its unique key."""

    offset: int
    size: int
    key: str


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
        self._together: dict[int, Together] = {}

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

    def read_together(self, shard: int, places: Sequence[Place]) -> list[Data]:
        """Return the bytes of images of a shard, in one read where they are one stretch; errors in their places.

        Those of one read are views of it, without a copy. Behind an image that cannot be read no other is tried: all of
        them get its error.
        """
        first, last = places[0], places[-1]
        try:
            with self._use(shard) as opened:
                if len(places) > 1 and self.together(shard).gap is not None:
                    with suppress(OSError):  # so that the one that cannot be read is found
                        data = memoryview(opened.read(first.offset, last.offset + last.size - first.offset, first.key))
                        starts = (place.offset - first.offset for place in places)
                        return [data[start : start + place.size] for start, place in zip(starts, places, strict=True)]
                return _read_each(opened, places)
        except OSError as error:  # the shard cannot be opened
            return [error] * len(places)

    def together(self, shard: int) -> Together:
        """Return how the images of a shard, by its number, are read together."""
        if shard not in self._together:
            self._together[shard] = FORMS[self._shards[shard].form].together(self._shards[shard])
        return self._together[shard]

    @property
    def in_flight(self) -> int:
        """How many reads may be under way at once."""
        numbers = self._shards if isinstance(self._shards, Mapping) else range(len(self._shards))
        return min((self.together(number).in_flight for number in numbers), default=1)

    def name(self, shard: int) -> str:
        """Return the name of a shard."""
        return self._shards[shard].name

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


def _read_each(opened: OpenShard, places: Sequence[Place]) -> list[Data]:
    """Return the bytes of images, read one by one, up to the first that cannot be read."""
    read: list[Data] = []
    for place in places:
        try:
            read.append(opened.read(*place))
        except DecodeError as error:
            read.append(error)
        except OSError as error:
            return read + [error] * (len(places) - len(read))
    return read
