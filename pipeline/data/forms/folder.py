"""Folders of image files: one for each class, as torchvision's ImageFolder reads them, or one for all images."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import PurePosixPath

import numpy as np

from ...files import File, OpenFile, iterate_folder, printable
from ..entry import IMAGE_SUFFIXES, Shard
from ..kept import Kept
from ..keys import fits
from ..listing import Listing, ListingBuilder, TextsBuilder


def list_images(shard: Shard) -> Listing:
    """List the images of a folder by name; an image's offset is its number in this list."""
    files, images = _Files(shard.path), ListingBuilder()
    for number in range(len(files)):
        stem, size = files.stem(number), files.size(number)
        images.add(stem, shard.class_name or ".", number, size, class_name=shard.class_name)
    return images.finish()


def open_shard(shard: Shard, _: Kept) -> OpenFolder:
    """Open a folder for reading its images."""
    return OpenFolder(shard)


def describe_images(path: str) -> tuple[int, float]:
    """Return how many images a folder holds directly, and when the newest was modified, in s since 1970; 0 if none."""
    count, newest = 0, 0.0
    for file in _iterate_files(path):
        count, newest = count + 1, max(newest, file.modified)
    return count, newest


class OpenFolder:
    """Reads the images of a folder by their numbers in ``list_images``; the folder is listed once."""

    def __init__(self, shard: Shard) -> None:
        self._name = shard.name
        self._files = _Files(shard.path)

    def read(self, number: int, size: int, key: str) -> bytes:
        """Return the content of a file.

        Raises
        ------
        OSError
            It cannot be read, or it is not the file that was indexed: it has another name or another size.
        """
        remedy = "Restore it, or mine the changed data into another STORE."
        if number >= len(self._files):
            raise OSError(f"folder {self._name} has only {len(self._files):,} images now. {remedy}")
        stem = self._files.stem(number)
        if not fits(key, stem):
            raise OSError(f"folder {self._name} has changed since it was indexed: {stem} is in its place now. {remedy}")
        with OpenFile(self._files.path(number), self._files.size(number)) as content:
            if content.size != size:
                raise OSError(f"it has {content.size:,} bytes now, and had {size:,} when it was indexed. {remedy}")
            return content.read(0, size)

    def close(self) -> None:
        """Do nothing: every file is closed once it is read."""


class _Files:
    """The image files of a folder, by name, in little memory."""

    def __init__(self, folder: str) -> None:
        self._folder = folder.rstrip("/")
        names, sizes = TextsBuilder(), array("q")
        for file in _iterate_files(folder):
            names.add(file.path.rstrip("/").rsplit("/", 1)[-1])
            sizes.append(file.size)
        self._names, self._sizes = names.finish(), sizes
        self._order = np.argsort(self._names.to_array(printable), kind="stable")

    def __len__(self) -> int:
        return len(self._order)

    def path(self, number: int) -> str:
        """Return the path of a file."""
        return f"{self._folder}/{self._names[self._order[number]]}"

    def stem(self, number: int) -> str:
        """Return the name of a file as printable text, without its extension."""
        return PurePosixPath(printable(self._names[self._order[number]])).stem

    def size(self, number: int) -> int:
        """Return the size that a file had when the folder was listed, in bytes."""
        return int(self._sizes[self._order[number]])


def _iterate_files(path: str) -> Iterator[File]:
    return (file for file in iterate_folder(path) if not file.is_folder and _is_image(file.name))


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES
