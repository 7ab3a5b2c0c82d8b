"""Class indices and names: what a dataset says of its images' classes, made one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .errors import InputError
from .shards import Entry
from .shards.files import read_text

MAX_CLASSES = 2**31


@dataclass(frozen=True)
class Classes:
    """The classes of a dataset: names by index, and the index of each wnid or folder name."""

    names: tuple[str, ...]
    index: dict[str, int]


def read_classes(path: str) -> Classes:
    """Read a TSV of index, wnid, name, one class a line; a first line of titles is passed over.

    Raises
    ------
    InputError
        A line that is not of this form, or indices that are not 0, 1, 2, ….
    """
    lines = [line.split("\t") for line in read_text(path).splitlines() if line.strip()]
    if lines and not lines[0][0].isdigit():
        lines = lines[1:]
    for number, line in enumerate(lines):
        if len(line) < 3 or line[0] != str(number):
            found = " ".join(line)[:60]
            raise InputError(
                f"data.classes {path}: expected index {number}, wnid and name, tab by tab, found {found!r}."
            )
    return Classes(tuple(line[2] for line in lines), {line[1]: int(line[0]) for line in lines})


def assign(entries: Sequence[tuple[str, Entry]], classes: Classes | None, truth: str = "") -> list[int]:
    """Give every image its class index, -1 where it is unknown.

    Parameters
    ----------
    entries : sequence of (shard name, Entry)
    classes : Classes, optional
        Without them, class folders are numbered in the order of their names, as torchvision's ImageFolder does.
    truth : str
        A file with a class index or wnid a line, in the order of the images, that takes the place of all else.

    Raises
    ------
    InputError
        A label outside the classes, a class folder that is none of them, a file of another length.
    """
    words = _truth(truth, len(entries)) if truth else None
    folders = sorted({entry.class_name for _, entry in entries if entry.class_name})
    index = classes.index if classes else {name: number for number, name in enumerate(folders)}
    limit = len(classes.names) if classes else MAX_CLASSES
    labels = []
    for number, (shard, entry) in enumerate(entries):
        label = _label(words[number] if words else entry.class_name, entry.label, index, shard, entry.key)
        if not -1 <= label < limit:
            raise InputError(
                f"shard {shard}: image {entry.key} has label {label}, expected 0 to {limit - 1}. "
                "Correct the labels, or name the right data.classes."
            )
        labels.append(label)
    return labels


def _label(word: str, label: int, index: dict[str, int], shard: str, key: str) -> int:
    if not word:
        return label
    if word in index:
        return index[word]
    try:
        return int(word)
    except ValueError:
        raise InputError(f"shard {shard}: image {key} has class {word[:80]!r}, which is not in data.classes.") from None


def _truth(path: str, images: int) -> list[str]:
    words = read_text(path).split()
    if len(words) != images:
        raise InputError(f"data.labels {path} has {len(words):,} labels, the data has {images:,} images.")
    return words
