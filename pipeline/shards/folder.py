"""Folders of image files: one a class, as torchvision's ImageFolder wants them, or one for all."""

from __future__ import annotations

from pathlib import PurePosixPath

from .entry import Entry
from .files import File, listing
from .tar import IMAGE_SUFFIXES


def images_in(folder: str) -> list[File]:
    """List the image files of a folder by name; an image's offset in the index is its number in this list."""
    return [
        file
        for file in listing(folder)
        if not file.is_folder and not file.name.startswith(".") and suffix(file) in IMAGE_SUFFIXES
    ]


def scan(folder: str, class_name: str) -> list[Entry]:
    """List the images of a folder; ``class_name`` is its name where it stands for a class."""
    where = class_name or "."
    return [
        Entry(PurePosixPath(file.name).stem, where, number, file.size, class_name=class_name)
        for number, file in enumerate(images_in(folder))
    ]


def suffix(file: File) -> str:
    """Give a file's extension, in lower case."""
    return PurePosixPath(file.name).suffix.lower()
