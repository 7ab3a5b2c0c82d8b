"""Images of any form into tar shards, as they are or shrunk, so that they are read faster: ``topnine pack``."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.decoding.arrays import NPY_MAGIC, TIFF_MAGIC, is_array
from topnine.pipeline.data.decoding.decode import open_image
from topnine.pipeline.data.entry import Dataset
from topnine.pipeline.data.fetching import ImageRecord, fetch_ahead
from topnine.pipeline.data.keys import unique_keys
from topnine.pipeline.data.labels import Classes, assign
from topnine.pipeline.data.listing import Index, check_complete
from topnine.pipeline.data.reader import Data, list_dataset, open_reader
from topnine.pipeline.errors import BandsError, DecodeError, InputError, WorkError
from topnine.pipeline.machine import count_cores
from topnine.pipeline.prefetch import map_ahead
from topnine.stages.progress import Progress

# By an image's first bytes; all others are .jpg, as in ImageNet.
SUFFIXES = {b"\x89PNG": ".png", b"RIFF": ".webp", **dict.fromkeys(TIFF_MAGIC, ".tif"), NPY_MAGIC[:4]: ".npy"}
PREFETCHED_IMAGES = 64
UNSHRUNK = "TIFF, .npy and images of 16 bits cannot be shrunk to JPEG: pack them without --resize."


@dataclass(frozen=True)
class Packing:
    """How images are packed.

    Attributes
    ----------
    shard_mib : int
        Size of a shard in MiB; a shard with a single image may be larger.
    resize : int, optional
        Shrink images to this shortest side in pixels and encode them as JPEG. Without it, their bytes are kept.
    quality : int
        JPEG quality of the images that are shrunk, 1 to 100.
    """

    shard_mib: int = 256
    resize: int | None = None
    quality: int = 95


def pack(source: str, to: Path, packing: Packing, classes: Classes | None = None) -> Generator[Progress, None, None]:
    """Write every image of a dataset, in its order and with its label, into tar shards.

    Damaged images are left out. Where packing ends early, the shards that are complete stay in the folder.

    Parameters
    ----------
    source : str
        The dataset, as ``data.path``.
    to : Path
        A folder that is new or empty.
    classes : Classes, optional
        Without them, class folders are numbered in the order of their names.

    Raises
    ------
    InputError
        The folder is not empty, there is no data, or a shard is a copy that is not finished.
    WorkError
        An image cannot be read, or a shard cannot be written.
    """
    dataset = find_dataset(source)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} cannot be packed into: it is not an empty folder. Give another --to.")
    images = list_dataset(dataset)
    check_complete(images)
    keys, labels = unique_keys(images), assign(images, classes)
    to.mkdir(parents=True, exist_ok=True)
    yield Progress("pack", 0, len(images), "images")
    try:
        with (
            ShardWriter(to, dataset.name, packing.shard_mib * 2**20) as writer,
            _read_images(dataset, images, packing) as encoded,
        ):
            for done, (key, label, data) in enumerate(zip(keys, labels, encoded, strict=True), 1):
                if data is not None:
                    writer.add(key, int(label), data)
                yield Progress("pack", done, len(images), "images")
    except OSError as error:
        raise WorkError(
            f"packing ended early: {str(error).rstrip('.')}. Delete what is in {to}, then pack again."
        ) from error


@contextmanager
def _read_images(dataset: Dataset, images: Index, packing: Packing) -> Iterator[Iterator[bytes | None]]:
    """Open a dataset and yield an iterator over the bytes of its images, which threads read ahead of it."""
    with open_reader(dataset) as reader, closing(fetch_ahead(reader, _list_batches(images))) as fetched:
        read = ((record, data) for part in fetched for record, data in zip(part.records, part.data, strict=True))
        with closing(map_ahead(partial(_repack, packing), read, count_cores(), PREFETCHED_IMAGES)) as encoded:
            yield encoded


def _list_batches(images: Index) -> Iterator[list[ImageRecord]]:
    """Yield where the images are, some at a time."""
    for first in range(0, len(images), PREFETCHED_IMAGES):
        rows = slice(first, first + PREFETCHED_IMAGES)
        columns = (column[rows].tolist() for column in (images.shard, images.offset, images.size, images.key))
        yield [
            ImageRecord(shard, offset, size, key, images.damage.get(number, ""))
            for number, (shard, offset, size, key) in enumerate(zip(*columns, strict=True), first)
        ]


def _repack(packing: Packing, fetched: tuple[ImageRecord, Data]) -> bytes | None:
    """Return the bytes of an image, shrunk if wanted; None where it cannot be decoded."""
    record, data = fetched
    try:
        if isinstance(data, DecodeError | OSError):
            raise data
        return bytes(data) if packing.resize is None else _shrink(bytes(data), packing.resize, packing.quality)
    except BandsError:
        raise InputError(UNSHRUNK) from None
    except DecodeError:
        return None
    except MemoryError as error:
        raise OSError(f"memory ran out at image {record.key}") from error


def _shrink(data: bytes, shortest: int, quality: int) -> bytes:
    """Return an image as JPEG, its shortest side at most so many pixels long; InputError where JPEG cannot hold it."""
    if is_array(data):
        raise InputError(UNSHRUNK)
    image = open_image(data)
    side = min(image.size)
    if side > shortest:
        size = (shortest * image.width // side, shortest * image.height // side)
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class ShardWriter:
    """Writes images into one tar after the other; a tar gets its name when it is complete.

    It is a context manager: the last tar is completed at the end, or deleted where an error ends the writing.
    """

    def __init__(self, folder: Path, name: str, limit_bytes: int) -> None:
        self._folder, self._name, self._limit_bytes = folder, name, limit_bytes
        self._number, self._bytes = 0, 0
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                self._complete()
        finally:
            self._discard()

    def add(self, key: str, label: int, data: bytes) -> None:
        """Write an image and, if it is known, its label."""
        if self._tar is not None and self._bytes + len(data) > self._limit_bytes:
            self._complete()
        if self._tar is None:
            self._tar = tarfile.open(self._partial, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        name = safe_name(key)
        self._write(self._tar, f"{name}{SUFFIXES.get(data[:4], '.jpg')}", data)
        if label >= 0:
            self._write(self._tar, f"{name}.cls", str(label).encode())

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._name}-{self._number:06d}.tar"

    @property
    def _partial(self) -> Path:
        return self._path.with_suffix(".partial")

    def _write(self, tar: tarfile.TarFile, name: str, data: bytes) -> None:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        self._bytes += len(data)

    def _complete(self) -> None:
        """Close the tar that is being written and give it its name."""
        if self._tar is not None:
            self._tar.close()
            os.replace(self._partial, self._path)
            self._tar, self._bytes, self._number = None, 0, self._number + 1

    def _discard(self) -> None:
        """Delete the tar that is being written, if there is one."""
        if self._tar is not None:
            with suppress(OSError):  # a full disk takes nothing more
                self._tar.close()
            self._partial.unlink(missing_ok=True)
            self._tar = None


def safe_name(key: str) -> str:
    """Return a key as the name of a tar's member: one that stays in the folder into which the tar is extracted.

    >>> safe_name("../n01440764/./a"), safe_name(".hidden"), safe_name("/")
    ('n01440764/a', '_.hidden', '_')
    """
    parts = [part for part in PurePosixPath(key.replace("\0", "_")).parts if part not in ("/", "..", ".")]
    name = "/".join(parts)
    return name if parts and not parts[-1].startswith(".") else f"_{name}"
