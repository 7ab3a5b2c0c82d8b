"""The images of a shard, and of a whole dataset, as columns: a Python object for each would take gigabytes."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import overload

import numpy as np

from ..errors import InputError
from ..files import printable
from .entry import Dataset, Entry, Shard

PORTION = 65_536  # texts that are Python objects at a time
TEXT = np.dtypes.StringDType()
ERRORS = "surrogateescape"


@dataclass(frozen=True)
class Texts(Sequence[str]):
    """Texts, one after the other in UTF-8; ``ends`` (text) int64 says where each of them ends, in bytes.

    File names that are no UTF-8 are kept, too, as Python has them.
    """

    data: bytes
    ends: np.ndarray

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, item: int) -> str: ...

    @overload
    def __getitem__(self, item: slice) -> list[str]: ...

    def __getitem__(self, item: int | slice) -> str | list[str]:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        number = range(len(self))[item]
        return self.data[self.ends[number - 1] if number else 0 : self.ends[number]].decode(errors=ERRORS)

    def __iter__(self) -> Iterator[str]:
        start = 0
        for first in range(0, len(self), PORTION):
            for end in self.ends[first : first + PORTION].tolist():
                yield self.data[start:end].decode(errors=ERRORS)
                start = end

    def fill(self, column: np.ndarray, change: Callable[[str], str] = str) -> None:
        """Write the texts, each changed, into an array (text) of numpy's variable-width strings."""
        texts = map(change, self)
        for first in range(0, len(self), PORTION):
            column[first : first + PORTION] = list(islice(texts, PORTION))

    def to_array(self, change: Callable[[str], str] = str) -> np.ndarray:
        """Return the texts, each changed, as an array (text) of numpy's variable-width strings."""
        column = np.empty(len(self), TEXT)
        self.fill(column, change)
        return column


@dataclass(frozen=True)
class Parts:
    """Pictures that belong to images and are none: how many, and the name of one."""

    count: int = 0
    example: str = ""

    def plus(self, more: Parts) -> Parts:
        """Return these and more."""
        return Parts(self.count + more.count, self.example or more.example)

    def __str__(self) -> str:
        return f"{self.count:,} pictures belong to images and are none themselves, such as {printable(self.example)}"


@dataclass(frozen=True)
class Listing(Sequence[Entry]):
    """The images of a shard in its order; one by one they are ``Entry``.

    Attributes
    ----------
    keys : Texts
    offset, size, label : ndarray (image) int64
    folder : ndarray (image) int32
        Numbers into ``folders``.
    folders : tuple of (str, str)
        The folder's name, and the class that it stands for, else "".
    damage : dict of int to str
        Why images cannot be read, by their numbers, where listing has found that already.
    missing : str
        What is missing of the shard, where it is a copy that is not finished, else "".
    parts : Parts
        Of samples, that are not listed.
    """

    keys: Texts
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    folder: np.ndarray
    folders: tuple[tuple[str, str], ...]
    damage: dict[int, str]
    missing: str = ""
    parts: Parts = Parts()

    def __len__(self) -> int:
        return len(self.keys)

    @overload
    def __getitem__(self, item: int) -> Entry: ...

    @overload
    def __getitem__(self, item: slice) -> list[Entry]: ...

    def __getitem__(self, item: int | slice) -> Entry | list[Entry]:
        if isinstance(item, slice):
            return [self[i] for i in range(*item.indices(len(self)))]
        number = range(len(self))[item]
        folder, class_name = self.folders[self.folder[number]]
        place = int(self.offset[number]), int(self.size[number]), int(self.label[number])
        return Entry(self.keys[number], folder, *place, class_name, self.damage.get(number, ""))


class TextsBuilder:
    """Collects texts."""

    def __init__(self) -> None:
        self._data = bytearray()
        self._ends = array("q")

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, text: str) -> None:
        """Add a text."""
        self._data += text.encode(errors=ERRORS)
        self._ends.append(len(self._data))

    def finish(self) -> Texts:
        """Return the texts."""
        return Texts(bytes(self._data), np.frombuffer(self._ends, np.int64))


class ListingBuilder:
    """Collects the images of a shard, entry by entry, into the columns of a ``Listing``."""

    def __init__(self) -> None:
        self._keys = TextsBuilder()
        self._offset, self._size, self._label, self._folder = (array(kind) for kind in "qqqi")
        self._folders: dict[tuple[str, str], int] = {}
        self._pairs: list[tuple[str, str]] = []  # the keys of these by their numbers
        self._damage: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def add(
        self, key: str, folder: str, offset: int, size: int, label: int = -1, class_name: str = "", damage: str = ""
    ) -> None:
        """Add an image; the parameters are those of ``Entry``."""
        if damage:
            self._damage[len(self)] = damage
        self._keys.add(key)
        self._offset.append(offset)
        self._size.append(size)
        self._label.append(label)
        self._folder.append(self._number((folder, class_name)))

    def set_label(self, number: int, label: int) -> None:
        """Change the label of the image of a number."""
        self._label[number] = label

    def set_class(self, number: int, class_name: str) -> None:
        """Change the class of the image of a number."""
        folder, _ = self._pairs[self._folder[number]]
        self._folder[number] = self._number((folder, class_name))

    def _number(self, pair: tuple[str, str]) -> int:
        """Return the number of a folder and its class."""
        if pair not in self._folders:
            self._folders[pair] = len(self._pairs)
            self._pairs.append(pair)
        return self._folders[pair]

    def finish(self, missing: str = "") -> Listing:
        """Return the listing; ``missing`` is what is missing of the shard."""
        offset, size, label = (np.frombuffer(column, np.int64) for column in (self._offset, self._size, self._label))
        folder = np.frombuffer(self._folder, np.int32)
        return Listing(self._keys.finish(), offset, size, label, folder, tuple(self._pairs), self._damage, missing)


def concatenate(first: Listing, second: Listing) -> Listing:
    """Return the images of two parts of one shard, one after the other; what is missing is that of the second."""
    text = Texts(
        first.keys.data + second.keys.data, np.concatenate([first.keys.ends, second.keys.ends + len(first.keys.data)])
    )
    offset, size, label = (
        np.concatenate([getattr(first, name), getattr(second, name)]) for name in ("offset", "size", "label")
    )
    folder = np.concatenate([first.folder, second.folder + len(first.folders)], dtype=np.int32)
    damage = {**first.damage, **{number + len(first): reason for number, reason in second.damage.items()}}
    return Listing(text, offset, size, label, folder, (*first.folders, *second.folders), damage, second.missing)


@dataclass(frozen=True)
class Index:
    """The images of a dataset, a row each.

    Attributes
    ----------
    shards : tuple of Shard
    shard : ndarray (image) int32
        Numbers into ``shards``.
    key : ndarray (image) of str
        As in the shards: ``keys.unique_keys`` makes them unique.
    offset, size, label : ndarray (image) int64
    folder : ndarray (image) int32
        Numbers into ``folders``.
    folders : tuple of (str, str)
        See ``Listing``.
    damage : dict of int to str
        By the number of the image.
    missing : dict of int to str
        What is missing of shards, by their numbers.
    parts : Parts
        Of samples, that are not in the index.
    """

    shards: tuple[Shard, ...]
    shard: np.ndarray
    key: np.ndarray
    offset: np.ndarray
    size: np.ndarray
    label: np.ndarray
    folder: np.ndarray
    folders: tuple[tuple[str, str], ...]
    damage: dict[int, str]
    missing: dict[int, str]
    parts: Parts = Parts()

    def __len__(self) -> int:
        return len(self.shard)


def join(dataset: Dataset, listings: list[Listing]) -> Index:
    """Return the listings of a dataset's shards, in the order of the shards, as one index; the list is emptied."""
    lengths = [len(listing) for listing in listings]
    images = sum(lengths)
    key, folder = np.empty(images, TEXT), np.empty(images, np.int32)
    offset, size, label = (np.empty(images, np.int64) for _ in range(3))
    folders: dict[tuple[str, str], int] = {}
    damage: dict[int, str] = {}
    missing: dict[int, str] = {}
    parts, start = Parts(), 0
    listings.reverse()
    for shard in range(len(lengths)):
        listing = listings.pop()  # so that its memory is free after it was copied
        rows = slice(start, start + len(listing))
        listing.keys.fill(key[rows])
        offset[rows], size[rows], label[rows] = listing.offset, listing.size, listing.label
        numbers = [folders.setdefault(name, len(folders)) for name in listing.folders]
        folder[rows] = np.array(numbers, np.int32)[listing.folder]
        damage |= {start + number: reason for number, reason in listing.damage.items()}
        parts = parts.plus(listing.parts)
        if listing.missing:
            missing[shard] = listing.missing
        start = rows.stop
    shards = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
    return Index(dataset.shards, shards, key, offset, size, label, folder, tuple(folders), damage, missing, parts)


def check_complete(index: Index, on_incomplete: str = "fail") -> None:
    """Raise InputError, unless ``on_incomplete`` is ``take``, where a shard is a copy that is not finished."""
    if index.missing and on_incomplete == "fail":
        number, missing = next(iter(index.missing.items()))
        more = f", and so are {len(index.missing) - 1:,} more shards" if len(index.missing) > 1 else ""
        raise InputError(
            f"shard {index.shards[number].name} is not complete: {missing}{more}. "
            'Copy it again, or set data.on_incomplete = "take" to take what is there.'
        )
