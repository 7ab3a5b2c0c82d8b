"""The images of a dataset by their records in the index: read, and decoded to the network's input.

Mining, deconvolving, thumbnails and grids all read images here, so they treat a damaged image and a failed read alike.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from ..config.sections import DecodeConfig
from ..errors import DecodeError, InputError, WorkError, first_line
from ..prefetch import map_ahead
from .decode import BLACK, Decoded, decode
from .entry import Dataset, ShardSelection
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
    """A dataset, and how its images are decoded; an image of more than ``max_pixels`` counts as damaged."""

    dataset: Dataset | ShardSelection
    decode: DecodeConfig
    max_pixels: int

    def select(self, shards: Iterable[int]) -> ImageSource:
        """Return the source with some shards alone, given by their numbers, which stay the same."""
        return replace(self, dataset=ShardSelection({number: self.dataset.shards[number] for number in shards}))

    @contextmanager
    def open(self) -> Iterator[ImageReader]:
        """Open the dataset for decoding its images; its files are closed at the end of the ``with`` block."""
        with open_reader(self.dataset) as reader:
            yield ImageReader(self, reader)

    def sample(self, count: int) -> np.ndarray:
        """Return the first images (image, y, x, rgb) uint8 of the first shard that can be read: at most so many."""
        pixels: list[np.ndarray] = []
        with self.open() as reader, suppress(InputError, OSError):
            for entry in first_images(self.dataset.shards[0], TRIED * count):
                if len(pixels) < count and not entry.damage:
                    with suppress(DecodeError, WorkError):
                        record = ImageRecord(0, entry.offset, entry.size, entry.key)
                        pixels.append(reader.decode(record).pixels)
        return np.array(pixels, np.uint8).reshape(-1, self.decode.crop, self.decode.crop, 3)


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
        ndarray (image, y, x, rgb) uint8
            Each image at the network's input size, in the order of the records.

        Raises
        ------
        WorkError
            An image can no longer be read or decoded, or is another one now.
        """
        crop = self._source.decode.crop
        pixels = np.empty((len(records), crop, crop, 3), np.uint8)
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
        config = self._source.decode
        try:
            data = self._reader.read(record.shard, record.offset, record.size, record.key)
            return decode(
                data,
                config.resize,
                config.crop,
                self._source.max_pixels,
                config.fast,
                config.interpolation,
                config.fit,
                config.fill or BLACK,
            )
        except MemoryError as error:
            raise WorkError(
                f"{self._name(record)} cannot be decoded: memory ran out ({first_line(error)}). "
                "Run it where there is more, or with fewer threads."
            ) from None

    def _name(self, record: ImageRecord) -> str:
        return f"shard {self._shard_name(record)}: image {record.key}"

    def _shard_name(self, record: ImageRecord) -> str:
        return self._source.dataset.shards[record.shard].name
