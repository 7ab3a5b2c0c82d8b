"""Finding the shards of a dataset at a path; ``reader`` lists and reads their images."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

from .. import files
from ..errors import InputError
from ..files import File
from .entry import Dataset, Shard
from .forms.folder import describe_images
from .patterns import ACCEPTED_PATHS, expand_path, natural_order
from .reader import FOLDER, FORMS

COMPRESSED = (".tar.gz", ".tgz")


def find_dataset(path: str, name: str | None = None) -> Dataset:
    """Return the dataset at a path, a URL or a pattern of them; it is named after the path unless a name is given.

    Parameters
    ----------
    path : str
        A folder of tar or parquet shards, of class folders, or of images; one tar or parquet file; a pattern
        (``*``, ``?``, ``{000..127}``, ``{a,b}``); a ``.txt`` file that lists shards, one a line.

    Raises
    ------
    InputError
        There is no such path, or no shard in it.
    """
    shards = [shard for expanded in expand_path(path) for shard in _find_shards(expanded)]
    if not shards:
        raise InputError(f"{path} holds no shards: data.path is {ACCEPTED_PATHS}.")
    shards.sort(key=lambda shard: natural_order(shard.name))
    stem = PurePosixPath(re.split(r"[{*?\[]", path)[0].rstrip("/-_") or "data").stem
    return Dataset(name or stem, tuple(shards))


def _find_shards(path: str) -> list[Shard]:
    """List the shards at a path: the file itself, or the files in the folder, or the folder and those in it."""
    file = files.describe(path)
    if file is None:
        raise InputError(f"there is no data at {path}: data.path is {ACCEPTED_PATHS}.")
    if not file.is_folder:
        return [_file_shard(file)]
    content = files.list_folder(path)
    containers = [inner for inner in content if not inner.is_folder and _form_of(inner)]
    if containers:
        return [_file_shard(container) for container in containers]
    class_folders = [inner for inner in content if inner.is_folder and not inner.name.startswith(".")]
    shards = [_folder_shard(file, ""), *(_folder_shard(folder, folder.name) for folder in class_folders)]
    return [shard for shard in shards if shard.size]


def _file_shard(file: File) -> Shard:
    form = _form_of(file)
    if form is None:
        raise InputError(f"{file.path} is no shard: data.path is {ACCEPTED_PATHS}.")
    return Shard(file.name, file.path, form, file.size, file.modified)


def _folder_shard(folder: File, class_name: str) -> Shard:
    images, newest = describe_images(folder.path)
    return Shard(folder.name, folder.path, FOLDER, images, max(folder.modified, newest), class_name)


def _form_of(file: File) -> str | None:
    """Return the form of a file by its extension, None if it is no shard; InputError if it is compressed."""
    if file.name.endswith(COMPRESSED):
        raise InputError(f"shard {file.path} is compressed, so an image in it cannot be sought: gunzip it first.")
    extension = PurePosixPath(file.name).suffix.removeprefix(".")
    return extension if extension in FORMS and extension != FOLDER else None
