"""The images of a dataset by their records in the index: read, and decoded to the network's input.

Mining, deconvolving, thumbnails and grids all read images here, so they treat a damaged image and a failed read alike.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace

import numpy as np

from ..errors import BandsError, DecodeError, InputError, WorkError, first_line
from ..prefetch import map_ahead
from .decoding.decode import Decoded, decode
from .decoding.preparation import Encoded, Preparation
from .entry import Dataset, Shard, ShardSelection
from .fetching import Fetched, ImageRecord, Look, fetch_ahead
from .reader import Data, Reader, first_images, open_reader

WAITING_A_THREAD = 4  # decoded images, in read_pixels
TRIED = 4  # times as many images as a sample shall have, for those that cannot be decoded


@dataclass(frozen=True)
class ImageSource:
    """A dataset, and how its images become the network's input."""

    dataset: Dataset | ShardSelection
    preparation: Preparation

    def select(self, shards: Iterable[int]) -> ImageSource:
        """Return the source with some shards alone, given by their numbers, which stay the same."""
        return replace(self, dataset=ShardSelection({number: self.dataset.shards[number] for number in shards}))

    @contextmanager
    def open(self) -> Iterator[ImageReader]:
        """Open the dataset for decoding its images; its files are closed at the end of the ``with`` block."""
        with open_reader(self.dataset) as reader:
            yield ImageReader(self, reader)

    def sample(self, count: int) -> np.ndarray:
        """Return the first images (image, y, x, channel) uint8 of the first shard that can be read: at most so many.

        Raises
        ------
        InputError
            A package that reads them is not installed, or none that can be decoded is one that the network takes.
        """
        pixels: list[np.ndarray] = []
        refused = ""
        for data in self.read_sample(self.dataset.shards[0], TRIED * count):
            try:
                pixels.append(decode(data, self.preparation).pixels)
            except BandsError as error:
                refused = str(error)
            except (DecodeError, MemoryError):
                continue
            if len(pixels) == count:
                break
        if refused and not pixels:
            raise InputError(
                f"the first images of {self.dataset.shards[0].path} are none that can be mined: {refused}."
            )
        return np.array(pixels, np.uint8).reshape(-1, *self.preparation.shape)

    def read_sample(self, shard: Shard, count: int) -> Iterator[bytes]:
        """Yield the bytes of the first images of a shard, of those that can be read: at most so many."""
        with suppress(InputError, OSError), open_reader(Dataset("", (shard,))) as reader:
            for entry in first_images(shard, count):
                if not entry.damage:
                    with suppress(OSError, DecodeError, MemoryError):
                        data = reader.read(0, entry.offset, entry.size, entry.key)
                        yield data


@dataclass(frozen=True)
class DecodedBatch:
    """Images that were decoded one after the other into one array.

    Attributes
    ----------
    records : sequence of ImageRecord
    pixels : ndarray (image, y, x, channel) uint8
        Damaged images are black.
    images : list
        Each as it was decoded, or the error that says why it is damaged.
    """

    records: Sequence[ImageRecord]
    pixels: np.ndarray
    images: list[Decoded | DecodeError]


class ImageReader:
    """Decodes the images of a dataset by their records; threads may share one."""

    def __init__(self, source: ImageSource, reader: Reader) -> None:
        self._preparation = source.preparation
        self._reader = reader

    def decode_batches(
        self,
        batches: Iterable[Sequence[ImageRecord]],
        threads: int,
        waiting: int,
        empty: Callable[[int], np.ndarray],
    ) -> Generator[DecodedBatch, None, None]:
        """Yield batches of images at the network's input size, read and decoded ahead.

        Parameters
        ----------
        threads : int
            That decode.
        waiting : int
            How many images may be decoded, or be under way, before they are taken.
        empty : callable
            Returns an array (image, y, x, channel) uint8 for a batch of so many images.

        Raises
        ------
        WorkError
            The bytes of an image cannot be read, or memory ran out. This is a property of the machine, and may pass.
            Or the image was mined, and is another one now.
        """
        with (
            closing(fetch_ahead(self._reader, (batch for batch in batches if batch))) as fetched,
            closing(_with_pixels(fetched, empty)) as portions,
            closing(map_ahead(self._decode_portion, portions, threads, waiting, _count_images)) as decoded,
        ):
            images: list[Decoded | DecodeError] = []
            for portion, pixels, of_portion in decoded:
                images += of_portion
                if portion.is_last:
                    yield DecodedBatch(portion.batch, pixels, images)
                    images = []

    def read_pixels(self, records: Sequence[ImageRecord], threads: int) -> np.ndarray:
        """Return the pixels of images that were decoded before, when they were mined.

        Returns
        -------
        ndarray (image, y, x, channel) uint8
            Each image at the network's input size, in the order of the records.

        Raises
        ------
        WorkError
            An image can no longer be read or decoded, or is another one now.
        """
        pixels = self._empty(len(records))
        for batch in self.decode_batches([records], threads, WAITING_A_THREAD * threads, lambda images: pixels):
            for record, image in zip(batch.records, batch.images, strict=True):
                if isinstance(image, DecodeError):
                    raise self._gone(record, image)
        return pixels

    def _empty(self, images: int) -> np.ndarray:
        return np.empty((images, *self._preparation.shape), np.uint8)

    def _decode_portion(self, portion: _Portion) -> tuple[Fetched, np.ndarray, list[Decoded | DecodeError]]:
        fetched, pixels = portion
        images = [
            self._judge(record, data, row)
            for record, data, row in zip(fetched.records, fetched.data, pixels[fetched.rows], strict=True)
        ]
        return replace(fetched, data=[]), pixels, images

    def _judge(self, record: ImageRecord, data: Data, pixels: np.ndarray) -> Decoded | DecodeError:
        """Decode an image into an array (y, x, channel), and return it; or the error, where it is damaged."""
        try:
            if isinstance(data, DecodeError | OSError):
                raise data
            decoded = self._decode(record, data, pixels)
        except DecodeError as error:
            if record.look is not None:
                raise self._gone(record, error) from error
            pixels[...] = 0
            return error
        except OSError as error:
            if record.look is not None:
                raise self._gone(record, error) from error
            raise WorkError(f"{self._name(record)} cannot be read: {error}") from None
        if record.look is not None:
            self._compare(record, record.look, decoded)
        return decoded

    def _decode(self, record: ImageRecord, data: Encoded, pixels: np.ndarray) -> Decoded:
        try:
            return decode(data, self._preparation, pixels)
        except MemoryError as error:
            raise WorkError(
                f"{self._name(record)} cannot be decoded: memory ran out ({first_line(error)}). "
                "Run it where there is more, or with fewer threads."
            ) from None

    def _compare(self, record: ImageRecord, look: Look, decoded: Decoded) -> None:
        """Raise WorkError where an image has changed since it was mined."""
        now = Look(decoded.hash, decoded.geometry.height, decoded.geometry.width)
        if now != look:
            raise WorkError(
                f"{self._name(record)} has changed since it was mined: it has {now}, and had {look}. "
                "Restore the data and the versions of Pillow and torch, or mine into another STORE."
            )

    def _gone(self, record: ImageRecord, error: Exception) -> WorkError:
        """Return what is said of an image that was mined, and can no longer be read or decoded."""
        return WorkError(
            f"image {record.key} in shard {self._reader.name(record.shard)} was mined but cannot be decoded now: "
            f"{error}. Has the shard changed?"
        )

    def _name(self, record: ImageRecord) -> str:
        return f"shard {self._reader.name(record.shard)}: image {record.key}"


_Portion = tuple[Fetched, np.ndarray]  # what was read together, and the pixels of the whole batch


def _with_pixels(fetched: Iterable[Fetched], empty: Callable[[int], np.ndarray]) -> Generator[_Portion, None, None]:
    """Yield what was read, each with the array of its batch, which is made for the batch's first images."""
    for portion in fetched:
        if portion.rows.start == 0:
            pixels = empty(len(portion.batch))
        yield portion, pixels


def _count_images(portion: _Portion) -> int:
    return len(portion[0].data)
