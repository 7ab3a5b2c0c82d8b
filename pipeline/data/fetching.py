"""The encoded images of a dataset, by their records in the index: fetched ahead of whoever decodes them.

Reading is apart from decoding, so that a bucket has many requests under way however few cores decode, and so that
consecutive images of a tar are one range.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import NamedTuple

from ..errors import DecodeError, WorkError, first_line
from ..prefetch import map_ahead
from .reader import Data, Place, Reader

READ_BYTES = 2**22  # of images that are read together; a larger image is read alone
AHEAD_BYTES = 2**26  # that are being read, or wait for whoever decodes them; fewer where few reads are under way
UNKNOWN_BYTES = 2**17  # of an image whose size the index does not say


class Look(NamedTuple):
    """What mine records of an image that it decoded, by which it is known again.

    Attributes
    ----------
    hash : int
        The ``decode.difference_hash`` of its pixels.
    height, width : int
        Of the source image, in pixels.
    """

    hash: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.height} × {self.width} pixels, difference hash {self.hash:016x}"


class ImageRecord(NamedTuple):
    """What the store holds of an image: where its bytes are, and how it is called.

    Attributes
    ----------
    shard : int
        Number of the shard in the dataset.
    offset, size : int
        Where the bytes are, as the shard's form counts (see ``Entry``).
    key : str
        The image's unique name.
    damage : str
        Why the image cannot be read, where that is known already, else "".
    look : Look, optional
        What it looked like when it was mined; None where it was not.
    """

    shard: int
    offset: int
    size: int
    key: str
    damage: str = ""
    look: Look | None = None


@dataclass(frozen=True)
class Fetched:
    """Consecutive images of a batch, as they were read together.

    Attributes
    ----------
    batch : sequence of ImageRecord
    rows : slice
        Which of the batch they are.
    data : list
        The bytes of each, or the error with which it cannot be read.
    """

    batch: Sequence[ImageRecord]
    rows: slice
    data: list[Data]

    @property
    def records(self) -> Sequence[ImageRecord]:
        """Which images they are."""
        return self.batch[self.rows]

    @property
    def is_last(self) -> bool:
        """Whether the batch ends with them."""
        return bool(self.rows.stop == len(self.batch))


def fetch_ahead(reader: Reader, batches: Iterable[Sequence[ImageRecord]]) -> Generator[Fetched, None, None]:
    """Read the images of batches, ahead of whoever takes them; yield those that were read together, in order.

    Raises
    ------
    WorkError
        Memory ran out.
    """

    def fetch(stretch: tuple[Sequence[ImageRecord], slice]) -> Fetched:
        """Read images together."""
        batch, rows = stretch
        return Fetched(batch, rows, _read(reader, batch[rows]))

    stretches = ((batch, rows) for batch in batches for rows in find_stretches(reader, batch))
    ahead = min(AHEAD_BYTES, reader.in_flight * READ_BYTES)
    with closing(map_ahead(fetch, stretches, reader.in_flight, ahead, _count_bytes)) as fetched:
        yield from fetched


def find_stretches(reader: Reader, batch: Sequence[ImageRecord]) -> Iterator[slice]:
    """Cut a batch into what is read together."""
    start, begin, end = 0, 0, 0  # the number of the first image, and where its bytes begin and those of the last end
    for number, record in enumerate(batch):
        together, size = reader.together(record.shard), record.size or UNKNOWN_BYTES
        if together.gap is None:
            offset, gap = end, 0
        else:
            offset = end if record.damage else record.offset
            gap = together.gap
        if number > start and not (
            record.shard == batch[start].shard
            and number - start < together.images
            and 0 <= offset - end <= gap
            and offset + size - begin <= READ_BYTES
        ):
            yield slice(start, number)
            start = number
        if number == start:
            begin = offset
        end = offset + (0 if record.damage else size)
    if batch:
        yield slice(start, len(batch))


def _count_bytes(stretch: tuple[Sequence[ImageRecord], slice]) -> int:
    batch, rows = stretch
    return sum(record.size or UNKNOWN_BYTES for record in batch[rows] if not record.damage)


def _read(reader: Reader, records: Sequence[ImageRecord]) -> list[Data]:
    """Return the bytes of images that are read together; what is known to be damaged is not read."""
    places = [Place(record.offset, record.size, record.key) for record in records if not record.damage]
    try:
        read = iter(reader.read_together(records[0].shard, places) if places else ())
    except MemoryError as error:
        raise WorkError(
            f"shard {reader.name(records[0].shard)}: image {records[0].key} and those behind it cannot be read: memory "
            f"ran out ({first_line(error)}). Run it where there is more."
        ) from None
    return [DecodeError(record.damage) if record.damage else next(read) for record in records]
