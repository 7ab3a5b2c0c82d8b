"""What a scan knows of an image before it is read."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One image of a shard.

    Attributes
    ----------
    key : str
        File name without folder and extension.
    folder : str
        The folder it is in; in class folders and the official training tar, its class.
    offset, size : int
        Where its bytes are, as the shard's form counts: bytes of a tar, number of the file in a folder, row of a
        parquet file (whose sizes are not known before they are read: 0).
    label : int
        Class index, -1 unknown.
    class_name : str
        Where the label has still to be looked up: a wnid or folder name.
    damage : str
        Why it cannot be read, where the scan has seen that already.
    """

    key: str
    folder: str
    offset: int
    size: int
    label: int = -1
    class_name: str = ""
    damage: str = ""
