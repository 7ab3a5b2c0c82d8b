"""The schema of a store: shape, type, chunks, dimension names, attributes and coordinates of every array.

No array, coordinate or dimension has the name of a method of xarray's or of a word of Python, except the dimensions
``filter`` and ``rank``. Every dimension that is more than a count has a coordinate: an array of its name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..ranking.statistics import HISTOGRAM_BINS, LISTED, QUANTILE_LEVELS, STRONGEST_IMAGES
from ..ranking.topk import RANKS

SCHEMA_VERSION = 3
SCHEMA_ATTRIBUTE = "topnine_schema"  # of the root
PENDING, OK, UNDECODABLE = range(3)  # values of images/status
INDEX_CHUNK_ROWS = 65_536  # images
CHUNK_FILTERS = 64
CORNERS = ("top", "left", "bottom", "right")
COLOURS = ("red", "green", "blue")


@dataclass(frozen=True)
class Spec:
    """The specification of an array.

    Attributes
    ----------
    shape : tuple of int
    dtype : str or type
    unit : tuple of int
        The shape of what is written at once: a zarr shard where there are ``chunks``, else a chunk.
    names : tuple of str
        Of the dimensions.
    fill
        The value of what was never written.
    chunks : tuple of int, optional
        The shape of the chunks inside a zarr shard.
    attributes : mapping of str to value
        ``long_name``, ``units`` where there are any, ``comment`` (what fill values mean), and for flags
        ``flag_values`` and ``flag_meanings``: the names of the CF conventions.
    values : sequence, optional
        Of a coordinate: they are written when it is created.
    """

    shape: tuple[int, ...]
    dtype: Any
    unit: tuple[int, ...]
    names: tuple[str, ...]
    fill: Any = 0
    chunks: tuple[int, ...] | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)
    values: Sequence[Any] | None = None

    @property
    def grid(self) -> tuple[int, ...]:
        """How many units it has along every dimension.

        >>> Spec((10, 4), "f4", (4, 4), ("image", "filter")).grid
        (3, 1)
        """
        return tuple(-(-size // unit) for size, unit in zip(self.shape, self.unit, strict=True))

    def fits(self, array: Any) -> bool:
        """Return whether a Zarr array has this shape and type, divided like this."""
        typed = self.dtype is str or array.dtype == np.dtype(self.dtype)
        divided = array.chunks == (self.chunks or self.unit) and array.shards == (self.unit if self.chunks else None)
        return bool(array.shape == self.shape and typed and divided)

    def region(self, at: tuple[int, ...]) -> tuple[slice, ...]:
        """Return the part of the array that a unit covers, from the unit's position in the grid."""
        return tuple(slice(i * unit, (i + 1) * unit) for i, unit in zip(at, self.unit, strict=True))


def index_arrays(images: int) -> dict[str, Spec]:
    """Return the arrays of ``images`` that index writes, in large chunks: ten million rows are 153 chunks each."""
    described = {
        "key": (str, _about("the image's name, which no other image has")),
        "shard": ("i4", _about("number of the shard in the root's attribute dataset_shards", "1")),
        "offset": (
            "i8",
            _about("where the image is in its shard", "1", "Byte of a tar; file of a folder; row of a Parquet file."),
        ),
        "byte_count": ("i8", _about("size of the encoded image", "bytes", "0 in a Parquet file.")),
        "label": (
            "i4",
            _about("class index", "1", "-1: the class is unknown. Names: the root's attribute dataset_classes."),
        ),
    }
    return {name: _column(images, dtype, INDEX_CHUNK_ROWS, about) for name, (dtype, about) in described.items()}


def image_arrays(images: int, block: int) -> dict[str, Spec]:
    """Return the arrays of ``images`` that mine writes, a chunk for every block."""
    flags = {"flag_values": [PENDING, OK, UNDECODABLE], "flag_meanings": "pending ok undecodable"}
    unknown = "0 where the image is pending or undecodable."
    described = {
        "status": ("u1", {**_about("whether the image was decoded"), **flags}),
        "reason": (str, _about("why the image is undecodable", comment="Empty where it is not.")),
        "source_height": ("i4", _about("height of the source image", "pixels", unknown)),
        "source_width": ("i4", _about("width of the source image", "pixels", unknown)),
        "difference_hash": (
            "u8",
            _about("difference hash of the image as the network sees it: bits, equal in similar images", "1", unknown),
        ),
    }
    return {name: _column(images, dtype, block, about) for name, (dtype, about) in described.items()}


def marker_arrays(blocks: int, fingerprint: Mapping[str, Any]) -> dict[str, Spec]:
    """Return the arrays of a layer's markers by kind, a chunk for every block, and what the blocks were mined with.

    >>> marker_arrays(4, {"mine.batch": 32})["done"].attributes["vouches_for"]
    '0de38e7b7a17'
    """
    vouches = {"vouches_for": hashlib.sha256(json.dumps(fingerprint, sort_keys=True).encode()).hexdigest()[:12]}
    described = {
        "done": ("u1", {**_about("whether the block is mined"), "flag_values": [0, 1], "flag_meanings": "to_do done"}),
        "failed": (str, _about("why the block failed in every attempt", comment="Empty where it did not.")),
    }
    return {
        kind: Spec(
            (blocks,),
            dtype,
            (1,),
            ("block",),
            "" if dtype is str else 0,
            attributes={**about, **vouches},
        )
        for kind, (dtype, about) in described.items()
    }


def layer_arrays(filters: int) -> dict[str, Spec]:
    """Return the arrays that a layer is created with, before anything of it is mined: the coordinate of its filters."""
    return {"filter": _coordinate("filter", range(filters), "i4", _about("channel of the layer", "1"))}


def mined_arrays(images: int, block: int, filters: int, height: int, width: int) -> dict[str, Spec]:
    """Return the arrays of a layer that mine writes, for maps of a height and width."""
    position = "u2" if max(height, width) <= 2**16 else "u4"
    chunk = min(CHUNK_FILTERS, filters)
    shape, names = (images, filters), ("image", "filter")
    undecodable = "NaN where the image is undecodable, and where it is not mined yet."
    activation = _about("the largest value of the filter's map over the image", "1", undecodable)

    def position_spec(axis: str) -> Spec:
        """Return the specification of rows or columns."""
        about = _about(f"{axis} of the filter's map where the activation is", "1", "0 where the activation is NaN.")
        return Spec(shape, position, (block, filters), names, attributes=about)

    unit = (block, -(-filters // chunk) * chunk)
    return {
        "activation": Spec(shape, "f4", unit, names, np.nan, (block, chunk), activation),
        "row": position_spec("row"),
        "column": position_spec("column"),
    }


def ranked_arrays(filters: int) -> dict[str, Spec]:
    """Return the arrays of a layer that rank writes."""
    fewer = f"where fewer than {RANKS} images activate the filter."
    ranks = {
        "top_image": ("i8", -1, _about("image of the hit: its row in images", "1", f"-1 {fewer}")),
        "top_activation": ("f4", np.nan, _about("activation of the hit", "1", f"NaN {fewer}")),
        "top_row": ("i4", -1, _about("row of the filter's map where the hit is", "1", f"-1 {fewer}")),
        "top_column": ("i4", -1, _about("column of the filter's map where the hit is", "1", f"-1 {fewer}")),
    }
    none = "where no image was decoded."
    figures = {
        "max_activation": _about("the filter's strongest activation", "1", f"NaN {none}"),
        "mean_activation": _about("mean of the filter's activations over the decoded images", "1", f"0 {none}"),
        "active_fraction": _about("fraction of the decoded images with a positive activation", "1", f"0 {none}"),
    }
    return {
        "rank": _coordinate("rank", range(RANKS), "i4", _about("place of the hit, 0 the strongest", "1")),
        **{
            name: Spec((filters, RANKS), dtype, (filters, RANKS), ("filter", "rank"), fill, attributes=about)
            for name, (dtype, fill, about) in ranks.items()
        },
        **{
            name: Spec((filters,), "f4", (filters,), ("filter",), np.nan, attributes=about)
            for name, about in figures.items()
        },
    }


def statistics_arrays(filters: int, class_names: Sequence[str]) -> dict[str, Spec]:
    """Return the arrays of a layer that statistics writes; those of class means only where there are classes."""
    bins, edges, levels = (
        {"histogram_bin": HISTOGRAM_BINS}, {"histogram_edge": HISTOGRAM_BINS + 1},
        {"quantile_level": len(QUANTILE_LEVELS)},
    )  # fmt: skip
    listed, strongest = {"place": LISTED}, f"among the filter's {STRONGEST_IMAGES} strongest images"

    def statistic(sizes: Mapping[str, int], dtype: str, fill: Any, about: dict[str, Any]) -> Spec:
        """Return the specification of an array (filter, …)."""
        unit = min(CHUNK_FILTERS, filters), *sizes.values()
        return Spec((filters, *sizes.values()), dtype, unit, ("filter", *sizes), fill, attributes=about)

    arrays = {
        "place": _coordinate("place", range(LISTED), "i4", _about("place in a list, 0 the first", "1")),
        "quantile_level": _coordinate(
            "quantile_level", QUANTILE_LEVELS, "f8", _about("fraction of the images at or below the quantile", "1")
        ),
        "histogram": statistic(
            bins, "i8", 0, _about("how many images activate the filter so much", "images", "0: none does.")
        ),
        "bin_edge": statistic(
            edges, "f4", np.nan,
            _about(
                "edges of the histogram's bins, from 0 to max_activation", "1",
                "Equal widths; an activation below 0 is in the first bin.",
            ),
        ),
        "activation_quantile": statistic(
            levels, "f4", np.nan,
            _about(
                "quantile of the filter's activations", "1",
                "Off the histogram: right to a bin's width. NaN where no image was decoded.",
            ),
        ),
        "class_entropy": statistic(
            {}, "f4", np.nan, _about(f"entropy of the classes {strongest}", "bits", "NaN where none is labelled.")
        ),
        "top_class": statistic(
            listed, "i4", -1, _about(f"most frequent classes {strongest}", "1", "A class index; -1: there are no more.")
        ),
        "top_class_count": statistic(
            listed, "i4", 0, _about(f"how many images of top_class are {strongest}", "images", "0: there are no more.")
        ),
        "top_class_lift": statistic(
            listed, "f4", np.nan,
            _about(
                f"share of top_class {strongest}, divided by its share in the dataset", "1",
                "1: as frequent as everywhere. NaN: there are no more, or the classes were not counted.",
            ),
        ),
        "coactive": statistic(
            listed, "i4", -1,
            _about("the filters that correlate most with this one", "1", "A filter; -1: there are no more."),
        ),
        "correlation": statistic(
            listed, "f4", np.nan,
            _about("Pearson's correlation of the activations with those of coactive", "1", "NaN: there are no more."),
        ),
    }  # fmt: skip
    if not class_names:
        return arrays
    mean = _about("mean of the filter's activations over the class's images", "1", "NaN: the class has no images.")
    names = _about("the class's name", comment="Its index where it has no name. In the order of the indices.")
    return {
        **arrays,
        "class_name": _coordinate("class_name", class_names, str, names),
        "class_mean": statistic({"class_name": len(class_names)}, "f4", np.nan, mean),
    }


def class_names(named: Sequence[str], classes: int) -> list[str]:
    """Return a name for every class: its index where it has none.

    >>> class_names(["cat", ""], 3), class_names(["cat"], 0)
    (['cat', '1', '2'], [])
    """
    return [(named[label] if label < len(named) else "") or str(label) for label in range(classes)]


def patch_arrays(filters: int, height: int, width: int, channels: int) -> dict[str, Spec]:
    """Return the arrays of a layer that deconvolve writes, for windows of a height and width in pixels.

    Pixels of three channels have the dimension ``rgb``, those of others ``channel``.
    """
    if channels == len(COLOURS):
        colour = _coordinate("rgb", COLOURS, str, _about("colour"))
    else:
        colour = _coordinate("channel", range(channels), "i4", _about("channel of the network's input", "1"))
    dimension = colour.names[0]
    pixels, names = (RANKS, height, width, channels), ("filter", "rank", "y", "x", dimension)
    empty = f"where fewer than {RANKS} images activate the filter."

    def per_rank(sizes: Mapping[str, int], dtype: str, fill: Any, about: dict[str, Any]) -> Spec:
        """Return the specification of an array (filter, rank, …) with a chunk for every filter."""
        shape = (RANKS, *sizes.values())
        return Spec((filters, *shape), dtype, (1, *shape), ("filter", "rank", *sizes), fill, attributes=about)

    patch = _about("the pixels that the hit can see", "1", f"0 {empty}")
    projection = _about(
        "the deconvnet's reconstruction of the hit, not scaled", "1",
        f"In units of the normalised input of the network. 0 {empty}",
    )  # fmt: skip
    box = _about("the patch in the network's input", "pixels", f"bottom and right are outside. -1 {empty}")
    source = _about("the patch in the source image", "pixels", f"bottom and right are outside. NaN {empty}")
    tie = _about("whether the projection hangs on a near-tie of a pooling region")
    footprint = _about(
        "the square in the network's input with 99 % of the projection's energy", "pixels",
        f"It lies in the box; bottom and right are outside. -1 {empty}",
    )  # fmt: skip
    mask = _about("how much of the patch the projection covers", "1", f"255 where it is strong. 0 {empty}")
    return {
        "y": _coordinate("y", range(height), "i4", _about("row of the patch", "pixels")),
        "x": _coordinate("x", range(width), "i4", _about("column of the patch", "pixels")),
        dimension: colour,
        "corner": _coordinate("corner", CORNERS, str, _about("side of a box")),
        "patch": Spec((filters, *pixels), "u1", (1, *pixels), names, attributes=patch),
        "projection": Spec((filters, *pixels), "f4", (1, *pixels), names, attributes=projection),
        "box": per_rank({"corner": len(CORNERS)}, "i4", -1, box),
        "source_box": per_rank({"corner": len(CORNERS)}, "f4", np.nan, source),
        "footprint": per_rank({"corner": len(CORNERS)}, "i4", -1, footprint),
        "mask": per_rank({"y": height, "x": width}, "u1", 0, mask),
        "tie": per_rank({}, "bool", False, {**tie, "flag_values": [0, 1], "flag_meanings": "no yes"}),
    }


def arrays_by_stage(root: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, dict[str, Spec]]:
    """Return the arrays that a layer has by now, from the attributes of the root and of the layer.

    Returns
    -------
    dict of str to dict of str to Spec
        By the stage that writes them and by name; those of ``layer_arrays`` are of the stage ``layer``.
    """
    done = {"layer", "mine", *layer["fingerprints"]}
    return {stage: arrays for stage, arrays in all_arrays(root, layer).items() if stage in done}


def all_arrays(root: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, dict[str, Spec]]:
    """Return the arrays of a layer that all stages write, as ``arrays_by_stage`` does."""
    filters, shape = layer["filters"], layer["map"]
    field = np.broadcast_to(layer["receptive_field"]["size"], 2)
    preparation = root.get("preprocessing", {})
    size = np.minimum(field, preparation.get("size", field))
    return {
        "layer": layer_arrays(filters),
        "mine": mined_arrays(root["images"], root["block"], filters, shape["height"], shape["width"]),
        "rank": ranked_arrays(filters),
        "statistics": statistics_arrays(filters, class_names(root["dataset"]["classes"], layer.get("classes", 0))),
        "deconvolve": patch_arrays(filters, int(size[0]), int(size[1]), preparation.get("channels", len(COLOURS))),
    }


def _about(long_name: str, units: str = "", comment: str = "") -> dict[str, Any]:
    """Return an array's attributes, without those that are empty."""
    attributes = {"long_name": long_name, "units": units, "comment": comment}
    return {name: text for name, text in attributes.items() if text}


def _column(images: int, dtype: Any, rows: int, about: Mapping[str, Any]) -> Spec:
    return Spec((images,), dtype, (rows,), ("image",), "" if dtype is str else 0, attributes=about)


def _coordinate(name: str, values: Sequence[Any], dtype: Any, about: Mapping[str, Any]) -> Spec:
    """Return the specification of a dimension's coordinate, all in one chunk."""
    shape, fill = (len(values),), "" if dtype is str else -1
    return Spec(shape, dtype, shape, (name,), fill, attributes=about, values=tuple(values))
