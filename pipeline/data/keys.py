"""A unique key for every image, made of the names that it has in its shard."""

from __future__ import annotations

from pathlib import PurePosixPath

import numpy as np

from .listing import PORTION, TEXT, Index


def unique_keys(index: Index) -> np.ndarray:
    """Return a unique key (image) for every image: its name, with more of its path where that is not unique.

    It is the file name without folder and extension. Where that repeats, the folder is put before it; where that
    repeats too, the shard. The second and later images of the same name in one shard get a number.
    """
    repeated, _ = _find_repeated(index.key)
    if not len(repeated):
        return index.key
    keys = index.key.copy()
    folders = np.array([f"{folder}/" for folder, _ in index.folders], TEXT)
    shards = np.array([f"{PurePosixPath(shard.name).stem}/" for shard in index.shards], TEXT)
    keys[repeated] = folders[index.folder[repeated]] + keys[repeated]
    # Only images whose names repeat have a folder in their key: a key that repeats now may be one that has none.
    again, _ = _find_repeated(keys)
    with_folder = np.zeros(len(keys), bool)
    with_folder[repeated] = True
    bare = again[~with_folder[again]]
    keys[bare] = folders[index.folder[bare]] + keys[bare]
    keys[again] = shards[index.shard[again]] + keys[again]
    repeated, ordinal = _find_repeated(keys)
    while len(repeated):  # once, unless a name looks like a numbered one
        later = repeated[ordinal > 0]
        keys[later] = keys[later] + np.array([f"#{number + 1}" for number in ordinal[ordinal > 0].tolist()], TEXT)
        repeated, ordinal = _find_repeated(keys)
    return keys


def fits(key: str, name: str) -> bool:
    """Return whether a unique key was made for an image of a name.

    >>> fits("1", "1"), fits("s/cat/1#2", "1"), fits("cat/11", "1"), fits("1#2", "1#2")
    (True, True, False, True)
    """
    while key != name and not key.endswith(f"/{name}"):
        key, _, number = key.rpartition("#")
        if not number.isdecimal() or not key:
            return False
    return True


def _find_repeated(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the images whose keys occur more than once, and how many images before each have the same key."""
    order = np.argsort(keys, kind="stable")
    first = np.ones(len(keys), bool)
    for start in range(0, len(keys), PORTION):
        portion = keys[order[start : start + PORTION + 1]]
        first[start + 1 : start + len(portion)] = portion[1:] != portion[:-1]
    starts = np.nonzero(first)[0]
    lengths = np.diff(starts, append=len(keys))
    ordinal = np.arange(len(keys)) - np.repeat(starts, lengths)
    repeated = np.repeat(lengths > 1, lengths)
    return order[repeated], ordinal[repeated]
