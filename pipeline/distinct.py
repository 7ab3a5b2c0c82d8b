"""Which of a filter's strongest activations show the same thing, so that only the strongest of them is ranked."""

from __future__ import annotations

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import numpy as np

from .config import RunConfig
from .decode import Geometry
from .ranking import RANKS, Ranking
from .receptive_field import Axis, ReceptiveField
from .store import Store

CANDIDATES = 64  # ranked first, to choose nine that are distinct from
TILE = re.compile(r"(.+)-(\d+)-(\d+)-(\d+)")  # photograph, scale, row and column of a tile


@dataclass(frozen=True)
class Traits:
    """What activations are compared by.

    Attributes
    ----------
    source : ndarray uint64
        A digest of what the image was cut from: by ``rank.source``, or its photograph.
    look : ndarray uint64
        The image's difference hash.
    box : ndarray (…, corner) float64
        Top, left, bottom, right of the patch in pixels of the photograph; zeros unless places are compared.
    """

    source: np.ndarray
    look: np.ndarray
    box: np.ndarray

    def __getitem__(self, at: Any) -> Traits:
        return Traits(self.source[at], self.look[at], self.box[at])


def describe(
    store: Store, config: RunConfig, field: ReceptiveField, image: np.ndarray, row: np.ndarray, column: np.ndarray
) -> Traits:
    """Give the traits of activations by image id, row and column of the map; the three are broadcast."""
    ids, at = np.unique(image, return_inverse=True)
    key, look, height, width = store.image_columns(("key", "hash", "height", "width"), np.maximum(ids, 0))
    if config.rank.distinct != "place":
        named = config.rank.distinct == "source"
        source = np.array([_digest(_source(name, config.rank.source)) if named else 0 for name in key], np.uint64)
        return Traits(source[at], look[at], np.zeros((*at.shape, 4)))
    places = [_place(name, h, w, config) for name, h, w in zip(key, height.tolist(), width.tolist(), strict=True)]
    photograph, scale, origin = (np.array(part) for part in zip(*places, strict=True))
    y, x = (_interval(axis, position, config.decode.crop) for axis, position in ((field.y, row), (field.x, column)))
    corners = np.stack(np.broadcast_arrays(y[0], x[0], y[1], x[1]), axis=-1)
    return Traits(photograph[at], look[at], origin[at] + corners * scale[at])


def alike(config: RunConfig, first: Traits, second: Traits) -> np.ndarray:
    """Tell which activations of one array and of another, broadcast, show the same by ``rank.distinct``."""
    if config.rank.distinct == "look":
        return np.bitwise_count(first.look ^ second.look) <= config.rank.distance
    same = first.source == second.source
    if config.rank.distinct == "place":
        same = same & (_middle_in(first.box, second.box) | _middle_in(second.box, first.box))
    return same


def choose(hits: Ranking, traits: Traits, config: RunConfig) -> Ranking:
    """Choose each filter's nine strongest distinct ones among hits (filter, rank), strongest first: the first of any.

    Fewer where there are no more; image ids of -1 are empty places.
    """
    filters = np.arange(len(hits.image))
    chosen, count = np.zeros((len(filters), RANKS), np.int64), np.zeros(len(filters), np.int64)
    for rank in range(hits.image.shape[1]):
        if (count == RANKS).all():
            break
        fits = (hits.image[:, rank] >= 0) & (count < RANKS)
        for place in range(RANKS):
            fits &= (place >= count) | ~alike(config, traits[:, rank], traits[filters, chosen[:, place]])
        chosen[filters[fits], count[fits]] = rank
        count += fits
    empty = np.arange(RANKS) >= count[:, None]
    activation, image, row, column = (
        np.where(empty, nothing, np.take_along_axis(getattr(hits, name), chosen, axis=1))
        for name, nothing in (("activation", np.float32(np.nan)), ("image", -1), ("row", -1), ("column", -1))
    )
    return Ranking(activation, image, row, column)


def exclude(
    activation: np.ndarray, traits: Traits, taken: Ranking, taken_traits: Traits, config: RunConfig
) -> np.ndarray:
    """Give activations (image, filter) with NaN where they show the same as one of their filter's taken hits."""
    out = np.zeros(activation.shape, bool)
    for rank in range(RANKS):
        out |= (taken.image[:, rank] >= 0) & alike(config, traits, taken_traits[:, rank])
    return np.where(out, np.float32(np.nan), activation)


def _digest(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def _source(key: str, pattern: str) -> str:
    match = re.fullmatch(pattern, key)
    return match[1] if match else key


def _place(key: str, height: int, width: int, config: RunConfig) -> tuple[int, np.ndarray, np.ndarray]:
    """Give an image's photograph, and what input pixels are multiplied by and added to for the photograph's."""
    match = TILE.fullmatch(key)
    photograph = match[1] if match else key
    scale, row, column = map(int, match.groups()[1:]) if match else (1, 0, 0)
    decode = config.decode
    top, left, bottom, right = Geometry(max(1, height), max(1, width), decode.resize, decode.crop).to_source(0, 0, 1, 1)
    factor = scale * np.array([bottom - top, right - left] * 2)
    return _digest(photograph), factor, scale * np.array([top + row * height, left + column * width] * 2)


def _interval(axis: Axis, position: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Give start and stop of the patches of units at positions, as ``ReceptiveField.window`` does for one."""
    size = min(axis.size, length)
    start = np.clip(axis.offset + axis.stride * position.astype(np.int64), 0, length - size)
    return start, start + size


def _middle_in(inner: np.ndarray, outer: np.ndarray) -> np.ndarray:
    y, x = (inner[..., 0] + inner[..., 2]) / 2, (inner[..., 1] + inner[..., 3]) / 2
    inside_y = (outer[..., 0] <= y) & (y < outer[..., 2])
    return inside_y & (outer[..., 1] <= x) & (x < outer[..., 3])
