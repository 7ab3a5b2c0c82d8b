"""The files that hold weights, by their endings; and what else a file of such a name may be."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from zipfile import is_zipfile

import safetensors.torch
from torch import Tensor

from ...errors import InputError, first_line
from .npz import read_arrays, read_headers
from .pickles import read_pickled

ENDINGS = ".pth, .pt, .ckpt, .bin, .pth.tar, .safetensors, .npz, or .index.json of their shards"
HEAD_BYTES = 512  # of a file that tell what it is
LENGTH_BYTES = 8  # of the header's length, at the beginning of a safetensors file
LONGEST_HEADER = 10**8  # that safetensors reads
_POINTER, _PAGES, _ZIP = b"version https://git-lfs", (b"<!doctype", b"<html", b"<?xml"), b"PK\x03\x04"

Fetch = Callable[[dict[str, Any]], dict[str, Any]]


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes
    ----------
    content : object
        Tensors and plain values in dicts. Of a ``.npz`` file its arrays are tensors without values on the device
        ``meta``.
    fetch : callable
        Takes a dict of entries of ``content`` by any names; returns them with their values.
    """

    content: Any
    fetch: Fetch = dict


def read_checkpoint(weights: str) -> Checkpoint:
    """Read a file of weights, or the shards that an index names.

    Raises
    ------
    InputError
        There is no such file, or none that holds weights; the sentence says what it is, and what to do.
    """
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            f"there is no weights file {weights}: network.weights is 'bundled', 'torchvision', 'random' "
            f"or the path of a file that ends in {ENDINGS}."
        )
    reader = _READERS.get(_ending(path))
    if reader is None:
        raise InputError(f"weights file {weights} must end in {ENDINGS}.")
    with _refused(weights):
        _check_beginning(path)
        return reader(path)


@contextmanager
def _refused(weights: str) -> Iterator[None]:
    """Turn whatever a reader raises into a sentence that refuses the file."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"weights file {weights} cannot be read: {first_line(error)}") from error


def _ending(path: Path) -> str:
    return ".pth.tar" if path.name.endswith(".pth.tar") else path.suffix


def _check_beginning(path: Path) -> None:
    """Raise ValueError where a file's first bytes say that it holds no weights, or not all of them."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
    if not head:
        raise ValueError("it is empty. Copy or download it again.")
    if head.startswith(_POINTER):
        raise ValueError("it is a Git LFS pointer, not the file itself. Run git lfs pull where it was cloned.")
    if head.lstrip().lower().startswith(_PAGES):
        raise ValueError("it is a web page, not weights. Download the file that the page links to.")
    if head.startswith(_ZIP) and not is_zipfile(path):
        raise ValueError("it is cut off before its end. Copy or download it again.")


def _read_safetensors(path: Path) -> Checkpoint:
    _check_length(path)
    return Checkpoint(safetensors.torch.load_file(path))


def _check_length(path: Path) -> None:
    """Raise ValueError where a safetensors file is shorter than its header says."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        header = json.loads(file.read(length)) if LENGTH_BYTES + length <= size else {}
    if length > LONGEST_HEADER or not isinstance(header, dict):
        raise ValueError("it does not begin with the header of a safetensors file.")
    ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
    expected = LENGTH_BYTES + length + max(ends, default=0)
    if size < expected:
        raise ValueError(f"it ends at byte {size:,} of {expected:,}. Copy or download it again.")


def _read_npz(path: Path) -> Checkpoint:
    """Read the headers of all arrays; the arrays themselves once it is known which are wanted."""
    headers = read_headers(path)

    def fetch(wanted: dict[str, Any]) -> dict[str, Any]:
        """Return arrays for their headers."""
        names = {id(header): name for name, header in headers.items()}
        with _refused(str(path)):
            arrays = read_arrays(path, {names[id(header)] for header in wanted.values() if id(header) in names})
        return {key: arrays[names[id(value)]] if id(value) in names else value for key, value in wanted.items()}

    return Checkpoint(headers, fetch)


def _read_index(path: Path) -> Checkpoint:
    """Read the shards that an index names, which are in its folder: ``model.safetensors.index.json``."""
    index = json.loads(path.read_text(encoding="utf-8"))
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
        raise ValueError("it is no index of shards: it lacks a weight_map from keys to files.")
    shards = {shard: _read_shard(path.parent, shard) for shard in sorted(set(places.values()))}
    lacking = next((key for key, shard in places.items() if key not in shards[shard]), None)
    if lacking is not None:
        raise ValueError(f"shard {places[lacking]!r} lacks {lacking!r}, which the index says is there.")
    return Checkpoint({key: shards[shard][key] for key, shard in places.items()})


def _read_shard(folder: Path, shard: str) -> Mapping[str, Tensor]:
    if PurePosixPath(shard).name != shard or PureWindowsPath(shard).name != shard:
        raise ValueError(f"the index names the shard {shard!r}, which is not in the index's folder.")
    path = folder / shard
    if not path.is_file():
        raise ValueError(f"shard {shard!r}, which the index names, is not beside it. Copy or download it, too.")
    if _ending(path) not in _SHARDS:
        raise ValueError(f"the index names the shard {shard!r}: a shard ends in {', '.join(_SHARDS)}.")
    try:
        _check_beginning(path)
        content = _SHARDS[_ending(path)](path).content
    except Exception as error:
        raise ValueError(f"shard {shard!r}: {first_line(error)}") from error
    if not isinstance(content, dict):
        raise ValueError(f"shard {shard!r} holds no state dict (names and tensors).")
    return content


def _read_torch(path: Path) -> Checkpoint:
    return Checkpoint(read_pickled(path))


_SHARDS: dict[str, Callable[[Path], Checkpoint]] = {
    ".safetensors": _read_safetensors,
    ".bin": _read_torch,
    ".pth": _read_torch,
    ".pt": _read_torch,
}
_READERS: dict[str, Callable[[Path], Checkpoint]] = {
    **_SHARDS,
    ".ckpt": _read_torch,
    ".pth.tar": _read_torch,
    ".npz": _read_npz,
    ".json": _read_index,
}
