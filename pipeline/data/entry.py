"""What a dataset consists of before an image is read: its shards, and their images one by one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

ARRAY_SUFFIX = ".npy"
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ARRAY_SUFFIX}
)  # of file names, in lower case

IMAGES_A_READ = 16  # of a shard
READS = 4  # at once, on a disk
IN_FLIGHT = 64  # the same, in a bucket


@dataclass(frozen=True)
class Shard:
    """One container of encoded images.

    Attributes
    ----------
    name : str
        Its file name, or the folder's name.
    path : str
        A path or URL.
    form : str
        One of ``reader.FORMS``.
    size : int
        In bytes; of a folder, its number of images.
    modified : float
        In s since 1970; of a folder, when the folder or the newest of its images was modified.
    class_name : str
        Of a class folder, its name; else "".
    annotations : str
        Of a folder, the file that names the class of each of its images, where there is one.
    sidecar : str
        Of a tar, the index that lies beside it, where there is one.
    """

    name: str
    path: str
    form: str
    size: int
    modified: float
    class_name: str = ""
    annotations: str = ""
    sidecar: str = ""


@dataclass(frozen=True)
class Together:
    """How the images of a shard are read together.

    Attributes
    ----------
    images : int
        At most so many, which follow one another.
    in_flight : int
        So many reads at once.
    gap : int, optional
        Offsets are bytes, and one read takes what is at most so far apart; None where each image is read by itself.
    """

    images: int
    in_flight: int
    gap: int | None = None


@dataclass(frozen=True)
class Dataset:
    """A dataset: its name, its shards in natural order of their names, and what beside them is not used, by name."""

    name: str
    shards: tuple[Shard, ...]
    unused: tuple[str, ...] = ()


@dataclass(frozen=True)
class ShardSelection:
    """Some shards of a dataset, by their numbers in it: what a task is handed that reads no others."""

    shards: Mapping[int, Shard]


class Entry(NamedTuple):
    """One image of a shard.

    Attributes
    ----------
    key : str
        File name without folder and extension.
    folder : str
        The folder that holds it; in class folders and in ImageNet's tar of tars, its class.
    offset, size : int
        Where its bytes are, as the shard's form counts: bytes of a tar, number of the file in a folder, row of a
        parquet file (whose sizes are not known before they are read: 0).
    label : int
        Class index, -1 if unknown.
    class_name : str
        A wnid or folder name of which the class index has still to be looked up, else "".
    damage : str
        Why it cannot be read, where listing has found that already, else "".
    """

    key: str
    folder: str
    offset: int
    size: int
    label: int = -1
    class_name: str = ""
    damage: str = ""
