"""``images/*`` of a store: the index, and what mining adds to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np

from ..errors import DamageError
from . import schema
from .arrays import Arrays, damage


class StoredImages:
    """The images of a store, a row each, in blocks of consecutive rows."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def create(self, columns: Mapping[str, np.ndarray], damage: np.ndarray, block: int) -> None:
        """Write the columns of the index, and create empty ones for mine; see ``Store.write_index``."""
        for group in ("images", "progress"):
            self._arrays.create_group(group)
        for name, spec in schema.index_arrays(len(damage)).items():
            array = self._arrays.create(f"images/{name}", spec)
            for first in range(0, len(damage), schema.INDEX_CHUNK_ROWS):  # all at once takes Python objects for all
                rows = slice(first, first + schema.INDEX_CHUNK_ROWS)
                self._arrays.delete_chunk(f"images/{name}", (first // schema.INDEX_CHUNK_ROWS,))  # it may be damaged
                array[rows] = columns[name][rows]
        for name, spec in schema.image_arrays(len(damage), block).items():
            self._arrays.create(f"images/{name}", spec)
        if (damage != "").any():
            status, reason = self.columns_so_far(("status", "reason"))
            self._arrays.open("images/reason")[:] = np.where(status == schema.PENDING, damage, reason)

    def write_labels(self, labels: np.ndarray) -> None:
        """Write the column of the labels (image) anew."""
        self._arrays.check_lease()
        array = self._arrays.open("images/label")
        for first in range(0, len(labels), schema.INDEX_CHUNK_ROWS):
            rows = slice(first, first + schema.INDEX_CHUNK_ROWS)
            array[rows] = labels[rows]

    def __len__(self) -> int:
        return int(self._first_of(schema.index_arrays(0)).shape[0])

    def are_indexed(self) -> bool:
        """Return whether the columns that index wrote can be read."""
        try:
            for first in range(0, len(self), schema.INDEX_CHUNK_ROWS):
                self.columns(schema.index_arrays(0), slice(first, first + schema.INDEX_CHUNK_ROWS))
        except DamageError:
            return False
        return True

    @property
    def block(self) -> int:
        """How many images a block has; the last block may have fewer."""
        return int(self._first_of(schema.image_arrays(0, 1)).chunks[0])

    def _first_of(self, names: Iterable[str]) -> Any:
        """Return the first of some arrays that is there: all have the same length and blocks."""
        for name in names:
            with suppress(DamageError):
                return self._arrays.open(f"images/{name}")
        raise damage(self._arrays.path, "it has no images")

    @property
    def blocks(self) -> int:
        """How many blocks there are."""
        return -(-len(self) // self.block)

    def rows(self, block: int) -> slice:
        """Return the rows of a block, which are its image ids."""
        return slice(block * self.block, min((block + 1) * self.block, len(self)))

    def columns(self, names: Iterable[str], rows: slice | np.ndarray = slice(None)) -> list[np.ndarray]:
        """Read columns (image) of some rows; DamageError where what the index or a marker vouches for is not there."""
        found = []
        for name in names:
            with self._arrays.reading(f"images/{name}") as array:
                found.append(np.asarray(array.oindex[rows]))
        return found

    def columns_so_far(self, names: Iterable[str], rows: slice | np.ndarray = slice(None)) -> list[np.ndarray]:
        """Read columns (image) that mine writes, of some rows: of images that are not mined, what index left there."""
        return [np.asarray(self._arrays.open(f"images/{name}").oindex[rows]) for name in names]

    def write(self, block: int, columns: Mapping[str, np.ndarray]) -> None:
        """Write columns (image) of a block: those of ``schema.image_arrays``."""
        self._arrays.write(self.rows(block), {f"images/{name}": values for name, values in columns.items()})
