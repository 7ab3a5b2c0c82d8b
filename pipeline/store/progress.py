"""``progress/*`` of a store: which blocks of a layer are done or failed.

A marker is a chunk of its own for every block and layer. Markers are listed, not read.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..files import list_names
from .arrays import Arrays
from .names import marker_path


class StoredProgress:
    """The progress of mining in a store. Everything is read anew by every call, so that a run can be followed."""

    def __init__(self, arrays: Arrays, is_added: Callable[[str], bool]) -> None:
        self._arrays = arrays
        self._is_added = is_added  # of a layer's name: a layer that was not added to the end has no valid markers

    def mark(self, layer: str, block: int) -> None:
        """Mark a block as done. This is written last, after all values of the block."""
        self._arrays.check_lease()
        self._arrays.open(marker_path("done", layer))[block] = 1

    def take_back(self, layer: str, block: int) -> None:
        """Delete the marker of a block whose values are not there: it is to be mined again."""
        self._arrays.delete_chunk(marker_path("done", layer), (block,))

    def set_aside(self, layer: str, block: int, reason: str) -> None:
        """Record why a block failed in every attempt."""
        self._arrays.check_lease()
        self._arrays.open(marker_path("failed", layer))[block] = reason

    def forget_failures(self, layer: str) -> None:
        """Delete the reasons why blocks failed that are done since."""
        for block in self._marked_blocks("failed", layer) & self.done_blocks(layer):
            self._arrays.delete_chunk(marker_path("failed", layer), (block,))

    def done_blocks(self, layer: str) -> set[int]:
        """Return the blocks that are marked as done."""
        return self._marked_blocks("done", layer)

    def failed_blocks(self, layer: str) -> dict[int, str]:
        """Return the blocks that were set aside and not done since, with the reasons."""
        failed = sorted(self._marked_blocks("failed", layer) - self.done_blocks(layer))
        return {block: str(np.asarray(self._arrays.open(marker_path("failed", layer))[block])) for block in failed}

    def _marked_blocks(self, kind: str, layer: str) -> set[int]:
        if not self._is_added(layer):
            return set()
        array = self._arrays.open(marker_path(kind, layer))  # raises where it is damaged
        names = list_names(f"{self._arrays.path}/{array.path}/c")
        return {int(name) for name in names if name.isdecimal()}
