"""The members of a tar that make up one sample, as WebDataset has them, and which of its pictures is the image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ..entry import ARRAY_SUFFIX, IMAGE_SUFFIXES
from .headers import Member

IMAGE_PARTS = frozenset({"image", "img", "rgb", "input", "photo", "color", "colour"})  # of a sample, by name
LONGEST = 64  # pictures of a sample; names with dots in a flat tar seem to be of one sample, and are not


def split(name: str) -> tuple[str, str]:
    """Return a member's path without extension, and its extension in lower case: "" for hidden files.

    >>> split("n01440764/a.b.JPEG"), split("./.hidden.jpg")
    (('n01440764/a.b', '.jpeg'), ('./.hidden.jpg', ''))
    """
    folder, slash, file = name.rpartition("/")
    stem, dot, suffix = file.rpartition(".")
    if not stem or stem.startswith("."):
        return name, ""
    return f"{folder}{slash}{stem}", f"{dot}{suffix}".lower()


def without_parts(members: Iterable[Member], leave_out: Callable[[Member], None]) -> Iterator[Member]:
    """Yield the members of a tar without the pictures that belong to an image: masks, depths, arrays of features.

    Members that follow one another and have the same name up to its first dot are a sample. Of its pictures those
    without a further part in their names are images, ``000.jpg`` beside ``000.seg.png``; where there is none, those
    whose part says so, ``000.image.png``; where there is none, all. A ``.npy`` is an image only where it is alone.

    Parameters
    ----------
    leave_out : callable
        Is told each picture that is not yielded.
    """
    sample, pictures = "", list[Member]()
    for member in members:
        stem, suffix = split(member.name)
        folder, slash, file = stem.rpartition("/")
        its_sample = f"{folder}{slash}{file.partition('.')[0]}"
        if its_sample != sample or len(pictures) >= LONGEST:
            yield from _choose(sample, pictures, leave_out)
            sample, pictures = its_sample, []
        if suffix in IMAGE_SUFFIXES and not member.missing:
            pictures.append(member)
        else:
            yield member
    yield from _choose(sample, pictures, leave_out)


def _choose(sample: str, pictures: list[Member], leave_out: Callable[[Member], None]) -> Iterator[Member]:
    """Yield the pictures of a sample that are images."""
    if len(pictures) == 1 or len(pictures) >= LONGEST:
        yield from pictures
        return
    parts = [stem[len(sample) :].strip(".").lower() if suffix != ARRAY_SUFFIX else ARRAY_SUFFIX
             for stem, suffix in (split(member.name) for member in pictures)]  # fmt: skip
    images = next(
        (chosen for chosen in ({""}, IMAGE_PARTS, {*parts} - {ARRAY_SUFFIX}) if not chosen.isdisjoint(parts)), {*parts}
    )
    for member, part in zip(pictures, parts, strict=True):
        if part in images:
            yield member
        else:
            leave_out(member)
