"""Where encoded images come from: shards, found by a path, scanned for their images, and read by offset."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from . import tar
from .entry import Entry

__all__ = ["Dataset", "Entry", "Shard", "find", "opened", "scan", "unique_keys"]


@dataclass(frozen=True)
class Shard:
    """One container of encoded images: its name in the dataset, size in bytes, and time of modification in s."""

    name: str
    size: int
    modified: float


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name, the folder its shards are in, and the shards in natural order of their names."""

    name: str
    folder: str
    shards: tuple[Shard, ...]

    def path(self, shard: int) -> str:
        """Give the path of a shard by its number."""
        return os.path.join(self.folder, self.shards[shard].name)


def find(path: str, name: str | None = None) -> Dataset:
    """Find the shards at a path: a folder of ``.tar`` files, or one of them; the dataset has the path's name.

    Raises
    ------
    InputError
        There is no such path, or no shard in it.
    """
    place = Path(path)
    if not place.exists():
        raise InputError(f"there is no data at {path}: data.path is a folder of .tar shards, one .tar, or 'photos'.")
    files = sorted(place.glob("*.tar"), key=lambda file: natural_order(file.name)) if place.is_dir() else [place]
    if not files or any(file.suffix != ".tar" for file in files):
        raise InputError(f"{path} holds no .tar shards: data.path is a folder of .tar shards, one .tar, or 'photos'.")
    shards = tuple(Shard(file.name, file.stat().st_size, file.stat().st_mtime) for file in files)
    return Dataset(name or place.resolve().stem, str(files[0].parent), shards)


def scan(dataset: Dataset, shard: int) -> list[Entry]:
    """List the images of a shard in container order, without reading them.

    Raises
    ------
    InputError
        The shard cannot be read; it says which member is wrong.
    """
    return tar.scan(dataset.path(shard))


def unique_keys(entries: list[Entry]) -> list[str]:
    """Give the images' keys: the file name without folder and extension, with its class folder where that repeats.

    Raises
    ------
    InputError
        Two images have the same folder and name.
    """
    keys = [entry.key for entry in entries]
    repeated = _repeated(keys)
    if repeated:
        keys = [f"{entry.folder}/{entry.key}" if entry.key in repeated else entry.key for entry in entries]
        still = _repeated(keys)
        if still:
            raise InputError(
                f"{len(still)} image names occur more than once, {min(still)!r} is one: rename them, "
                "or put each set in a folder of its own in the shards."
            )
    return keys


@contextmanager
def opened(dataset: Dataset) -> Iterator[Reader]:
    """Open a dataset for reading images by shard, offset and size; its files are closed at the end."""
    reader = Reader(dataset)
    try:
        yield reader
    finally:
        reader.close()


class Reader:
    """Reads encoded images; any number of threads may share one."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._files: dict[int, int] = {}

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Give the bytes of an image; OSError says which shard ends before it."""
        if shard not in self._files:
            descriptor = os.open(self._dataset.path(shard), os.O_RDONLY)
            if self._files.setdefault(shard, descriptor) != descriptor:
                os.close(descriptor)  # another thread was first
        data = os.pread(self._files[shard], size, offset)
        if len(data) < size:
            name = self._dataset.shards[shard].name
            raise OSError(
                f"shard {name} is truncated: an image needs bytes {offset}..{offset + size}, "
                f"the file ends at {offset + len(data)}. Copy the shard again."
            )
        return data

    def close(self) -> None:
        """Close the files."""
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()


def natural_order(name: str) -> list[tuple[int, str]]:
    """Give a sort key that counts: shard-9 comes before shard-10.

    >>> sorted(["shard-10.tar", "shard-9.tar"], key=natural_order)
    ['shard-9.tar', 'shard-10.tar']
    """
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _repeated(keys: list[str]) -> set[str]:
    seen: set[str] = set()
    return {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
