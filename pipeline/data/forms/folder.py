"""Folders of image files: one for each class, as torchvision's ImageFolder reads them, or one for all images."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np

from ...errors import InputError
from ...files import File, OpenFile, is_url, iterate_folder, printable, read_text
from ..entry import ARRAY_SUFFIX, IMAGE_SUFFIXES, IMAGES_A_READ, IN_FLIGHT, READS, Shard, Together
from ..kept import Kept
from ..keys import fits
from ..listing import Listing, ListingBuilder, Parts, TextsBuilder

FIRST = "\x01"  # sorts a folder's own files before those of the folders in it


def list_images(shard: Shard) -> Listing:
    """List the images of a folder by name; an image's offset is its number in this list.

    Those of a class folder may lie in folders in it: as in ImageFolder, its own come first.
    """
    files, images = _Files(shard), ListingBuilder()
    classes = _read_annotations(shard.annotations) if shard.annotations else {}
    for number in range(len(files)):
        name = PurePosixPath(files.name(number))
        folder = str(PurePosixPath(shard.class_name) / name.parent) if shard.class_name else "."
        class_name = shard.class_name or classes.get(name.name, "")
        images.add(name.stem, folder, number, files.size(number), class_name=class_name)
    return replace(images.finish(), parts=files.parts)


def together(shard: Shard) -> Together:
    """Return how the files of a folder are read together: on a disk one after the other, in a bucket all at once."""
    return Together(1, IN_FLIGHT) if is_url(shard.path) else Together(IMAGES_A_READ, READS)


def open_shard(shard: Shard, _: Kept) -> OpenFolder:
    """Open a folder for reading its images."""
    return OpenFolder(shard)


def describe_images(path: str, is_class: bool = False) -> tuple[int, float]:
    """Return how many images a folder holds, and when the newest was modified, in s since 1970; 0 if there is none.

    Parameters
    ----------
    is_class : bool
        Count those of the folders in it, too, and of these folders the modification.
    """
    images, arrays, newest = 0, 0, 0.0
    for file, _ in _iterate_files(path, is_class):
        newest = max(newest, file.modified)
        if not file.is_folder:
            images, arrays = images + (not _is_array(file.name)), arrays + _is_array(file.name)
    count = images or arrays
    return count, newest if count else 0.0


class OpenFolder:
    """Reads the images of a folder by their numbers in ``list_images``; the folder is listed once."""

    def __init__(self, shard: Shard) -> None:
        self._name = shard.name
        self._files = _Files(shard)

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
        stem = PurePosixPath(self._files.name(number)).stem
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

    def __init__(self, shard: Shard) -> None:
        self._folder = shard.path.rstrip("/")
        names, sizes = TextsBuilder(), array("q")
        for file, name in _iterate_files(shard.path, bool(shard.class_name)):
            if not file.is_folder:
                names.add(name)
                sizes.append(file.size)
        self._names, self._sizes = names.finish(), sizes
        order = np.argsort(self._names.to_array(_sort_key), kind="stable")
        is_array = np.fromiter(map(_is_array, self._names), bool, len(sizes))[order]
        beside = is_array if not is_array.all() else np.zeros_like(is_array)  # beside images they are something else
        self._order = order[~beside]
        self.parts = Parts(int(beside.sum()), self._names[order[beside.argmax()]]) if beside.any() else Parts()

    def __len__(self) -> int:
        return len(self._order)

    def path(self, number: int) -> str:
        """Return the path of a file."""
        return f"{self._folder}/{self._names[self._order[number]]}"

    def name(self, number: int) -> str:
        """Return the path of a file from the folder on, as printable text."""
        return printable(self._names[self._order[number]])

    def size(self, number: int) -> int:
        """Return the size that a file had when the folder was listed, in bytes."""
        return int(self._sizes[self._order[number]])


def _sort_key(name: str) -> str:
    folder, _, file = printable(name).rpartition("/")
    return f"{folder}{FIRST}{file}"


def _iterate_files(path: str, nested: bool) -> Iterator[tuple[File, str]]:
    """Yield a folder's image files, and with ``nested`` the folders in it and their image files, each with its path.

    A path is that from the folder on. A link that leads back to where it comes from is not followed.
    """
    waiting = [(path, "", frozenset({_resolve(path)}))]
    while waiting:
        folder, prefix, above = waiting.pop()
        for file in iterate_folder(folder):
            name = prefix + file.path.rstrip("/").rsplit("/", 1)[-1]
            if not file.is_folder:
                if _is_image(file.name):
                    yield file, name
            elif nested and not file.name.startswith(".") and _resolve(file.path) not in above:
                yield file, name
                waiting.append((file.path, f"{name}/", above | {_resolve(file.path)}))


def _resolve(path: str) -> str:
    return path.rstrip("/") if is_url(path) else os.path.realpath(path)


def _is_image(name: str) -> bool:
    return not name.startswith(".") and PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def _is_array(name: str) -> bool:
    return name.lower().endswith(ARRAY_SUFFIX)


def _read_annotations(path: str) -> dict[str, str]:
    """Read which class each image has, by file name: Tiny-ImageNet's ``val_annotations.txt``, tab by tab.

    Raises
    ------
    InputError
        A line has another form.
    """
    classes = {}
    for line in read_text(path).splitlines():
        name, _, rest = line.partition("\t")
        class_name = rest.partition("\t")[0].strip()
        if line.strip():
            if not class_name:
                raise InputError(f"{path}: expected a file name and a class, tab by tab, found {line[:60]!r}.")
            classes[name] = class_name
    return classes
