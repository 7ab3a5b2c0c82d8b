"""Tar shards: WebDataset's (``key.jpg`` with ``key.cls`` or ``key.json``), flat ones, and ImageNet's tar of tars."""

from __future__ import annotations

import json
from typing import Any

from ..errors import InputError
from .entry import Entry
from .files import OpenFile
from .headers import Member, Read, is_tar, walk

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp"})
LABEL_SUFFIXES = frozenset({".cls", ".json"})
GZIP = b"\x1f\x8b"
MAX_LABEL_BYTES = 65_536


def scan(path: str, size: int) -> list[Entry]:
    """List the images of a tar in container order by its headers; only labels are read.

    A tar of tars, as ImageNet's training set comes, is listed in one: offsets are into the outer file, and an inner
    tar's name is its images' class.

    Raises
    ------
    InputError
        Not a tar, a compressed one, or a label that is not a class index.
    """
    with OpenFile(path) as file:
        if file.read(0, 2) == GZIP:
            raise InputError(f"shard {path} is compressed, so an image in it cannot be sought: gunzip it first.")
        if not is_tar(file.read):
            raise InputError(f"shard {path} is not a tar: no header at its beginning. Copy the shard again.")
        return _images(path, file.read, 0, size, "")


def _images(path: str, read: Read, start: int, end: int, class_name: str) -> list[Entry]:
    inner: list[Entry] = []
    images: list[tuple[str, Member]] = []
    labels: dict[str, int] = {}
    for member in walk(read, start, end):
        stem, suffix = _split(member.name or f"damaged-at-{member.offset}")
        if suffix == ".tar" and not class_name:
            wnid = stem.rpartition("/")[2]
            inner += _images(path, read, member.offset, min(member.offset + member.size, end), wnid)
        elif suffix in IMAGE_SUFFIXES or not member.name:
            images.append((stem, member))
        elif suffix in LABEL_SUFFIXES and not member.damage:
            text = read(member.offset, min(member.size, MAX_LABEL_BYTES))
            labels[stem] = _label(path, member, text)
    return inner + [_entry(stem, member, labels.get(stem, -1), class_name) for stem, member in images]


def _split(name: str) -> tuple[str, str]:
    """Split a member's name into path without extension, and extension in lower case; hidden files have none.

    >>> _split("n01440764/a.b.JPEG"), _split("./.hidden.jpg")
    (('n01440764/a.b', '.jpeg'), ('./.hidden.jpg', ''))
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    if not stem or stem.startswith("."):
        return name, ""
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def _entry(stem: str, member: Member, label: int, class_name: str) -> Entry:
    folder, _, key = stem.rpartition("/")
    return Entry(key, class_name or folder or ".", member.offset, member.size, label, class_name, member.damage)


def _label(path: str, member: Member, text: bytes) -> int:
    try:
        if not member.name.endswith(".json"):
            return int(text)
        record = json.loads(text)
        label: Any = record.get("label", record.get("cls", -1)) if isinstance(record, dict) else record
        return int(label)
    except (ValueError, TypeError, OverflowError, RecursionError):
        found = text[:32]
        raise InputError(f"shard {path}: member {member.name} holds {found!r}, expected a class index.") from None
