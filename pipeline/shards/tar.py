"""Tar shards as WebDataset writes them: ``key.jpg`` and, optionally, ``key.cls`` with the class index."""

from __future__ import annotations

import tarfile
from pathlib import PurePosixPath

from ..errors import InputError
from .entry import Entry

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})


def scan(path: str) -> list[Entry]:
    """List the images of a tar in container order by its headers; only ``.cls`` members are read.

    Raises
    ------
    InputError
        Not a tar, truncated, or a class that is not a whole number.
    """
    images: list[tuple[PurePosixPath, int, int]] = []
    labels: dict[str, int] = {}
    try:
        with tarfile.open(path, "r:") as container:
            for member in container:
                name = PurePosixPath(member.name)
                if not member.isfile() or name.name.startswith("."):
                    continue
                if name.suffix.lower() in IMAGE_SUFFIXES:
                    images.append((name, member.offset_data, member.size))
                elif name.suffix == ".cls":
                    labels[str(name.with_suffix(""))] = _label(container, member, path)
    except (tarfile.TarError, EOFError, OSError) as error:
        raise InputError(f"shard {path} cannot be read as a tar: {error}. Copy the shard again.") from error
    return [
        Entry(name.stem, str(name.parent), offset, size, labels.get(str(name.with_suffix("")), -1))
        for name, offset, size in images
    ]


def _label(container: tarfile.TarFile, member: tarfile.TarInfo, path: str) -> int:
    file = container.extractfile(member)
    text = file.read(32).strip() if file else b""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"shard {path}: member {member.name} holds {text!r}, expected a class index.") from None
