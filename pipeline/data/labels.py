"""The classes of a dataset, and the class index of every image, however the dataset states it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from ..files import read_text
from .listing import Index

MAX_CLASSES = 2**31  # a class index is stored as int32
MAX_DIGITS = 18  # of a class index, so that it is an int64
UNNAMED = -(2**63)  # in place of the label of a folder that stands for no class


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset: names by index, and the index of each wnid or folder name."""

    names: tuple[str, ...]
    index: dict[str, int]

    def known(self) -> dict[str, int]:
        """Return the index of every word that stands for one class: its wnid, or its name where no other has it."""
        counts = Counter(self.names)
        return {name: i for i, name in enumerate(self.names) if counts[name] == 1} | self.index


def read_classes(path: str) -> Classes:
    """Read a TSV of index, wnid and name, one class a line; a first line of column titles is skipped.

    Raises
    ------
    InputError
        There is no such file, a line has not this form, or the indices are not 0, 1, 2, ….
    """
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    if lines and not lines[0][0].isdigit():
        lines = lines[1:]
    for number, line in enumerate(lines):
        if len(line) < 3 or line[0] != str(number):
            text = " ".join(line)[:60]
            raise InputError(
                f"data.classes {path}: expected index {number}, wnid and name, tab by tab, found {text!r}."
            )
    return Classes(tuple(line[2] for line in lines), {line[1]: int(line[0]) for line in lines})


def assign(index: Index, classes: Classes | None, labels_path: str = "") -> np.ndarray:
    """Return the class index (image) int32 of every image, -1 where it is unknown.

    Parameters
    ----------
    index : Index
    classes : Classes, optional
        Without them, class folders are numbered in the order of their names, as torchvision's ImageFolder does.
    labels_path : str
        A file with a class index or wnid a line, in the order of the images. If given, it replaces the dataset's own
        labels.

    Raises
    ------
    InputError
        A label is outside the classes, a class folder is none of them, or the file has another number of labels.
    """
    folders = sorted({class_name for _, class_name in index.folders if class_name})
    known = classes.known() if classes else {name: number for number, name in enumerate(folders)}
    limit = len(classes.names) if classes else MAX_CLASSES
    if labels_path:
        words = _read_labels(labels_path, len(index))
        labels = np.array([_label(word, known, index, image) for image, word in enumerate(words)], np.int64)
    else:
        _check_one_kind(index, classes)
        labels = _folder_labels(index, known)
    outside = np.nonzero((labels < -1) | (labels >= limit))[0]
    if len(outside):
        raise InputError(
            f"{_name(index, outside[0])} has label {labels[outside[0]]}, expected 0 to {limit - 1}. "
            "Correct the labels, or name the right data.classes."
        )
    return labels.astype(np.int32)


def _check_one_kind(index: Index, classes: Classes | None) -> None:
    """Raise InputError where some images have numbers for classes and others names, and nothing says which is which."""
    is_named = np.array([bool(class_name) for _, class_name in index.folders], bool)
    if classes or not is_named.any() or not len(index):
        return
    numbered = np.nonzero((index.label >= 0) & ~is_named[index.folder])[0]
    if len(numbered):
        named = int(np.argmax(is_named[index.folder]))
        raise InputError(
            f"{_name(index, numbered[0])} has label {index.label[numbered[0]]}, and {_name(index, named)} has class "
            f"{index.folders[index.folder[named]][1][:80]!r}: name the classes of both by data.classes."
        )


def _folder_labels(index: Index, known: dict[str, int]) -> np.ndarray:
    """Return the labels (image) of the index, with those of the classes that folders stand for."""
    folders, first = np.unique(index.folder, return_index=True)
    by_folder = np.full(len(index.folders), UNNAMED, np.int64)
    for folder, image in sorted(zip(folders.tolist(), first.tolist(), strict=True), key=lambda pair: pair[1]):
        if index.folders[folder][1]:
            by_folder[folder] = _label(index.folders[folder][1], known, index, image)
    labels = by_folder[index.folder]
    return np.where(labels == UNNAMED, index.label, labels)


def _label(word: str, known: dict[str, int], index: Index, image: int) -> int:
    """Return the class index that a wnid, folder name or number stands for."""
    if word in known:
        return known[word]
    if word.removeprefix("-").isdecimal() and len(word) < MAX_DIGITS:
        return int(word)
    raise InputError(f"{_name(index, image)} has class {word[:80]!r}, which is not in data.classes.")


def _name(index: Index, image: int) -> str:
    return f"shard {index.shards[index.shard[image]].name}: image {index.key[image]}"


def _read_labels(path: str, images: int) -> list[str]:
    words = read_text(path).split()
    if len(words) != images:
        raise InputError(f"data.labels {path} has {len(words):,} labels, the data has {images:,} images.")
    return words
