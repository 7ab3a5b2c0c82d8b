"""Finding the shards of a dataset at a path; ``reader`` lists and reads their images."""

from __future__ import annotations

import os
import re
from collections.abc import Set
from dataclasses import replace
from pathlib import PurePosixPath

from .. import files
from ..errors import InputError
from ..files import File
from .entry import Dataset, Shard
from .forms.folder import describe_images
from .forms.sidecar import sidecar_name
from .patterns import ACCEPTED_PATHS, expand_path, natural_order
from .reader import FOLDER, FORMS

TAR = "tar"
COMPRESSED = (".tar.gz", ".tgz")
ANNOTATIONS = "val_annotations.txt"  # Tiny-ImageNet's, beside its folder of validation images


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
    found = [_find_shards(expanded) for expanded in expand_path(path)]
    shards = [shard for of_path, _ in found for shard in of_path]
    if not shards:
        raise InputError(f"{path} holds no shards: data.path is {ACCEPTED_PATHS}.")
    shards = _with_sidecars(shards)
    shards.sort(key=lambda shard: natural_order(shard.name))
    stem = PurePosixPath(re.split(r"[{*?\[]", path)[0].rstrip("/-_") or "data").stem
    return Dataset(name or stem, tuple(shards), tuple(unused for _, of_path in found for unused in of_path))


def _find_shards(path: str) -> tuple[list[Shard], list[str]]:
    """List the shards at a path, and what is beside them and not used, by name.

    The shards are the file itself, or the files in the folder, or the folder and those in it. Where a folder holds
    both, those that are more are meant.
    """
    file = files.describe(path)
    if file is None:
        raise InputError(f"there is no data at {path}: data.path is {ACCEPTED_PATHS}.")
    if not file.is_folder:
        return [_file_shard(file)], []
    content = [inner for inner in files.list_folder(path) if not inner.name.startswith(".")]
    containers = [inner for inner in content if not inner.is_folder and _form_of(inner)]
    folders = [inner for inner in content if inner.is_folder]
    annotations = next((inner.path for inner in content if inner.name == ANNOTATIONS and not inner.is_folder), "")
    if len(containers) > len(folders) or (containers and not any(_holds_images(folder) for folder in folders)):
        return [_file_shard(container) for container in containers], [folder.name for folder in folders]
    shards = [_folder_shard(folder, "" if annotations else folder.name, annotations) for folder in folders]
    used = {shard.name for shard in shards if shard.size}
    unused = [inner.name for inner in (*containers, *folders) if inner.name not in used]
    return [shard for shard in (_folder_shard(file, ""), *shards) if shard.size], unused if used else []


def _with_sidecars(shards: list[Shard]) -> list[Shard]:
    """Return shards with the indices that lie beside them: each folder of tars is listed once."""
    names: dict[str, Set[str]] = {}
    found = []
    for shard in shards:
        folder, name = os.path.split(shard.path)
        if shard.form == TAR and folder not in names:
            names[folder] = _list_names(folder or ".")
        has_sidecar = shard.form == TAR and sidecar_name(name) in names[folder]
        found.append(replace(shard, sidecar=sidecar_name(shard.path)) if has_sidecar else shard)
    return found


def _list_names(folder: str) -> Set[str]:
    """Return the names of what is in a folder; none where a server lists no folders: no index is a must."""
    try:
        return {*files.list_names(folder)}
    except OSError:
        return frozenset()


def _holds_images(folder: File) -> bool:
    return describe_images(folder.path, is_class=True)[0] > 0


def _file_shard(file: File) -> Shard:
    form = _form_of(file)
    if form is None:
        raise InputError(f"{file.path} is no shard: data.path is {ACCEPTED_PATHS}.")
    return Shard(file.name, file.path, form, file.size, file.modified)


def _folder_shard(folder: File, class_name: str, annotations: str = "") -> Shard:
    images, newest = describe_images(folder.path, bool(class_name))
    modified = max(folder.modified, newest)
    return Shard(folder.name, folder.path, FOLDER, images, modified, class_name, annotations)


def _form_of(file: File) -> str | None:
    """Return the form of a file by its extension, None if it is no shard; InputError if it is compressed."""
    if file.name.endswith(COMPRESSED):
        raise InputError(f"shard {file.path} is compressed, so an image in it cannot be sought: gunzip it first.")
    extension = PurePosixPath(file.name).suffix.removeprefix(".")
    return extension if extension in FORMS and extension != FOLDER else None
