"""``layers/<name>/*`` of a store: what the stages record of a layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import numpy as np
import zarr

from ..errors import InputError
from ..ranking.topk import Ranking, Top
from ..ranking.totals import Totals
from . import schema
from .arrays import Arrays, damage, write_fingerprint
from .attributes import read_layer, read_root, store_attributes
from .images import StoredImages
from .names import layer_path, marker_path
from .storage import DOCUMENT

READ_VALUES = 2**21  # activations or positions that are read at once: larger reads cost less, and wait in memory


class StoredLayer:
    """A layer of a store.

    Its attributes are read once: they do not change after the layer was added. Fingerprints do, so they are read anew
    by every call.
    """

    def __init__(self, arrays: Arrays, images: StoredImages, name: str) -> None:
        self.name = name
        self._arrays = arrays
        self._images = images
        self._attributes: dict[str, Any] = {}

    # -- attributes and fingerprints ---------------------------------------------------------------------------------

    @property
    def attributes(self) -> dict[str, Any]:
        """The layer's attributes, as they were last read; DamageError where the store has no such layer."""
        if not self._attributes:
            self._keep(self._group())
        return self._attributes

    @property
    def filters(self) -> int:
        """How many filters the layer has."""
        return int(self.attributes["filters"])

    @property
    def is_added(self) -> bool:
        """Whether all arrays for mining are there. Once they are, nothing is read to answer this."""
        return has_arrays(self._attributes) or bool(self.reread())

    def fingerprint(self, stage: str) -> dict[str, Any] | None:
        """Return what a stage recorded when it was done; None where it was not, or where there is no such layer."""
        recorded: dict[str, Any] | None = self.reread().get("fingerprints", {}).get(stage)
        return recorded

    def set_fingerprint(self, stage: str, fingerprint: Mapping[str, Any] | None) -> None:
        """Record that a stage is done, or with None that it is not done any more."""
        self._arrays.check_lease()
        group = self._group()
        write_fingerprint(group, stage, fingerprint)
        self._keep(group)

    # -- mine --------------------------------------------------------------------------------------------------------

    def create(self, attributes: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
        """Create arrays and markers for mining where they are not there; the fingerprint comes last.

        Markers of another fingerprint are deleted. Those of the same one are kept with their blocks: then only the
        layer's attributes were lost.
        """
        for path in ("layers", "progress", "progress/done", "progress/failed"):
            self._arrays.create_group(path)
        size = attributes["map"]["height"], attributes["map"]["width"]
        mined = schema.mined_arrays(len(self._images), self._images.block, attributes["filters"], *size)
        for array, spec in {**schema.layer_arrays(attributes["filters"]), **mined}.items():
            self._arrays.create(f"{self._path}/{array}", spec)
        for kind, spec in schema.marker_arrays(self._images.blocks, fingerprint).items():
            self._arrays.create(marker_path(kind, self.name), spec)
        group = self._arrays.create_group(self._path)
        group.attrs.put(store_attributes({**attributes, "fingerprints": {"mine": dict(fingerprint)}}))
        self._keep(group)

    def write_block(self, block: int, activation: np.ndarray, row: np.ndarray, column: np.ndarray) -> None:
        """Write the activations and positions (image, filter) of a block."""
        values = {"activation": activation, "row": row, "column": column}
        self._arrays.write(self._images.rows(block), {f"{self._path}/{name}": found for name, found in values.items()})

    def runs(self, blocks: Sequence[int] | np.ndarray) -> list[slice]:
        """Return the rows of blocks, given in ascending order: of consecutive ones together, as many as READ_VALUES."""
        block = self._images.block
        most = max(1, READ_VALUES // (block * self.filters))
        consecutive = np.split(np.asarray(blocks), np.flatnonzero(np.diff(blocks) > 1) + 1)
        parts = [run[first : first + most] for run in consecutive for first in range(0, len(run), most)]
        return [slice(int(part[0]) * block, min((int(part[-1]) + 1) * block, len(self._images))) for part in parts]

    def read_activation(self, rows: slice) -> np.ndarray:
        """Read the activations (image, filter) of some images."""
        with self._reading("activation") as array:
            return np.asarray(array[rows])

    def read_mined(self, rows: slice, filters: slice = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read activations, rows and columns (image, filter) of some images and filters."""
        found = []
        for name in ("activation", "row", "column"):
            with self._reading(name) as array:
                found.append(np.asarray(array[rows, filters]))
        activation, row, column = found
        return activation, row, column

    def read_filter(self, number: int, rows: slice = slice(None)) -> np.ndarray:
        """Read the activations (image) of one filter, on some images."""
        with self._reading("activation") as array:
            return np.asarray(array[rows, number])

    # -- rank --------------------------------------------------------------------------------------------------------

    def locate(self, top: Top, first_filter: int = 0) -> Ranking:
        """Read where in the map ranked activations are.

        Parameters
        ----------
        top : Top
            Ranks of consecutive filters.
        first_filter : int
            The first of these filters.
        """
        is_filled = top.image >= 0
        images, filters = top.image[is_filled], np.nonzero(is_filled)[0] + first_filter
        runs = self.runs(np.unique(images // self._images.block))

        def read_positions(name: str) -> np.ndarray:
            """Read the rows or columns (filter, rank) of the activations; -1 where a rank is empty."""
            positions = np.full(top.image.shape, -1, np.int32)
            positions[is_filled] = self._read_at(name, images, filters, runs)
            return positions

        with ThreadPoolExecutor(2) as threads:  # while one reads, the other looks up
            return Ranking(top.activation, top.image, *threads.map(read_positions, ("row", "column")))

    def _read_at(self, name: str, images: np.ndarray, filters: np.ndarray, runs: list[slice]) -> np.ndarray:
        """Read the values (hit) of an array at images and filters (hit), by the runs of rows that the images are in."""
        found = np.empty(len(images), np.int32)
        with self._reading(name) as array:
            for rows in runs:
                hits = np.flatnonzero((images >= rows.start) & (images < rows.stop))
                found[hits] = np.asarray(array[rows])[images[hits] - rows.start, filters[hits]]
        return found

    def write_ranking(self, ranking: Ranking, totals: Totals, fingerprint: Mapping[str, Any]) -> None:
        """Write the ranks ``top_*``, and of every filter the strongest and mean activation and the active fraction."""
        self.set_fingerprint("rank", None)
        decodable = max(totals.count, 1)
        values = {
            "top_image": ranking.image,
            "top_activation": ranking.activation,
            "top_row": ranking.row,
            "top_column": ranking.column,
            "max_activation": totals.maximum,
            "mean_activation": totals.total / decodable,
            "active_fraction": totals.active / decodable,
        }
        self._write_arrays(schema.ranked_arrays(len(ranking.image)), values)
        self.set_fingerprint("rank", fingerprint)

    def read_ranking(self, filters: slice = slice(None)) -> Ranking:
        """Read the ranks of some filters."""
        return Ranking(*(self.read(f"top_{name}", filters) for name in ("activation", "image", "row", "column")))

    # -- statistics and deconvolve -----------------------------------------------------------------------------------

    def write_statistics(self, arrays: Mapping[str, np.ndarray], fingerprint: Mapping[str, Any]) -> None:
        """Write the arrays of ``schema.statistics_arrays``, by name, and the number of classes as an attribute."""
        self.set_fingerprint("statistics", None)
        classes = arrays["class_mean"].shape[1] if "class_mean" in arrays else 0
        names = schema.class_names(self._root_attributes()["dataset"]["classes"], classes)
        self._write_arrays(schema.statistics_arrays(self.filters, names), arrays)
        self._group().attrs["classes"] = classes
        self.set_fingerprint("statistics", fingerprint)

    def create_patches(self, height: int, width: int, channels: int) -> None:
        """Create the empty arrays of ``schema.patch_arrays``, for windows of a height and width in pixels."""
        self.set_fingerprint("deconvolve", None)
        for name, spec in schema.patch_arrays(self.filters, height, width, channels).items():
            self._arrays.create(f"{self._path}/{name}", spec)

    def write_patches(self, filters: slice, arrays: Mapping[str, np.ndarray]) -> None:
        """Write the arrays of ``schema.patch_arrays``, by name, of some filters."""
        self._arrays.check_lease()
        for name, of_filters in arrays.items():
            self._open(name)[filters] = of_filters

    def count_ties(self) -> int | None:
        """Count the projections that hang on a near-tie; None where the layer is not deconvolved."""
        fingerprint = self.fingerprint("deconvolve")
        recorded = fingerprint is not None and "deconvolve.precision" in fingerprint  # older stores do not count them
        return int(self.read("tie").sum()) if recorded else None

    def read(self, array_name: str, filters: slice | np.ndarray = slice(None)) -> np.ndarray:
        """Read an array whose first dimension is the filter, of some filters."""
        with self._reading(array_name) as array:
            return np.asarray(array.oindex[filters])

    @property
    def _path(self) -> str:
        return layer_path(self.name)

    def _open(self, name: str) -> Any:
        return self._arrays.open(f"{self._path}/{name}")

    def _reading(self, name: str) -> AbstractContextManager[Any]:
        return self._arrays.reading(f"{self._path}/{name}")

    def _write_arrays(self, specs: Mapping[str, schema.Spec], values: Mapping[str, np.ndarray]) -> None:
        for name, spec in specs.items():
            array = self._arrays.create(f"{self._path}/{name}", spec)
            if spec.values is None:
                array[:] = values[name].astype(spec.dtype)

    def _group(self) -> zarr.Group:
        group = self._arrays.find_group(self._path)
        if group is None:
            raise damage(self._arrays.path, f"it has no layer {self.name}")
        return group

    def reread(self, strict: bool = False) -> dict[str, Any]:
        """Return the attributes that the layer has now: none where it is not added.

        Where they cannot be read, return none, for a run to make them again, or be ``strict`` and raise an error.
        """
        group = self._arrays.find_group(self._path)
        self._attributes = {}
        if group is not None:
            with nullcontext() if strict else suppress(InputError):
                self._keep(group)
        elif strict and self._arrays.has_file(f"{self._path}/{DOCUMENT}"):
            raise damage(self._arrays.path, f"{self._path}/{DOCUMENT} cannot be read")
        return self._attributes if has_arrays(self._attributes) else {}

    def _keep(self, group: zarr.Group) -> None:
        """Keep the attributes that a group of the layer was read with."""
        self._attributes = read_layer(group.attrs.asdict(), f"layer {self.name} of store {self._arrays.path}")

    def _root_attributes(self) -> dict[str, Any]:
        return read_root(self._arrays.root.attrs.asdict(), f"store {self._arrays.path}")


def has_arrays(attributes: Mapping[str, Any]) -> bool:
    """Return whether a layer with these attributes was added to the end, so that all arrays for mining are there."""
    return "mine" in attributes.get("fingerprints", {})
