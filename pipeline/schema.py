"""The arrays of a store: shape, type, chunks and names of each. See "The store" in the README."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .ranking import RANKS
from .statistics import BINS, IMAGES, LEVELS, PLACES

INDEX_ROWS = 65_536  # of a chunk
FILTERS = 64  # of a chunk inside a zarr shard


@dataclass(frozen=True)
class Spec:
    """An array. ``unit`` is what is written at once: a zarr shard where there is one, else a chunk."""

    shape: tuple[int, ...]
    dtype: Any
    unit: tuple[int, ...]
    names: tuple[str, ...]
    fill: Any = 0
    chunks: tuple[int, ...] | None = None  # inside a zarr shard
    attributes: Mapping[str, str] = field(default_factory=dict)  # description and units

    @property
    def grid(self) -> tuple[int, ...]:
        """How many units it has along every axis."""
        return tuple(-(-size // unit) for size, unit in zip(self.shape, self.unit, strict=True))

    def region(self, at: tuple[int, ...]) -> tuple[slice, ...]:
        """Give the place of a unit in the array."""
        return tuple(slice(i * unit, (i + 1) * unit) for i, unit in zip(at, self.unit, strict=True))


def index_arrays(images: int) -> dict[str, Spec]:
    """Give the columns of ``images/*`` that index writes."""
    types = {"key": str, "shard": "i4", "offset": "i8", "size": "i8", "label": "i4"}
    rows = min(INDEX_ROWS, images)
    return {name: _column(images, dtype, rows) for name, dtype in types.items()}


def image_arrays(images: int, block: int) -> dict[str, Spec]:
    """Give the columns of ``images/*`` that mine fills in."""
    types = {"status": "u1", "reason": str, "height": "i4", "width": "i4"}
    return {name: _column(images, dtype, block) for name, dtype in types.items()}


def marker_arrays(blocks: int) -> dict[str, Spec]:
    """Give the arrays of markers of a layer, by kind: a chunk for every block."""
    return {
        kind: Spec((blocks,), dtype, (1,), ("block",), "" if dtype is str else 0)
        for kind, dtype in (("done", "u1"), ("failed", str))
    }


def mined_arrays(images: int, block: int, filters: int, height: int, width: int) -> dict[str, Spec]:
    """Give a layer's arrays that mine writes, for maps of a height and width."""
    position = "u2" if max(height, width) <= 2**16 else "u4"
    chunk = min(FILTERS, filters)
    unit = block, -(-filters // chunk) * chunk
    return {
        name: Spec((images, filters), dtype, unit, ("image", "filter"), fill, (block, chunk))
        for name, dtype, fill in (("activation", "f4", np.nan), ("row", position, 0), ("column", position, 0))
    }


def ranked_arrays(filters: int) -> dict[str, Spec]:
    """Give a layer's arrays that rank writes."""
    ranks = {"top_image": ("i8", -1), "top_activation": ("f4", np.nan), "top_row": ("i4", -1), "top_column": ("i4", -1)}
    return {
        **{
            name: Spec((filters, RANKS), dtype, (filters, RANKS), ("filter", "rank"), fill)
            for name, (dtype, fill) in ranks.items()
        },
        **{
            name: Spec((filters,), "f4", (filters,), ("filter",), np.nan)
            for name in ("maximum", "mean", "active_fraction")
        },
    }


def statistics_arrays(filters: int, classes: int) -> dict[str, Spec]:
    """Give a layer's arrays that statistics writes; ``class_mean`` where there are classes."""
    bins, edges, levels, places = {"bin": BINS}, {"edge": BINS + 1}, {"level": len(LEVELS)}, {"place": PLACES}
    strongest = f"of a filter's {IMAGES} strongest images"
    arrays = {
        "histogram": _figure(filters, bins, "i8", 0, "images", "how many images activate a filter so much"),
        "bin_edge": _figure(filters, edges, "f4", np.nan, "activation", "equal widths; what is below 0 is in bin 0"),
        "quantile": _figure(filters, levels, "f4", np.nan, "activation", "off the histogram: right to a bin's width"),
        "level": Spec((len(LEVELS),), "f8", (len(LEVELS),), ("level",), np.nan),
        "class_entropy": _figure(filters, {}, "f4", np.nan, "bits", f"of the classes {strongest}"),
        "top_class": _figure(filters, places, "i4", -1, "class", f"most frequent {strongest}; -1: no more"),
        "top_class_count": _figure(filters, places, "i4", 0, "images", f"{strongest} that are of these classes"),
        "coactive": _figure(filters, places, "i4", -1, "filter", "those that correlate most; -1: no more"),
        "correlation": _figure(filters, places, "f4", np.nan, "1", "Pearson's, of activations, with these filters"),
    }
    if classes:
        arrays["class_mean"] = _figure(
            filters, {"class": classes}, "f4", np.nan, "activation", "mean over a class's images; NaN: it has none"
        )
    return arrays


def patch_arrays(filters: int, height: int, width: int) -> dict[str, Spec]:
    """Give a layer's arrays that deconvolve writes, for windows of a height and width in pixels."""
    pixels, names = (RANKS, height, width, 3), ("filter", "rank", "y", "x", "rgb")
    return {
        "patch": Spec((filters, *pixels), "u1", (1, *pixels), names),
        "projection": Spec((filters, *pixels), "f4", (1, *pixels), names),
        "box": Spec((filters, RANKS, 4), "i4", (1, RANKS, 4), ("filter", "rank", "corner"), -1),
    }


def _figure(filters: int, sizes: Mapping[str, int], dtype: str, fill: Any, units: str, description: str) -> Spec:
    unit = min(FILTERS, filters), *sizes.values()
    attributes = {"units": units, "description": description}
    return Spec((filters, *sizes.values()), dtype, unit, ("filter", *sizes), fill, attributes=attributes)


def _column(images: int, dtype: Any, rows: int) -> Spec:
    return Spec((images,), dtype, (rows,), ("image",), "" if dtype is str else 0)
