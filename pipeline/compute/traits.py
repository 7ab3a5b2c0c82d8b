"""The traits of hits: where they are from, which part of a photograph they show and what it looks like."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..data.decoding.preparation import Preparation
from ..network.receptive_field import ReceptiveField
from ..ranking.distinct import DistinctRule, Traits, digest, digest_sources, parse_tile

TRAIT_COLUMNS = ("key", "difference_hash", "source_height", "source_width")  # of images, from which hits are described


@dataclass(frozen=True)
class HitDescriber:
    """What is needed to describe a layer's hits by a rule: how images are prepared, and what a unit sees of them."""

    rule: DistinctRule
    preparation: Preparation
    field: ReceptiveField

    def describe(
        self,
        read_columns: Callable[[np.ndarray], list[np.ndarray]],
        image: np.ndarray,
        row: np.ndarray,
        column: np.ndarray,
    ) -> Traits:
        """Return the traits of activations.

        Parameters
        ----------
        read_columns : callable
            Returns key (str), difference hash (uint64), height and width (source pixels) of images, given their ids in
            ascending order.
        image, row, column : ndarray int
            Image ids and positions in the map, which are broadcast. An id of -1, an empty rank, is described as if it
            were 0.
        """
        ids, index = np.unique(image, return_inverse=True)
        key, look, height, width = read_columns(np.maximum(ids, 0))
        if self.rule.by == "place":
            photograph, scale, origin = self._locate_images(key, height, width)
            return Traits(photograph[index], look[index], origin[index] + self._corners(row, column) * scale[index])
        by_source = self.rule.by == "source"
        source = digest_sources(key, self.rule) if by_source else np.zeros(len(key), np.uint64)
        return Traits(source[index], look[index], np.zeros((*index.shape, 4)))

    def _locate_images(
        self, key: np.ndarray, height: np.ndarray, width: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return digests of the photographs (image), and scale and origin (image, corner) of input pixels in them."""
        images = zip(key, height.tolist(), width.tolist(), strict=True)
        photograph, scale, origin = zip(*(_locate_image(*image, self.preparation) for image in images), strict=True)
        return np.array(photograph, np.uint64), np.array(scale), np.array(origin)

    def _corners(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return the patches (…, corner) of units at positions, in input pixels: top, left, bottom, right."""
        top, bottom = self.field.y.window(
            row.astype(np.int64), self.preparation.size[0]
        )  # the store's uint16 would overflow
        left, right = self.field.x.window(column.astype(np.int64), self.preparation.size[1])
        return np.stack(np.broadcast_arrays(top, left, bottom, right), axis=-1)


def _locate_image(key: str, height: int, width: int, preparation: Preparation) -> tuple[int, np.ndarray, np.ndarray]:
    """Return the digest of an image's photograph, and scale and origin (corner) of input pixels in it."""
    tile = parse_tile(key)
    geometry = preparation.place(max(1, height), max(1, width))  # 0 where it was not decoded
    top, left, bottom, right = geometry.to_source(0, 0, 1, 1)
    scale = tile.scale * np.array([bottom - top, right - left] * 2)
    origin = tile.scale * np.array([top + tile.row * height, left + tile.column * width] * 2)
    return digest(tile.photograph), scale, origin
