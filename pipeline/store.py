"""The Zarr store of a run: its schema, and every read and write of it. The only module that imports zarr.

See "The store" in the README. Every chunk carries a checksum; every array has dimension names; nothing is
consolidated. A stage writes its fingerprint, and mine its marker, after what it vouches for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from . import schema
from .errors import InputError
from .ranking import Figures, Ranking, Top
from .schema import Spec
from .shards.files import describe, is_url

if TYPE_CHECKING:  # a store can be read without torch
    from .layers import Layer

SCHEMA = 2
PENDING, OK, UNDECODABLE = range(3)  # images/status
CODECS = (ZstdCodec(level=0), Crc32cCodec())

# What zarr and its codecs raise for bytes that are not what was written.
_DAMAGE = (ValueError, TypeError, RuntimeError, LookupError, OSError, AssertionError)

Fingerprint = Mapping[str, Any]


class Store:
    """A run's store, open for reading or writing."""

    def __init__(self, root: zarr.Group, path: str) -> None:
        self.path = path
        self._root = root
        self._arrays: dict[str, zarr.Array] = {}

    # -- opening ------------------------------------------------------------------------------------------------

    @classmethod
    def exists(cls, path: str) -> bool:
        """Tell whether there is a store at a path."""
        return describe(f"{path.rstrip('/')}/zarr.json") is not None

    @classmethod
    def open(cls, path: str, write: bool = False) -> Store:
        """Open an existing store; InputError if there is none at the path or it is of another schema."""
        if not cls.exists(path):
            raise InputError(f"there is no store at {path}: `topnine run` makes one.")
        try:
            root = zarr.open_group(path, mode="r+" if write else "r", zarr_format=3, storage_options=_options(path))
        except ValueError as error:
            raise InputError(f"store {path} is damaged: {error}. Give another STORE.") from error
        if root.attrs.get("schema") != SCHEMA:
            found = root.attrs.get("schema")
            raise InputError(f"store {path} has schema {found!r}, this version reads {SCHEMA}: give another STORE.")
        return cls(root, path)

    @classmethod
    def create(cls, path: str) -> Store:
        """Open a store, making it if there is none yet."""
        if not cls.exists(path):
            zarr.create_group(path, zarr_format=3, attributes={"schema": SCHEMA}, storage_options=_options(path))
        return cls.open(path, write=True)

    def discard_unfinished(self) -> None:
        """Delete what a run that was killed had half written: files that nothing reads. On S3 there are none."""
        if not is_url(self.path):
            for part in Path(self.path).rglob("*.partial"):
                part.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the store."""
        if is_url(self.path):
            sync(self._root.store.clear())
        else:
            shutil.rmtree(self.path)

    @property
    def storage(self) -> Any:
        """What zarr reads from: for other readers of the store, as xarray."""
        return self._root.store

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes."""
        return self._root.attrs.asdict()

    def layer_attributes(self, layer: str) -> dict[str, Any]:
        """A layer's attributes."""
        return self._group(layer).attrs.asdict()

    # -- fingerprints -------------------------------------------------------------------------------------------

    def fingerprint(self, stage: str, layer: str | None = None) -> dict[str, Any] | None:
        """Give what a stage recorded when it was done, or None if it was not."""
        if layer is not None and layer not in self.layers:
            return None
        attributes: dict[str, Any] = self._group(layer).attrs.asdict()
        return attributes.get("fingerprints", {}).get(stage)

    def set_fingerprint(self, stage: str, fingerprint: Fingerprint | None, layer: str | None = None) -> None:
        """Record that a stage is done, or with None that it is about to be done again."""
        group = self._group(layer)
        attributes: dict[str, Any] = group.attrs.asdict()
        fingerprints = {**attributes.get("fingerprints", {}), stage: fingerprint}
        group.attrs["fingerprints"] = {stage: value for stage, value in fingerprints.items() if value is not None}

    # -- lease --------------------------------------------------------------------------------------------------

    def lease(self) -> dict[str, Any] | None:
        """Give what the run that writes to the store noted about itself, if one did."""
        try:
            progress = zarr.open_group(self.path, path="progress", mode="r", storage_options=_options(self.path))
        except FileNotFoundError:
            return None
        return progress.attrs.asdict().get("lease")  # type: ignore[return-value]

    def set_lease(self, noted: Mapping[str, Any] | None) -> None:
        """Note who writes to the store; None = nobody."""
        self._root.require_group("progress").update_attributes({"lease": noted})

    # -- images -------------------------------------------------------------------------------------------------

    def write_index(
        self,
        columns: Mapping[str, np.ndarray],
        reason: np.ndarray,
        block: int,
        attributes: Mapping[str, Any],
        fingerprint: Fingerprint,
    ) -> None:
        """Write ``images/*``: all rows from the index, and what mine fills in, pending.

        Parameters
        ----------
        columns : mapping of name to ndarray (image)
            key, shard, offset, size, label.
        reason : ndarray (image) of str
            What is wrong with an image that is known already to be damaged.
        block : int
            Images in a chunk of what mine writes.
        attributes : mapping
            For the root: dataset, network, preprocessing, versions.
        """
        self._root.create_group("images", overwrite=True)
        images = len(reason)
        for name, spec in schema.index_arrays(images).items():
            self._create(f"images/{name}", spec)[:] = columns[name]
        for name, spec in schema.image_arrays(images, block).items():
            self._create(f"images/{name}", spec)
        if (reason != "").any():
            self._array("images/reason")[:] = reason
        self._root.attrs.update(dict(attributes))
        self.set_fingerprint("index", fingerprint)

    @cached_property
    def images(self) -> int:
        """How many images the index has."""
        return self._array("images/key").shape[0]

    @cached_property
    def block(self) -> int:
        """How many images a block has."""
        return self._array("images/status").chunks[0]

    @property
    def blocks(self) -> int:
        """How many blocks the index has."""
        return -(-self.images // self.block)

    def rows(self, block: int) -> slice:
        """Give the image ids of a block."""
        return slice(block * self.block, min((block + 1) * self.block, self.images))

    def image_columns(self, names: Iterable[str], rows: slice | np.ndarray = slice(None)) -> list[np.ndarray]:
        """Read columns of ``images/*`` for some rows (image)."""
        return [np.asarray(self._array(f"images/{name}").oindex[rows]) for name in names]

    def write_images(self, block: int, columns: Mapping[str, np.ndarray]) -> None:
        """Write what mine found out about a block's images: status, reason, height, width, hash."""
        for name, values in columns.items():
            self._array(f"images/{name}")[self.rows(block)] = values

    # -- layers -------------------------------------------------------------------------------------------------

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose arrays are there, in order of depth."""
        layers = self._root.get("layers")
        if not isinstance(layers, zarr.Group):
            return []
        ready: dict[str, dict[str, Any]] = {name: group.attrs.asdict() for name, group in layers.groups()}
        ready = {name: attributes for name, attributes in ready.items() if "mine" in attributes.get("fingerprints", {})}
        return sorted(ready, key=lambda name: (ready[name]["depth"], name))

    def add_layer(self, layer: Layer, precision: str, versions: Mapping[str, str], fingerprint: Fingerprint) -> None:
        """Make a layer's empty arrays; its fingerprint for mine comes last, and a layer without one is made anew."""
        filters, height, width = layer.tap.shape
        path = f"layers/{layer.name}"
        group = self._root.require_group("layers").create_group(layer.name, overwrite=True)
        for name, spec in schema.mined_arrays(self.images, self.block, filters, height, width).items():
            self._create(f"{path}/{name}", spec)
        for kind, spec in schema.marker_arrays(self.blocks).items():
            self._create(f"progress/{kind}/{layer.name}", spec)
        group.attrs.update({**describe_layer(layer), "precision": precision, "versions": dict(versions)})
        self.set_fingerprint("mine", fingerprint, layer.name)

    def write_block(self, layer: str, block: int, activation: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
        """Write a block's activations and positions (image, filter)."""
        for name, values in (("activation", activation), ("row", row), ("column", column)):
            array = self._array(f"layers/{layer}/{name}")
            array[self.rows(block)] = values.astype(array.dtype)

    def mark(self, layer: str, block: int) -> None:
        """Mark a block as done: the last write of it."""
        self._array(f"progress/done/{layer}")[block] = 1

    def set_aside(self, layer: str, block: int, reason: str) -> None:
        """Record why a block failed, however often it was tried."""
        self._array(f"progress/failed/{layer}")[block] = reason

    def done_blocks(self, layer: str) -> set[int]:
        """Give the blocks marked as done."""
        return self._marked("done", layer)

    def is_done(self, layer: str, block: int) -> bool:
        """Tell whether a block is marked as done."""
        return bool(np.asarray(self._array(f"progress/done/{layer}")[block]))

    def failed_blocks(self, layer: str) -> dict[int, str]:
        """Give the blocks that were set aside and not done since, with the reasons."""
        failed = sorted(self._marked("failed", layer) - self.done_blocks(layer))
        return {block: str(np.asarray(self._array(f"progress/failed/{layer}")[block])) for block in failed}

    def _marked(self, kind: str, layer: str) -> set[int]:
        """List markers: the chunks, one a block, which are not read."""
        if layer not in self.layers:
            return set()
        array = self._array(f"progress/{kind}/{layer}")

        async def names(listing: AsyncIterator[str]) -> list[str]:
            return [name async for name in listing]

        listed = sync(names(array.store.list_dir(f"{array.path}/c")))
        return {int(name) for name in listed if name.isdigit()}

    def read_activation(self, layer: str, rows: slice) -> np.ndarray:
        """Read activations (image, filter) of some images."""
        return np.asarray(self._array(f"layers/{layer}/activation")[rows])

    def read_mined(
        self, layer: str, rows: slice, filters: slice = slice(None)
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read activations, rows and columns (image, filter) of some images and filters."""
        activation, row, column = (
            np.asarray(self._array(f"layers/{layer}/{name}")[rows, filters]) for name in ("activation", "row", "column")
        )
        return activation, row, column

    def read_filter(self, layer: str, number: int) -> np.ndarray:
        """Read one filter's activations over all images: (image, filter) with one column."""
        return np.asarray(self._array(f"layers/{layer}/activation")[:, number : number + 1])

    def locate(self, layer: str, top: Top, first_filter: int = 0) -> Ranking:
        """Look up where in the map ranked activations are; ``first_filter`` is that of the ranks' first row."""
        row, column = (np.full(top.image.shape, -1, np.int32) for _ in range(2))
        there = top.image >= 0
        where = top.image[there], np.nonzero(there)[0] + first_filter
        if len(where[0]):
            for name, found in (("row", row), ("column", column)):
                found[there] = self._array(f"layers/{layer}/{name}").vindex[where]
        return Ranking(top.activation, top.image, row, column)

    def write_ranking(self, layer: str, ranking: Ranking, figures: Figures, fingerprint: Fingerprint) -> None:
        """Write a layer's ``top_*`` and per-filter figures."""
        self.set_fingerprint("rank", None, layer)
        decodable = max(figures.count, 1)
        values = {
            "top_image": ranking.image,
            "top_activation": ranking.activation,
            "top_row": ranking.row,
            "top_column": ranking.column,
            "maximum": figures.maximum,
            "mean": figures.total / decodable,
            "active_fraction": figures.active / decodable,
        }
        for name, spec in schema.ranked_arrays(len(ranking.image)).items():
            self._create(f"layers/{layer}/{name}", spec)[:] = values[name].astype(spec.dtype)
        self.set_fingerprint("rank", fingerprint, layer)

    def read_ranking(self, layer: str, filters: slice = slice(None)) -> Ranking:
        """Read the ranks of some filters."""
        names = ("activation", "image", "row", "column")
        return Ranking(*(np.asarray(self._array(f"layers/{layer}/top_{name}")[filters]) for name in names))

    def write_statistics(self, layer: str, arrays: Mapping[str, np.ndarray], fingerprint: Fingerprint) -> None:
        """Write a layer's statistics: every array of ``schema.statistics_arrays``, by name; and how many classes."""
        self.set_fingerprint("statistics", None, layer)
        filters = len(arrays["histogram"])
        classes = arrays["class_mean"].shape[1] if "class_mean" in arrays else 0
        for name, spec in schema.statistics_arrays(filters, classes).items():
            self._create(f"layers/{layer}/{name}", spec)[:] = arrays[name].astype(spec.dtype)
        self._group(layer).attrs["classes"] = classes
        self.set_fingerprint("statistics", fingerprint, layer)

    def create_patches(self, layer: str, height: int, width: int) -> None:
        """Make a layer's empty patch, projection and box arrays, for windows of a size in pixels."""
        self.set_fingerprint("deconvolve", None, layer)
        filters = self._array(f"layers/{layer}/activation").shape[1]
        for name, spec in schema.patch_arrays(filters, height, width).items():
            self._create(f"layers/{layer}/{name}", spec)

    def write_patches(
        self, layer: str, filters: slice, patch: np.ndarray, projection: np.ndarray, box: np.ndarray
    ) -> None:
        """Write patches and projections (filter, rank, y, x, rgb) and boxes (filter, rank, corner) of some filters."""
        for name, values in (("patch", patch), ("projection", projection), ("box", box)):
            self._array(f"layers/{layer}/{name}")[filters] = values

    def read_layer(self, layer: str, name: str, filters: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Read an array of a layer whose first axis is the filter."""
        return np.asarray(self._array(f"layers/{layer}/{name}").oindex[filters])

    # -- verification -------------------------------------------------------------------------------------------

    @property
    def marked_layers(self) -> list[str]:
        """Names of the layers that have markers, whether their arrays can be read or not."""

        async def names(listing: AsyncIterator[str]) -> list[str]:
            return sorted([name async for name in listing])

        return [name for name in sync(names(self._root.store.list_dir("progress/done"))) if name != "zarr.json"]

    def find_damage(self, path: str, spec: Spec, required: Collection[tuple[int, ...]] | None = None) -> list[str]:
        """Read every unit of an array; give a sentence for each that is missing or damaged.

        Parameters
        ----------
        required : collection of tuple of int, optional
            The places, in the array's grid, of the units that have to be there. All, unless given.
        """
        try:
            array = self._root[path]
            wanted = _create_array(zarr.create_group(zarr.storage.MemoryStore()), path, spec)
            if not isinstance(array, zarr.Array) or array.metadata.to_dict() != wanted.metadata.to_dict():
                return [f"{path}/zarr.json is not what the schema wants"]
        except _DAMAGE as error:
            return [f"{path}/zarr.json is missing or damaged: {_first_line(error)}"]
        problems = []
        for at in np.ndindex(spec.grid):
            name = f"{path}/c/{'/'.join(map(str, at))}"
            try:
                if not sync(array.store.exists(name)):
                    problems += [f"{name} is missing"] if required is None or at in required else []
                    continue
                array[spec.region(at)]
            except _DAMAGE as error:
                problems.append(f"{name} is damaged: {_first_line(error)}")
        return problems

    # -- zarr ---------------------------------------------------------------------------------------------------

    def _group(self, layer: str | None) -> zarr.Group:
        if layer is None:
            mode: Literal["r", "r+"] = "r" if self._root.read_only else "r+"
            return zarr.open_group(
                self.path, mode=mode, storage_options=_options(self.path)
            )  # attributes as they are now
        return self._root[f"layers/{layer}"]  # type: ignore[return-value]

    def _array(self, path: str) -> zarr.Array:
        if path not in self._arrays:
            try:
                array = self._root[path]
            except (KeyError, ValueError):
                array = None
            if not isinstance(array, zarr.Array):
                raise InputError(f"store {self.path} is damaged: it has no array {path}. Give another STORE.")
            # Not stored in the array, so given at every open: else a chunk of zeros would leave no trace.
            self._arrays[path] = array.with_config({"write_empty_chunks": True})
        return self._arrays[path]

    def _create(self, path: str, spec: Spec) -> zarr.Array:
        self._arrays.pop(path, None)
        _create_array(self._root, path, spec)
        return self._array(path)


def describe_layer(layer: Layer) -> dict[str, Any]:
    """Give a layer as its attributes describe it."""
    filters, height, width = layer.tap.shape
    return {
        "number": layer.number,
        "depth": layer.tap.operation,
        "module": layer.module,
        "filters": filters,
        "map": {"height": height, "width": width},
        "receptive_field": layer.field.attributes(),
        "tap": layer.tap.follows,
    }


def _create_array(group: zarr.Group, path: str, spec: Spec) -> zarr.Array:
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
        overwrite=True,
    )


def _first_line(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _options(path: str) -> dict[str, Any] | None:
    """Give fsspec's options for a URL: what other processes write must be seen, so no listing is kept."""
    return {"use_listings_cache": False} if is_url(path) else None


def check_writable(path: str) -> None:
    """Check, without writing, that a store can be made or written at a path; InputError says what is in the way."""
    if is_url(path):
        bucket = "/".join(path.split("/")[:3])
        if describe(bucket) is None:
            raise InputError(
                f"the store {path} cannot be written: there is no {bucket}. Make it, or give another STORE."
            )
        return
    place = Path(path)
    if place.exists() and not place.is_dir():
        raise InputError(f"the store {path} cannot be written: a file is there. Give another STORE.")
    if place.is_dir() and any(place.iterdir()) and not Store.exists(path):
        raise InputError(
            f"the store {path} cannot be written: the folder is not empty and no store. Give another STORE."
        )
    parent = next(folder for folder in (place, *place.absolute().parents) if folder.exists())
    if not parent.is_dir():
        raise InputError(f"the store {path} cannot be written: {parent} is a file. Give another STORE.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"the store {path} cannot be written: {parent} is read-only. Give another STORE.")
