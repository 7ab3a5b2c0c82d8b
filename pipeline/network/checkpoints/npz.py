"""Weights in ``.npz`` files: first the names, shapes and types of all arrays, then the arrays that are wanted.

An array of zeros packs to a thousandth, so a small file can hold more than there is memory. Nothing is unpacked beyond
the headers before these were compared with what the network wants, and no pickle is read.
"""

from __future__ import annotations

import io
from collections.abc import Collection
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import torch
from torch import Tensor

SUFFIX = ".npy"  # of an array's name in the file
HEADER_BYTES = 2**14  # that are read of an array: numpy's longest header is 10,000
HEADER_READERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_headers(path: Path) -> dict[str, Tensor]:
    """Return for every array of a file, by its name, a tensor of its shape and type on the device ``meta``.

    Raises
    ------
    Exception
        Of several kinds, where it is no file of arrays of numbers.
    """
    with ZipFile(path) as archive:
        return {name.removesuffix(SUFFIX): _read_header(archive, name) for name in archive.namelist()}


def read_arrays(path: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Return the arrays of some names. Of each no more is unpacked than its header says."""
    arrays = {}
    with ZipFile(path) as archive:
        for name in archive.namelist():
            if name.removesuffix(SUFFIX) in names:
                with archive.open(name) as entry:
                    array = np.lib.format.read_array(entry, allow_pickle=False)
                arrays[name.removesuffix(SUFFIX)] = torch.from_numpy(array)
    return arrays


def _read_header(archive: ZipFile, name: str) -> Tensor:
    with archive.open(name) as entry:
        header = io.BytesIO(entry.read(HEADER_BYTES))
    version = np.lib.format.read_magic(header)
    if version not in HEADER_READERS:
        raise ValueError(f"array {name} is of version {version} of numpy's format, expected 1.0 or 2.0")
    shape, _, numbers = HEADER_READERS[version](header)
    dtype = torch.from_numpy(np.empty(0, numbers)).dtype  # raises where it is none of numbers, objects for example
    return torch.empty(shape, dtype=dtype, device="meta")
