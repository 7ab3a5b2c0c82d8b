"""Pack images of any form into tar shards, as they are or shrunk: for those who mine often."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from PIL import Image

from pipeline import shards
from pipeline.decode import open_image
from pipeline.device import cores
from pipeline.errors import DecodeError, InputError
from pipeline.labels import Classes, assign
from pipeline.shards import Entry
from pipeline.stream import ahead

from .progress import Progress

SUFFIXES = {b"\x89PNG": ".png", b"RIFF": ".webp"}  # by the first bytes; all else is named .jpg, as ImageNet does


def pack(
    source: str, to: Path, shard_mib: int, resize: int | None, quality: int, classes: Classes | None = None
) -> Iterator[Progress]:
    """Write every image of a dataset, in its order, with its label, into tars of about so many MiB.

    Parameters
    ----------
    source : str
        As ``data.path``.
    to : Path
        A folder that is new or empty.
    resize : int, optional
        Shrink images to this shortest side in pixels, as JPEG of a quality; else their bytes are kept.

    Raises
    ------
    InputError
        The folder is not empty, or there is no data.
    """
    dataset = shards.find(source)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise InputError(f"{to} cannot be packed into: it is not an empty folder. Give another --to.")
    entries = [(number, entry) for number, shard in enumerate(dataset.shards) for entry in shards.scan(shard)]
    named = [(dataset.shards[number].name, entry) for number, entry in entries]
    keys, labels = shards.unique_keys(named), assign(named, classes)
    to.mkdir(parents=True, exist_ok=True)
    yield Progress("pack", 0, len(entries), "images")
    with shards.opened(dataset) as reader:
        images = ahead(partial(_encoded, reader, resize, quality), entries, cores(), 64)
        writer = _Shards(to, dataset.name, shard_mib * 2**20)
        for done, (key, label, data) in enumerate(zip(keys, labels, images, strict=True), 1):
            if data is not None:
                writer.add(key, label, data)
            yield Progress("pack", done, len(entries), "images")
        writer.close()


def _encoded(reader: shards.Reader, resize: int | None, quality: int, place: tuple[int, Entry]) -> bytes | None:
    """Give an image's bytes, shrunk if wanted, or None where it is damaged."""
    shard, entry = place
    try:
        if entry.damage:
            return None
        data = reader.read(shard, entry.offset, entry.size)
        return _shrunk(data, resize, quality) if resize else data
    except DecodeError:
        return None


def _shrunk(data: bytes, resize: int, quality: int) -> bytes:
    image = open_image(data)
    short = min(image.size)
    if short > resize:
        size = (resize * image.width // short, resize * image.height // short)
        image = image.resize(size, Image.Resampling.BILINEAR)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


class _Shards:
    """Writes members into tars one after the other; each appears under its name when it is complete."""

    def __init__(self, folder: Path, name: str, limit: int) -> None:
        self._folder, self._name, self._limit = folder, name, limit
        self._number, self._size = 0, 0
        self._tar: tarfile.TarFile | None = None

    def add(self, key: str, label: int, data: bytes) -> None:
        """Write an image and its label."""
        if self._tar is not None and self._size + len(data) > self._limit:
            self.close()
        if self._tar is None:
            partial_path = self._path().with_suffix(".partial")
            self._tar = tarfile.open(partial_path, "w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        # Names from a dataset stay inside the folder that somebody may extract them to one day.
        parts = [part for part in PurePosixPath(key.replace("\0", "_")).parts if part not in ("/", "..", ".")]
        name = "/".join(parts) if parts and not parts[-1].startswith(".") else f"_{'/'.join(parts)}"
        self._member(f"{name}{SUFFIXES.get(data[:4], '.jpg')}", data)
        if label >= 0:
            self._member(f"{name}.cls", str(label).encode())

    def close(self) -> None:
        """Complete the tar in hand."""
        if self._tar is not None:
            self._tar.close()
            os.replace(self._path().with_suffix(".partial"), self._path())
            self._tar, self._size, self._number = None, 0, self._number + 1

    def _path(self) -> Path:
        return self._folder / f"{self._name}-{self._number:06d}.tar"

    def _member(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size = len(data)
        self._tar.addfile(member, io.BytesIO(data))
        self._size += len(data)
