"""Tar shards: WebDataset's (``key.jpg`` with ``key.cls`` or ``key.json``), flat ones, and ImageNet's tar of tars."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

from ...errors import InputError
from ...files import OpenFile, is_url
from ..entry import IMAGE_SUFFIXES, IMAGES_A_READ, IN_FLIGHT, READS, Entry, Shard, Together
from ..kept import Kept
from ..listing import Listing, ListingBuilder, Parts, TextsBuilder, concatenate
from .headers import Member, Read, is_tar, walk
from .samples import split, without_parts
from .sidecar import read_index
from .windows import Windows

LABEL_SUFFIXES = frozenset({".cls", ".json"})
GZIP = b"\x1f\x8b"
MAX_LABEL_BYTES = 65_536
GAP = 65_536  # bytes between images that one read takes: headers, labels, other parts of samples
FLOAT = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
MAX_CLASS_NAME = 200  # characters
MAX_LABEL = 2**62  # of a class index; a label file that holds more is none


def list_images(shard: Shard) -> Listing:
    """List the images of a tar in container order; of its content only headers and labels are wanted.

    In a bucket small members are read with them where that is faster than to skip them: see ``Windows``. Where an index
    lies beside the tar, that is taken instead of most of the headers.

    A tar of tars, as ImageNet's training set comes, is listed as one shard: offsets are into the outer file, and the
    name of an inner tar is the class of its images.

    Raises
    ------
    InputError
        Not a tar, a compressed one, a label that is not a class index, or an index that does not fit it.
    OSError
        It cannot be read.
    """
    path = shard.path
    with OpenFile(path, shard.size) as file:
        if file.read(0, 2) == GZIP:
            raise InputError(f"shard {path} is compressed, so an image in it cannot be sought: gunzip it first.")
        read = _reader(file, shard)
        if not is_tar(read):
            raise InputError(f"shard {path} is not a tar: no header at its beginning. Copy the shard again.")
        index = read_index(shard)
        if index is None:
            return _Lister(path, read).list_all(walk(read, 0, shard.size), shard.size)
        with index.read_ahead(read, file.read, LABEL_SUFFIXES, MAX_LABEL_BYTES) as read_label:
            return _Lister(path, read_label).list_all(index.walk(read, shard.size), shard.size)


def first_images(shard: Shard, count: int) -> list[Entry]:
    """List the first images of a tar, without labels, in the outer tar and the first of its inner ones."""
    with OpenFile(shard.path, shard.size) as file:
        return list(islice(_iterate_range(_reader(file, shard), 0, shard.size), count))


def _reader(file: OpenFile, shard: Shard) -> Read:
    """Return what reads a tar's headers: in a bucket, windows of it."""
    return Windows(file.read).read if is_url(shard.path) else file.read


def _iterate_range(read: Read, start: int, end: int) -> Iterator[Entry]:
    for member in without_parts(walk(read, start, end), lambda part: None):
        stem, suffix = split(member.name)
        if suffix == ".tar":
            yield from _iterate_range(read, member.offset, min(member.offset + member.size, end))
        elif suffix in IMAGE_SUFFIXES and not member.missing:
            folder, _, key = stem.rpartition("/")
            yield Entry(key, folder or ".", member.offset, member.size, damage=member.damage)


def together(shard: Shard) -> Together:
    """Return how the images of a tar are read together: as one range, in a bucket many ranges at once."""
    return Together(IMAGES_A_READ, IN_FLIGHT if is_url(shard.path) else READS, GAP)


def open_shard(shard: Shard, _: Kept) -> OpenTar:
    """Open a tar for reading its images."""
    return OpenTar(shard)


class OpenTar:
    """Reads the images of a tar by where their bytes are in the file."""

    def __init__(self, shard: Shard) -> None:
        self._name = shard.name
        self._file = OpenFile(shard.path, shard.size)

    def read(self, offset: int, size: int, _: str) -> bytes:
        """Return the bytes of an image; OSError if they cannot be read or the tar ends before they do."""
        data = self._file.read(offset, size)
        if len(data) < size:
            raise OSError(
                f"shard {self._name} is truncated: an image needs bytes {offset}..{offset + size}, "
                f"the file ends at {self._file.size}. Copy the shard again."
            )
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _Lister:
    """Lists the images of a tar, and of the tars in it, and what is missing of the inner ones."""

    def __init__(self, path: str, read: Read) -> None:
        self._path = path
        self._read = read
        self._inner = ListingBuilder()
        self._missing: list[str] = []
        self._parts = Parts()

    def _leave_out(self, part: Member) -> None:
        self._parts = self._parts.plus(Parts(1, part.name))

    def list_all(self, members: Iterable[Member], size: int) -> Listing:
        """List a tar of a size by its members: the images of the tars in it first."""
        images = ListingBuilder()
        missing = self._list_members(members, size, "", images)
        outer = images.finish("; ".join([*self._missing, *([missing] if missing else [])]))
        listing = concatenate(self._inner.finish(), outer) if len(self._inner) else outer
        return replace(listing, parts=self._parts)

    def _list_members(self, members: Iterable[Member], end: int, class_name: str, images: ListingBuilder) -> str:
        """List a tar that ends at an offset; return what is missing of it. One with a class name is an inner tar."""
        first, stems, labels = len(images), TextsBuilder(), dict[str, int | str]()
        missing = ""
        for member in without_parts(members, self._leave_out):
            missing = member.missing
            stem, suffix = split(member.name or f"damaged-at-{member.offset}")
            if suffix == ".tar" and not class_name:
                self._list_inner(stem, member, end)
            elif missing:
                break
            elif suffix in IMAGE_SUFFIXES or not member.name:
                folder, _, key = stem.rpartition("/")
                place = class_name or folder or ".", member.offset, member.size
                images.add(key, *place, class_name=class_name, damage=member.damage)
                stems.add(stem)
            elif suffix in LABEL_SUFFIXES and not member.damage:
                label = _parse_label(self._path, member, self._read(member.offset, min(member.size, MAX_LABEL_BYTES)))
                if label is not None and (suffix == ".cls" or stem not in labels):  # in whatever order they come
                    labels[stem] = label
        for number, stem in enumerate(stems.finish() if labels else ()):
            label = labels.get(stem, -1)
            if isinstance(label, int):
                images.set_label(first + number, label)
            else:
                images.set_class(first + number, label)
        return missing

    def _list_inner(self, stem: str, member: Member, end: int) -> None:
        """List a tar that is a member; one that is whole as a member and still ends too early is noted."""
        if not member.damage:
            inner_end = min(member.offset + member.size, end)
            members = walk(self._read, member.offset, inner_end)
            missing = self._list_members(members, inner_end, stem.rpartition("/")[2], self._inner)
            if missing and not member.missing:
                self._missing.append(f"{member.name} in it: {missing}")


def _parse_label(path: str, member: Member, content: bytes) -> int | str | None:
    """Return the class index in a label's file, or the name of a class; None where it is a record of other things."""
    try:
        text = content.decode().strip()
        if not member.name.lower().endswith(".json"):
            return _parse_word(text)
        record = json.loads(text)
        label: Any = record.get("label", record.get("cls")) if isinstance(record, dict) else record
        return None if label is None else _parse_word(str(label) if isinstance(label, float) else label)
    except (ValueError, TypeError, OverflowError, RecursionError):
        start = content[:32]
        raise InputError(
            f"shard {path}: member {member.name} holds {start!r}, expected a class index or the name of a class."
        ) from None


def _parse_word(label: Any) -> int | str:
    """Return the class index that a label is, or the name of a class; ValueError or TypeError where it is neither."""
    if not isinstance(label, str):
        return _checked(int(label))
    text = label.strip()
    if FLOAT.fullmatch(text) and float(text).is_integer():
        return _checked(int(float(text)) if "." in text else int(text))
    if FLOAT.fullmatch(text) or not text or not text.isprintable() or len(text) > MAX_CLASS_NAME:
        raise ValueError(text)
    return text


def _checked(label: int) -> int:
    """Return a label; OverflowError where it is too large for a column of labels."""
    if abs(label) > MAX_LABEL:
        raise OverflowError
    return label
