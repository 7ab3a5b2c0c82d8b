"""The images of a dataset by their records in the index: read, and decoded to the network's input.

Mining, deconvolving, thumbnails and grids all read images here, so they treat a damaged image and a failed read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..errors import BandsError, DecodeError, InputError, WorkError, first_line
from ..prefetch import map_ahead
from .decoding.decode import Decoded, decode
from .decoding.preparation import Preparation
from .entry import Dataset, Shard, ShardSelection
from .reader import Reader, first_images, open_reader

WAITING_A_THREAD = 4  # decoded images, in read_pixels
TRIED = 4  # times as many images as a sample shall have, for those that cannot be decoded


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


class ImageReader:
    """Decodes the images of a dataset by their records; threads may share one."""

    def __init__(self, source: ImageSource, reader: Reader) -> None:
        self._source = source
        self._reader = reader

    def decode(self, record: ImageRecord) -> Decoded:
        """Return an image at the network's input size.

        Raises
        ------
        DecodeError
            The bytes are not an image that can be decoded. This is a property of the image.
        WorkError
            The bytes cannot be read, or memory ran out. This is a property of the machine, and may pass. Or the image
            was mined, and is another one now.
        """
        if record.look is not None:
            return self._decode_again(record)
        try:
            return self._decode(record)
        except OSError as error:
            raise WorkError(f"{self._name(record)} cannot be read: {error}") from None

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
        pixels = np.empty((len(records), *self._source.preparation.shape), np.uint8)
        images = map_ahead(self._decode_again, records, threads, WAITING_A_THREAD * threads)
        for number, image in enumerate(images):
            pixels[number] = image.pixels
        return pixels

    def _decode_again(self, record: ImageRecord) -> Decoded:
        """Decode an image that was mined; WorkError where that is not possible or gives another one."""
        try:
            decoded = self._decode(record)
        except (DecodeError, OSError) as error:
            raise WorkError(
                f"image {record.key} in shard {self._shard_name(record)} was mined but cannot be decoded now: {error}. "
                "Has the shard changed?"
            ) from error
        look = Look(decoded.hash, decoded.geometry.height, decoded.geometry.width)
        if record.look not in (None, look):
            raise WorkError(
                f"{self._name(record)} has changed since it was mined: it has {look}, and had {record.look}. "
                "Restore the data and the version of Pillow, or mine into another STORE."
            )
        return decoded

    def _decode(self, record: ImageRecord) -> Decoded:
        """Read and decode an image; DecodeError and OSError are passed on."""
        if record.damage:
            raise DecodeError(record.damage)
        try:
            data = self._reader.read(record.shard, record.offset, record.size, record.key)
            return decode(data, self._source.preparation)
        except MemoryError as error:
            raise WorkError(
                f"{self._name(record)} cannot be decoded: memory ran out ({first_line(error)}). "
                "Run it where there is more, or with fewer threads."
            ) from None

    def _name(self, record: ImageRecord) -> str:
        return f"shard {self._shard_name(record)}: image {record.key}"

    def _shard_name(self, record: ImageRecord) -> str:
        return self._source.dataset.shards[record.shard].name
