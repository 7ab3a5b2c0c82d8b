"""The Zarr store of a run: its schema, and every read and write of it. The only module that imports zarr.

See "The store" in the README. Every chunk carries a checksum; every array has dimension names; nothing is
consolidated. A stage writes its fingerprint, and mine its marker, after what it vouches for.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.core.sync import sync

from .errors import InputError
from .layers import Layer
from .ranking import RANKS, Figures, Top
from .shards.files import describe, is_url

SCHEMA = 1
PENDING, OK, UNDECODABLE = range(3)  # images/status
INDEX_ROWS = 65_536  # of a chunk
FILTERS = 64  # of a chunk inside a zarr shard
CODECS = (ZstdCodec(level=0), Crc32cCodec())

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class Ranking(Top):
    """The strongest activations of every filter, and where in the map they are.

    Attributes
    ----------
    row, column : ndarray (filter, rank) int32
        -1 where the rank is empty.
    """

    row: np.ndarray
    column: np.ndarray


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
        for name, values in columns.items():
            self._create(f"images/{name}", images, values.dtype, min(INDEX_ROWS, images), ["image"])[:] = values
        for name, dtype in (("status", "u1"), ("reason", str), ("height", "i4"), ("width", "i4")):
            self._create(f"images/{name}", images, dtype, block, ["image"])
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
        """Write what mine found out about a block's images: status, reason, height, width."""
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
        position = "u2" if max(height, width) <= 2**16 else "u4"
        chunk = min(FILTERS, filters)
        for name, dtype, fill in (("activation", "f4", np.nan), ("row", position, 0), ("column", position, 0)):
            self._create(
                f"{path}/{name}",
                (self.images, filters),
                dtype,
                (self.block, chunk),
                ["image", "filter"],
                fill=fill,
                shards=(self.block, -(-filters // chunk) * chunk),
            )
        self._root.require_group("progress")
        self._create(f"progress/{layer.name}", self.blocks, "u1", 1, ["block"])
        group.attrs.update(
            {
                "number": layer.number,
                "depth": layer.tap.operation,
                "module": layer.module,
                "map": {"height": height, "width": width},
                "receptive_field": layer.field.attributes(),
                "tap": layer.tap.follows,
                "precision": precision,
                "versions": dict(versions),
            }
        )
        self.set_fingerprint("mine", fingerprint, layer.name)

    def write_block(self, layer: str, block: int, activation: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
        """Write a block's activations and positions (image, filter)."""
        for name, values in (("activation", activation), ("row", row), ("column", column)):
            array = self._array(f"layers/{layer}/{name}")
            array[self.rows(block)] = values.astype(array.dtype)

    def mark(self, layer: str, block: int) -> None:
        """Mark a block as done: the last write of it."""
        self._array(f"progress/{layer}")[block] = 1

    def done_blocks(self, layer: str) -> set[int]:
        """Give the blocks marked as done, by listing the markers: their chunks, which are not read."""
        if layer not in self.layers:
            return set()
        array = self._array(f"progress/{layer}")

        async def names(listing: AsyncIterator[str]) -> list[str]:
            return [name async for name in listing]

        listed = sync(names(array.store.list_dir(f"{array.path}/c")))
        return {int(name) for name in listed if name.isdigit()}

    def read_activation(self, layer: str, rows: slice) -> np.ndarray:
        """Read activations (image, filter) of some images."""
        return np.asarray(self._array(f"layers/{layer}/activation")[rows])

    def read_filter(self, layer: str, number: int) -> np.ndarray:
        """Read one filter's activations over all images: (image, filter) with one column."""
        return np.asarray(self._array(f"layers/{layer}/activation")[:, number : number + 1])

    def locate(self, layer: str, top: Top, first_filter: int = 0) -> Ranking:
        """Look up where in the map ranked activations are; ``first_filter`` is that of the ranks' first row."""
        row, column = (np.full(top.image.shape, -1, np.int32) for _ in range(2))
        blocks = np.where(top.image >= 0, top.image // self.block, -1)
        for block in np.unique(blocks[blocks >= 0]):
            here = np.nonzero(blocks == block)
            where = top.image[here] - block * self.block, here[0] + first_filter
            for name, found in (("row", row), ("column", column)):
                found[here] = np.asarray(self._array(f"layers/{layer}/{name}")[self.rows(int(block))])[where]
        return Ranking(top.activation, top.image, row, column)

    def write_ranking(self, layer: str, ranking: Ranking, figures: Figures, fingerprint: Fingerprint) -> None:
        """Write a layer's ``top_*`` and per-filter figures."""
        self.set_fingerprint("rank", None, layer)
        decodable = max(figures.count, 1)
        for name, values, fill in (
            ("top_image", ranking.image, -1),
            ("top_activation", ranking.activation, np.nan),
            ("top_row", ranking.row, -1),
            ("top_column", ranking.column, -1),
            ("maximum", figures.maximum, np.nan),
            ("mean", (figures.total / decodable).astype(np.float32), np.nan),
            ("active_fraction", (figures.active / decodable).astype(np.float32), np.nan),
        ):
            names = ["filter", "rank"][: values.ndim]
            self._create(f"layers/{layer}/{name}", values.shape, values.dtype, values.shape, names, fill=fill)[:] = (
                values
            )
        self.set_fingerprint("rank", fingerprint, layer)

    def read_ranking(self, layer: str, filters: slice = slice(None)) -> Ranking:
        """Read the ranks of some filters."""
        names = ("activation", "image", "row", "column")
        return Ranking(*(np.asarray(self._array(f"layers/{layer}/top_{name}")[filters]) for name in names))

    def create_patches(self, layer: str, height: int, width: int) -> None:
        """Make a layer's empty patch, projection and box arrays, for windows of a size in pixels."""
        self.set_fingerprint("deconvolve", None, layer)
        filters = self._array(f"layers/{layer}/activation").shape[1]
        pixels, names = (height, width, 3), ["filter", "rank", "y", "x", "rgb"]
        for name, dtype in (("patch", "u1"), ("projection", "f4")):
            path = f"layers/{layer}/{name}"
            self._create(path, (filters, RANKS, *pixels), dtype, (1, RANKS, *pixels), names)
        self._create(f"layers/{layer}/box", (filters, RANKS, 4), "i4", (1, RANKS, 4), ["filter", "rank", "corner"], -1)

    def write_patches(
        self, layer: str, filters: slice, patch: np.ndarray, projection: np.ndarray, box: np.ndarray
    ) -> None:
        """Write patches and projections (filter, rank, y, x, rgb) and boxes (filter, rank, corner) of some filters."""
        for name, values in (("patch", patch), ("projection", projection), ("box", box)):
            self._array(f"layers/{layer}/{name}")[filters] = values

    def read_layer(self, layer: str, name: str, filters: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Read an array of a layer whose first axis is the filter."""
        return np.asarray(self._array(f"layers/{layer}/{name}").oindex[filters])

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

    def _create(
        self, path: str, shape: Any, dtype: Any, chunks: Any, names: Sequence[str], fill: Any = None, shards: Any = None
    ) -> zarr.Array:
        as_tuple = tuple(np.atleast_1d(shape).tolist())
        self._arrays.pop(path, None)
        self._root.create_array(
            path,
            shape=as_tuple,
            dtype=dtype,
            chunks=tuple(np.atleast_1d(chunks).tolist()),
            shards=shards,
            compressors=CODECS,
            fill_value=("" if dtype is str else 0) if fill is None else fill,
            dimension_names=names,
            overwrite=True,
        )
        return self._array(path)


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
