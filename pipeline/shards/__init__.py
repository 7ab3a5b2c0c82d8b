"""Where encoded images come from: shards, found by a path, scanned for their images, and read by offset.

A form of shard is a module here that lists a shard's images (``scan``) and, where they are not ranges of bytes in a
file, reads them. The rest of the project knows no form.
"""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import PurePosixPath
from typing import Literal, Protocol

from ..errors import DecodeError, InputError
from . import files, folder, parquet, tar
from .entry import Entry
from .files import File, OpenFile

__all__ = ["Dataset", "Entry", "Reader", "Shard", "find", "opened", "scan", "unique_keys"]

FORMS = (
    "a folder of .tar or .parquet shards, of class folders or images; one shard; a .txt list; a pattern; or 'photos'"
)

MAX_SHARDS = 1_000_000  # that a pattern may stand for

Form = Literal["tar", "folder", "parquet"]


@dataclass(frozen=True)
class Shard:
    """One container of encoded images.

    Attributes
    ----------
    name : str
        In the dataset.
    path : str
        Or URL.
    form : {"tar", "folder", "parquet"}
    size : int
        In bytes; of a folder, its number of images.
    modified : float
        In s.
    class_name : str
        Of a class folder.
    """

    name: str
    path: str
    form: Form
    size: int
    modified: float
    class_name: str = ""


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name, and its shards in natural order of their names."""

    name: str
    shards: tuple[Shard, ...]


def find(path: str, name: str | None = None) -> Dataset:
    """Find the shards at a path, a URL or a pattern; the dataset has the path's name unless given another.

    Parameters
    ----------
    path : str
        A folder of tar or parquet shards, of class folders, or of images; one tar or parquet file; a pattern
        (``*``, ``?``, ``{000..127}``, ``{a,b}``); a ``.txt`` file that lists shards, one a line.

    Raises
    ------
    InputError
        There is no such path, or no shard in it.
    """
    paths = _expanded(path)
    found = [shard for each in paths for shard in _shards(each)]
    if not found:
        raise InputError(f"{path} holds no shards: data.path is {FORMS}.")
    shards = sorted(found, key=lambda shard: natural_order(shard.name))
    stem = PurePosixPath(re.split(r"[{*?\[]", path)[0].rstrip("/-_") or "data").stem
    return Dataset(name or stem, tuple(shards))


def scan(shard: Shard) -> list[Entry]:
    """List the images of a shard in container order, without reading them; InputError says what is wrong with it."""
    if shard.form == "tar":
        return tar.scan(shard.path, shard.size)
    if shard.form == "parquet":
        return parquet.scan(shard.path)
    return folder.scan(shard.path, shard.class_name)


def unique_keys(entries: list[tuple[str, Entry]]) -> list[str]:
    """Give every image a key of its own, from its name: more of its path where that is not unique.

    Parameters
    ----------
    entries : list of (shard name, Entry)

    Returns
    -------
    list of str
        The file name without folder and extension; where that repeats, with the folder; where that does, with the
        shard; and where a shard holds the same name twice, with a number from the second on.
    """
    keys = [entry.key for _, entry in entries]
    longer = [f"{entry.folder}/{entry.key}" for _, entry in entries]
    longest = [f"{PurePosixPath(shard).stem}/{key}" for (shard, _), key in zip(entries, longer, strict=True)]
    for more in (longer, longest):
        repeated = _repeated(keys)
        keys = [long if key in repeated else key for key, long in zip(keys, more, strict=True)]
    seen: dict[str, int] = {}
    for i, key in enumerate(keys):
        seen[key] = seen.get(key, 0) + 1
        keys[i] = key if seen[key] == 1 else f"{key}#{seen[key]}"
    return keys


@contextmanager
def opened(dataset: Dataset) -> Iterator[Reader]:
    """Open a dataset for reading images by shard, offset and size; its files are closed at the end."""
    reader = Reader(dataset)
    try:
        yield reader
    finally:
        reader.close()


class _Readable(Protocol):
    def read(self, offset: int, size: int, /) -> bytes: ...

    def close(self) -> None: ...


class Reader:
    """Reads encoded images; any number of threads may share one."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._files: dict[int, _Readable] = {}
        self._folders: dict[int, list[File]] = {}
        self._lock = threading.Lock()

    def read(self, shard: int, offset: int, size: int) -> bytes:
        """Give the bytes of an image; OSError says which shard ends before it, DecodeError that there is no image."""
        description = self._dataset.shards[shard]
        if description.form == "folder":
            return self._read_file(shard, description, offset)
        with self._lock:
            if shard not in self._files:
                opener = parquet.ParquetFile if description.form == "parquet" else OpenFile
                self._files[shard] = opener(description.path)
        data = self._files[shard].read(offset, size)
        if len(data) < size:
            raise OSError(
                f"shard {description.name} is truncated: an image needs bytes {offset}..{offset + size}, "
                f"the file ends at {offset + len(data)}. Copy the shard again."
            )
        return data

    def _read_file(self, shard: int, description: Shard, number: int) -> bytes:
        with self._lock:
            if shard not in self._folders:
                self._folders[shard] = folder.images_in(description.path)
        file = self._folders[shard][number]
        try:
            with OpenFile(file.path) as content:
                return content.read(0, file.size)
        except OSError as error:
            raise DecodeError(f"the file cannot be read: {error.strerror or error}") from None

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close()
        self._files.clear()


def natural_order(name: str) -> list[tuple[int, str]]:
    """Give a sort key that counts: shard-9 comes before shard-10.

    >>> sorted(["shard-10.tar", "shard-9.tar"], key=natural_order)
    ['shard-9.tar', 'shard-10.tar']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def expand_braces(pattern: str) -> list[str]:
    """Expand ranges and lists in braces.

    >>> expand_braces("s-{08..10}.{tar,TAR}")
    ['s-08.tar', 's-08.TAR', 's-09.tar', 's-09.TAR', 's-10.tar', 's-10.TAR']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MAX_SHARDS:
        raise InputError(f"{pattern[:80]} stands for more than {MAX_SHARDS:,} shards: data.path is {FORMS}.")
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    range_ = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inside)
    if not range_:
        return inside.split(",")
    first, last = range_.groups()
    numbers = range(int(first), min(int(last), int(first) + MAX_SHARDS) + 1)
    return [str(number).zfill(len(first)) for number in numbers]


def _expanded(path: str) -> list[str]:
    if path.endswith(".txt"):
        lines = [line.strip() for line in files.read_text(path).splitlines()]
        return [each for line in lines if line and not line.startswith("#") for each in expand_braces(line)]
    if files.describe(path) is not None:
        return [path]
    expanded = expand_braces(path)
    if any(set(each) & set("*?[") for each in expanded):
        return [found for each in expanded for found in files.matching(each)]
    return expanded


def _shards(path: str) -> list[Shard]:
    file = files.describe(path)
    if file is None:
        raise InputError(f"there is no data at {path}: data.path is {FORMS}.")
    if not file.is_folder:
        return [_file_shard(file)]
    inside = files.listing(path)
    containers = [each for each in inside if not each.is_folder and _form(each)]
    if containers:
        return [_file_shard(each) for each in containers]
    folders = [(each, each.name) for each in inside if each.is_folder and not each.name.startswith(".")]
    counted = [(each, name, len(folder.images_in(each.path))) for each, name in [(file, ""), *folders]]
    return [
        Shard(name or each.name, each.path, "folder", count, each.modified, name)
        for each, name, count in counted
        if count
    ]


def _file_shard(file: File) -> Shard:
    form = _form(file)
    if form is None:
        raise InputError(f"{file.path} is no shard: data.path is {FORMS}.")
    return Shard(file.name, file.path, form, file.size, file.modified)


def _form(file: File) -> Form | None:
    if file.name.endswith((".tar.gz", ".tgz")):
        raise InputError(f"shard {file.path} is compressed, so an image in it cannot be sought: gunzip it first.")
    return {".tar": "tar", ".parquet": "parquet"}.get(PurePosixPath(file.name).suffix)  # type: ignore[return-value]


def _repeated(keys: list[str]) -> set[str]:
    seen: set[str] = set()
    return {key for key in keys if key in seen or seen.add(key)}  # type: ignore[func-returns-value]
