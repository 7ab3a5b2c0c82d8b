"""What a scan knows of an image before it is read."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One image of a shard: file name without extension, its folder, where its bytes are, class index or -1."""

    key: str
    folder: str
    offset: int
    size: int
    label: int
