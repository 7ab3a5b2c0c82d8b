"""The groups and arrays of a store, as zarr opens and creates them.

Every array has dimension names, and every chunk a checksum: without one, a flipped bit would be read as another value.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.storage import LocalStore

from .. import files
from ..errors import DamageError, first_line
from .attributes import read_fingerprints, store_attributes
from .schema import Spec
from .storage import DOCUMENT, CompleteStore, MissingChunkError

# The codec pipeline of the package zarrs, None where it is not installed.
Zarrs: Any = import_module("zarrs").ZarrsCodecPipeline if find_spec("zarrs") else None

Node = TypeVar("Node", zarr.Group, "zarr.Array[Any]")

CODECS = (ZstdCodec(level=0), Crc32cCodec())

# The errors that zarr and its codecs raise for bytes that are not those that were written. OSError is none of them:
# what a disk or a network did says nothing of what is stored.
DAMAGE_ERRORS = (ValueError, TypeError, RuntimeError, LookupError, AssertionError, AttributeError, MissingChunkError)


def _read_groups_when_optimised() -> None:
    """Let zarr read groups under ``python -O``, too: it takes the node type out of their metadata in an assert."""
    group_metadata: Any = type(zarr.create_group(zarr.storage.MemoryStore()).metadata)
    read = group_metadata.from_dict.__func__

    def from_dict(kind: Any, metadata: dict[str, Any]) -> Any:
        """Read the metadata of a group."""
        return read(kind, {key: value for key, value in metadata.items() if key != "node_type"})

    group_metadata.from_dict = classmethod(from_dict)


if not __debug__:
    _read_groups_when_optimised()


class Arrays:
    """The groups and arrays of one store.

    An array is opened once, because its metadata never changes. A group is read anew by every call, because other
    processes change its attributes.

    Attributes
    ----------
    path : str
        A folder or a URL, without a slash at the end.
    root : Group
        The root group, with its attributes as they were last read.
    check_lease : callable
        Raises BusyError where the run may no longer write; called before anything is.
    expect : callable
        Returns what an array has to be, None where that is not known.
    """

    def __init__(self, root: zarr.Group, path: str, check_lease: Callable[[], None] = lambda: None) -> None:
        self.path = path.rstrip("/")
        self.root = root
        self.check_lease = check_lease
        self.expect: Callable[[str], Spec | None] = lambda _: None
        self._opened: dict[tuple[str, bool], zarr.Array[Any]] = {}

    @cached_property
    def _complete(self) -> zarr.Group:
        """The root group, for reading arrays of which every chunk is there."""
        return zarr.Group.open(CompleteStore(self.root.store))

    def reread_root(self) -> zarr.Group:
        """Return the root group with the attributes that it has now."""
        self.root = zarr.Group.open(self.root.store)
        return self.root

    def find_group(self, path: str) -> zarr.Group | None:
        """Return a group with the attributes that it has now, None where there is none that can be read.

        Compare it with None: a group that holds nothing is false, and zarr reads everything in it to know that.
        """
        return find_node(self.root, path, zarr.Group)

    def open(self, path: str, complete: bool = False) -> zarr.Array[Any]:
        """Return an array to be written, or ``complete`` to be read; DamageError where its metadata is damaged."""
        if (path, complete) not in self._opened:
            array = find_node(self._complete if complete else self.root, path, zarr.Array)
            if array is None:
                raise damage(self.path, f"it has no array {path}")
            spec = self.expect(path)
            if spec is not None and not spec.fits(array):
                raise damage(self.path, f"{path}/{DOCUMENT} is not what the schema wants")
            self._opened[path, complete] = self._read_fast(array) if complete else _with_empty_chunks(array)
        return self._opened[path, complete]

    def _read_fast(self, array: zarr.Array[Any]) -> zarr.Array[Any]:
        """Return an array of numbers that is read through zarrs, where it is installed and the store is a folder."""
        array = _with_empty_chunks(array)  # a new object: what is set below is set for this one alone
        store = self.root.store
        if Zarrs is not None and isinstance(store, LocalStore) and array.dtype.kind in "biuf":
            zarrs = Zarrs.from_array_metadata_and_store(array.metadata, LocalStore(store.root, read_only=True))
            pipeline = _CheckedZarrs(zarrs, array.async_array.codec_pipeline, store.root)
            # Zarr's configuration would choose it for the whole process, and so for arrays that are written, too.
            object.__setattr__(array.async_array, "codec_pipeline", pipeline)
        return array

    def write(self, rows: slice, values: Mapping[str, np.ndarray]) -> None:
        """Write some rows of arrays, by their paths: side by side, as each waits for the disk or for a bucket."""
        self.check_lease()
        arrays = {path: self.open(path) for path in values}

        def write(path: str) -> None:
            """Write the rows of one array."""
            arrays[path][rows] = values[path].astype(arrays[path].dtype, copy=False)

        with ThreadPoolExecutor(len(values)) as threads:
            for _ in threads.map(write, values):
                pass

    def delete_chunk(self, path: str, at: tuple[int, ...]) -> None:
        """Delete a chunk of an array, by its position in the array's grid."""
        self.check_lease()
        files.delete(f"{self.path}/{path}/c/{'/'.join(map(str, at))}")

    def has_file(self, path: str) -> bool:
        """Return whether there is a file or an object at a path in the store."""
        return files.exists(f"{self.path}/{path}")

    @contextmanager
    def reading(self, path: str) -> Iterator[Any]:
        """Yield an array of which what is read is there, as a marker or a fingerprint says.

        Raises
        ------
        DamageError
            The array is not there, or what is read of it is missing, empty or not what was written.
        """
        array = self.open(path, complete=True)
        try:
            yield array
        except MissingChunkError as error:
            raise damage(self.path, f"{error} is missing or empty") from error
        except DAMAGE_ERRORS as error:
            raise damage(self.path, f"{path} cannot be read: {first_line(error).rstrip('.')}") from error

    def create(self, path: str, spec: Spec) -> zarr.Array[Any]:
        """Return an array of a specification: the one that is there, or a new one in place of one of another.

        The values of a coordinate are written in any case.
        """
        self.check_lease()
        array = find_node(self.root, path, zarr.Array)
        if array is None or array.metadata.to_dict() != expected_metadata(path, spec):
            if array is None and files.read(document := f"{self.path}/{path}/{DOCUMENT}") is not None:
                files.delete(document)  # it is torn; chunks that are there stay
            array = create_array(self.root, path, spec, overwrite=array is not None)
        self._opened.pop((path, True), None)
        self._opened[path, False] = _with_empty_chunks(array)
        if spec.values is not None:
            self._opened[path, False][:] = coordinate_values(spec)
        return self._opened[path, False]

    def create_group(self, path: str) -> zarr.Group:
        """Return a group: the one that is there, or a new one in place of one whose metadata is torn."""
        self.check_lease()
        group = self.find_group(path)
        if group is None:
            files.delete(f"{self.path}/{path}/{DOCUMENT}")
            group = self.root.create_group(path)
        return group


@dataclass(frozen=True)
class _CheckedZarrs:
    """Reads whole chunks through zarrs, in threads of its own, and only where zarr itself would read the same.

    zarrs does not check the checksum of a chunk of which only a part is read, takes a missing chunk for fill values,
    and has errors of its own. So zarr reads parts of chunks; and zarr reads again, and raises the error, where a
    chunk's file is missing or empty, where it is another one after reading than before, and where zarrs fails. Nothing
    is written through zarrs: with several threads it writes other bytes each time.

    Attributes
    ----------
    zarrs, zarr
        Codec pipelines of one array.
    folder : Path
        Of the store.
    """

    zarrs: Any
    zarr: Any
    folder: Path

    async def read(self, batch_info: Iterable[Any], out: Any, drop_axes: tuple[int, ...] = ()) -> None:
        """Read chunks, or parts of them, as zarr's codec pipelines do."""
        whole: list[Any] = []
        parts: list[Any] = []
        for chunk in batch_info:
            _, spec, selection, *_ = chunk
            (parts if drop_axes or not _is_whole(selection, spec.shape) else whole).append(chunk)
        if whole and not await self._read_whole(whole, out):
            parts += whole
        if parts:
            await self.zarr.read(parts, out, drop_axes)

    async def _read_whole(self, batch: list[Any], out: Any) -> bool:
        """Read whole chunks; return whether what was read is what the files hold."""
        files = [self.folder / getter.path for getter, *_ in batch]
        before = await asyncio.to_thread(_identify, files)
        if before is None:
            return False
        try:
            await self.zarrs.read(batch, out)
        except Exception:  # noqa: BLE001 - whatever it is, zarr reads again: it succeeds, or raises what it raises
            return False
        return await asyncio.to_thread(_identify, files) == before

    async def write(self, batch_info: Iterable[Any], value: Any, drop_axes: tuple[int, ...] = ()) -> None:
        """Write chunks with zarr."""
        await self.zarr.write(batch_info, value, drop_axes)


def _is_whole(selection: Any, shape: tuple[int, ...]) -> bool:
    """Return whether a selection is all of a chunk of a shape; not where the chunk reaches beyond the array's end.

    >>> _is_whole((slice(0, 4), slice(None)), (4, 2)), _is_whole((slice(0, 3), slice(None)), (4, 2))
    (True, False)
    """
    return isinstance(selection, tuple) and all(
        isinstance(one, slice) and one.indices(size) == (0, size, 1) for one, size in zip(selection, shape, strict=True)
    )


def _identify(files: Iterable[Path]) -> list[tuple[int, int, int]] | None:
    """Return what tells files from others that take their places; None where one is missing or empty."""
    try:
        found = [os.stat(file) for file in files]
    except OSError:
        return None
    return [(one.st_ino, one.st_size, one.st_mtime_ns) for one in found] if all(one.st_size for one in found) else None


def damage(path: str, what: str) -> DamageError:
    """Return the error that a store is damaged."""
    return DamageError(f"store {path} is damaged: {what}. `topnine run` makes it again, `topnine verify` tells all.")


def find_node(group: zarr.Group, path: str, kind: type[Node]) -> Node | None:
    """Return an array or a group below a group, None where there is none that can be read."""
    try:
        node = group[path]
    except DAMAGE_ERRORS:
        return None
    return node if isinstance(node, kind) else None


def create_array(group: zarr.Group, path: str, spec: Spec, overwrite: bool = False) -> zarr.Array[Any]:
    """Create an empty array of a group; one that is there is deleted with ``overwrite``, else it is an error."""
    return group.create_array(
        path,
        shape=spec.shape,
        dtype=spec.dtype,
        chunks=spec.chunks or spec.unit,
        shards=spec.unit if spec.chunks else None,
        compressors=CODECS,
        fill_value=spec.fill,
        dimension_names=spec.names,
        attributes=dict(spec.attributes),
        overwrite=overwrite,
    )


def expected_metadata(path: str, spec: Spec) -> dict[str, Any]:
    """Return the metadata that an array of a specification has."""
    return create_array(zarr.create_group(zarr.storage.MemoryStore()), path, spec).metadata.to_dict()


def coordinate_values(spec: Spec) -> np.ndarray:
    """Return the values of a coordinate."""
    return np.array(spec.values, np.dtypes.StringDType() if spec.dtype is str else spec.dtype)


def write_fingerprint(group: zarr.Group, stage: str, fingerprint: Any) -> None:
    """Record in a group's attributes that a stage is done, or with None that it is not done any more."""
    recorded = read_fingerprints(group.attrs.asdict(), str(group.store_path))
    fingerprints = sorted({**recorded, stage: fingerprint}.items())
    kept = {stage: value for stage, value in fingerprints if value is not None}
    group.update_attributes(store_attributes({"fingerprints": kept}))


def _with_empty_chunks(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """Return an array that writes chunks of fill values, too: a chunk that is missing is then known to be damage.

    Zarr does not store this setting with the array, so it is set whenever an array is opened.
    """
    return array.with_config({"write_empty_chunks": True})
