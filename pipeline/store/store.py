"""The store of a run: opened, created, indexed and discarded.

Fingerprints (of a stage) and markers (of a block) are written last, after the data that they certify. Metadata is never
consolidated: consolidated metadata would hide arrays that are added later.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from ..durable import PARTIAL
from ..errors import InputError, first_line
from ..files import delete_tree, exists, is_url, list_names
from . import schema
from .arrays import DAMAGE_ERRORS, Arrays, write_fingerprint
from .attributes import read_fingerprints, read_root, store_attributes
from .holder import GONE_S
from .images import StoredImages
from .layers import StoredLayer
from .lease import Claim, Lease
from .names import unquote
from .progress import StoredProgress
from .schema import SCHEMA_ATTRIBUTE, SCHEMA_VERSION, Spec
from .storage import DOCUMENT, open_storage

Fingerprint = Mapping[str, Any]


@dataclass(frozen=True)
class Access:
    """How a task opens the store of its run for writing: the path, and the run's claim to write there."""

    path: str
    claim: Claim | None = None

    def open(self) -> Store:
        """Open the store; see ``Store.open``."""
        return Store.open(self.path, write=True, lease=self.claim)


class Store:
    """A run's store, open for reading or writing.

    What never changes is read once: arrays' metadata, and a layer's attributes. What other processes write is read anew
    by every call: fingerprints, markers, the lease, and which layers there are.

    Attributes
    ----------
    path : str
        A folder or a URL.
    access : Access
        For tasks that write.
    arrays : Arrays
        For the modules of this package.
    images : StoredImages
    progress : StoredProgress
    """

    def __init__(self, root: zarr.Group, path: str, lease: Lease | Claim | None = None) -> None:
        self.path = path
        self.access = Access(path, lease.claim if lease else None)
        self.arrays = Arrays(root, path, lease.check if lease else lambda: None)
        self.images = StoredImages(self.arrays)
        self.progress = StoredProgress(self.arrays, lambda name: self.layer(name).is_added)
        self._layers: dict[str, StoredLayer] = {}
        self._stored: dict[str, Any] = {}  # the root's attributes as zarr reads them
        self._attributes: dict[str, Any] = {}
        self.arrays.expect = self._expect

    @classmethod
    def exists(cls, path: str) -> bool:
        """Return whether there is a store at a path."""
        return exists(f"{path.rstrip('/')}/zarr.json")

    @classmethod
    def open(cls, path: str, write: bool = False, lease: Lease | Claim | None = None) -> Store:
        """Open an existing store.

        Parameters
        ----------
        lease : Lease or Claim, optional
            Looked at before anything is written: BusyError where the run may not write any more.

        Raises
        ------
        InputError
            There is no store at the path, or one of another schema, or it cannot be read.
        """
        if not cls.exists(path):
            raise InputError(f"there is no store at {path}: `topnine run` makes one.")
        try:
            root = zarr.open_group(open_storage(path, write), mode="r+" if write else "r", zarr_format=3)
        except DAMAGE_ERRORS as error:
            raise InputError(
                f"store {path} is damaged: its {DOCUMENT}, which says what it holds, cannot be read "
                f"({first_line(error)}). Put back a copy of this file, or give another STORE."
            ) from error
        _check_schema(root.attrs.asdict(), path)
        return cls(root, path, lease)

    @classmethod
    def create(cls, path: str, lease: Lease | Claim | None = None) -> Store:
        """Open a store for writing, and create it first if there is none; see ``open``."""
        if not cls.exists(path):
            attributes = {SCHEMA_ATTRIBUTE: SCHEMA_VERSION}
            zarr.create_group(open_storage(path, True), zarr_format=3, attributes=attributes)
        return cls.open(path, write=True, lease=lease)

    def discard_unfinished(self, recent: bool) -> None:
        """Delete the partly written files that a killed run left, which nothing reads. On S3 there are none.

        Parameters
        ----------
        recent : bool
            Also those of the last minute. A run that was only silent, and taken for ended, may be writing them.
        """
        if is_url(self.path):
            return
        for partial in Path(self.path).rglob(f"*{PARTIAL}"):
            with suppress(FileNotFoundError):
                if recent or abs(time.time() - partial.stat().st_mtime) > GONE_S:
                    partial.unlink()

    def discard(self) -> None:
        """Delete the store."""
        self.arrays.check_lease()
        delete_tree(self.path)

    @property
    def storage(self) -> Any:
        """The zarr store, for other readers such as xarray."""
        return self.arrays.root.store

    @property
    def attributes(self) -> dict[str, Any]:
        """The root's attributes, as they were last read: by opening the store or by reading a fingerprint of index."""
        stored = self.arrays.root.attrs.asdict()
        if stored != self._stored:
            self._stored, self._attributes = dict(stored), read_root(stored, f"store {self.path}")
        return self._attributes

    def fingerprint(self, stage: str, layer: str | None = None) -> dict[str, Any] | None:
        """Return what a stage recorded when it was done; None where it was not, or where there is no such layer."""
        if layer is not None:
            return self.layer(layer).fingerprint(stage)
        stored = self.arrays.reread_root().attrs.asdict()
        recorded: dict[str, Any] | None = read_fingerprints(stored, f"store {self.path}").get(stage)
        return recorded

    def set_fingerprint(self, stage: str, fingerprint: Fingerprint | None, layer: str | None = None) -> None:
        """Record that a stage is done, or with None that it is not done any more."""
        if layer is not None:
            self.layer(layer).set_fingerprint(stage, fingerprint)
        else:
            self.arrays.check_lease()
            write_fingerprint(self.arrays.reread_root(), stage, fingerprint)

    def write_index(
        self,
        columns: Mapping[str, np.ndarray],
        damage: np.ndarray,
        block: int,
        attributes: Mapping[str, Any],
        fingerprint: Fingerprint,
        labels: Fingerprint,
    ) -> None:
        """Write ``images/*``: the index's columns, and those of mine, where every image is pending.

        Parameters
        ----------
        columns : mapping of name to ndarray (image)
            Those of ``schema.index_arrays``: key, shard, offset, byte_count, label.
        damage : ndarray (image) of str
            What is wrong with an image that index found to be damaged, else an empty text.
        block : int
            Images in a block.
        attributes : mapping
            For the root: dataset, network, preprocessing, versions.
        fingerprint : mapping
            Of index; it is written last.
        labels : mapping
            The fingerprint of the labels.
        """
        self.images.create(columns, damage, block)
        counts = {"images": len(damage), "block": block}
        self.arrays.root.update_attributes(store_attributes({**attributes, **counts}))
        self.set_fingerprint("labels", labels)
        self.set_fingerprint("index", fingerprint)

    def write_labels(self, labels: np.ndarray, attributes: Mapping[str, Any], fingerprint: Fingerprint) -> None:
        """Write other labels (image) of the images that are indexed, and with them the names of the classes.

        Statistics of classes are no longer done then, in any layer.

        Parameters
        ----------
        attributes : mapping
            As for ``write_index``.
        fingerprint : mapping
            Of the labels; it is written last.
        """
        self.set_fingerprint("labels", None)
        for name in self.layers:
            self.set_fingerprint("statistics", None, name)
        self.images.write_labels(labels)
        self.arrays.root.update_attributes(store_attributes(attributes))
        self.set_fingerprint("labels", fingerprint)

    @property
    def layers(self) -> list[str]:
        """Names of the layers whose arrays are there, by depth. Reads the attributes of every layer.

        Raises
        ------
        DamageError, InputError
            Those of a layer cannot be read.
        """
        names = [unquote(step) for step in list_names(f"{self.arrays.path}/layers") if step != DOCUMENT]
        added = {name: attributes for name in names if (attributes := self.layer(name).reread(strict=True))}
        return sorted(added, key=lambda name: (added[name]["depth"], name))

    def layer(self, name: str) -> StoredLayer:
        """Return a layer by its name. Nothing is read yet."""
        return self._layers.setdefault(name, StoredLayer(self.arrays, self.images, name))

    def _expect(self, path: str) -> Spec | None:
        """Return what an array has to be by the attributes of the root and of its layer."""
        group, step, *names = path.split("/")
        root = self.attributes
        if "images" not in root:
            return None
        if group == "images":
            specs = {**schema.index_arrays(root["images"]), **schema.image_arrays(root["images"], root["block"])}
            return specs.get(step)
        if group != "layers":
            return None
        stages = schema.all_arrays(root, self.layer(unquote(step)).attributes).values()
        return {name: spec for arrays in stages for name, spec in arrays.items()}.get("/".join(names))

    def add_layer(self, name: str, attributes: Mapping[str, Any], fingerprint: Fingerprint) -> None:
        """Create a layer's empty arrays. The fingerprint of mine comes last: a layer without one is created anew.

        Parameters
        ----------
        name : str
        attributes : mapping
            Must hold ``filters``, ``map`` (``height`` and ``width``) and ``depth``, by which layers are ordered.
        fingerprint : mapping
            Of mine.
        """
        self.layer(name).create(attributes, fingerprint)


def _check_schema(attributes: Mapping[str, Any], path: str) -> None:
    """Raise InputError where the root's attributes are not those of a store of this version's schema."""
    version = attributes.get(SCHEMA_ATTRIBUTE, attributes.get("schema"))  # its name before schema 3
    if type(version) is not int:
        raise InputError(f"{path} is a Zarr group, but no store of topnine's. Give another STORE.")
    if version != SCHEMA_VERSION:
        other = "an older" if version < SCHEMA_VERSION else "a newer"
        raise InputError(
            f"store {path} has schema {version}, which {other} topnine wrote; this one reads schema {SCHEMA_VERSION}. "
            "Mine into another STORE, or read this one with the topnine that wrote it."
        )


def check_writable(path: str) -> None:
    """Check, without writing, that a store can be created or written at a path; InputError says what prevents it."""
    if is_url(path):
        _check_bucket(path)
    else:
        _check_folder(path)


def _check_bucket(url: str) -> None:
    bucket = "/".join(url.split("/")[:3])
    if not exists(bucket):
        raise InputError(f"the store {url} cannot be written: there is no {bucket}. Make it, or give another STORE.")


def _check_folder(path: str) -> None:
    folder = Path(path)
    parent = next(ancestor for ancestor in (folder, *folder.absolute().parents) if ancestor.exists())
    if folder.exists() and not folder.is_dir():
        problem = "a file is there"
    elif folder.is_dir() and not Store.exists(path) and not all(map(_is_left_by_a_kill, _files_in(folder))):
        problem = "the folder is not empty and no store"
    elif not parent.is_dir():
        problem = f"{parent} is a file"
    elif not os.access(parent, os.W_OK):
        problem = f"{parent} is read-only"
    else:
        return
    raise InputError(f"the store {path} cannot be written: {problem}. Give another STORE.")


def _files_in(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if not path.is_dir())


def _is_left_by_a_kill(file: Path) -> bool:
    """Return whether a file is all that a run may have written before there was a store: its lease, half a file."""
    return file.suffix == PARTIAL or (file.name == DOCUMENT and file.parent.name.startswith("lease-"))
