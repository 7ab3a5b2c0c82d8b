"""The data of the gallery's pages: of the run, and of every layer's filters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from topnine.pipeline.config.sections import RunConfig
from topnine.pipeline.drawing.clearest import choose_clearest, compute_clearness
from topnine.pipeline.drawing.sprites import number
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.ranking.statistics import QUANTILE_LEVELS, STRONGEST_IMAGES
from topnine.pipeline.ranking.topk import RANKS
from topnine.pipeline.store.layers import StoredLayer
from topnine.pipeline.store.store import Store
from topnine.stages.gallery.pictures import FILTERS_A_SHEET, LARGEST_PATCH, Drawing, DrawTask

CLEAREST_FILTERS = 6  # of a layer on the front page
FIGURES = {"maximum": "max_activation", "mean": "mean_activation", "active": "active_fraction"}
STATISTICS = (
    "histogram", "activation_quantile", "class_entropy", "top_class", "top_class_count", "coactive", "correlation",
)  # fmt: skip


def choose_clearest_filters(arrays: StoredLayer, drawings: Sequence[Drawing]) -> list[int]:
    """Choose the filters of a layer for the front page, from the drawings of all its filters in their order."""
    ranked = (arrays.read_ranking().image >= 0).mean(axis=1)
    agreement = np.concatenate([drawing.agreement for drawing in drawings])
    sketches = np.concatenate([drawing.sketches for drawing in drawings])
    return choose_clearest(
        compute_clearness(agreement, ranked, arrays.read("max_activation")), sketches, CLEAREST_FILTERS
    )


def run_data(
    config: RunConfig, store: Store, layers: Sequence[Mapping[str, Any]], left_out: Sequence[str]
) -> dict[str, Any]:
    """Return what the pages need to know of the run; ``layers`` are their summaries."""
    return {
        "network": config.network.name,
        "dataset": store.attributes["dataset"]["name"],
        "images": len(store.images),
        "rule": config.deconvolve.rule,
        "input": list(config.decode.size),
        "ranks": RANKS,
        "thumbnails": config.gallery.thumbnails,
        "largestPatch": LARGEST_PATCH,
        "layers": list(layers),
        "leftOut": list(left_out),
    }


def summarise_layer(task: DrawTask, layer: Layer, script: Mapping[str, Any], clearest: Sequence[int]) -> dict[str, Any]:
    """Return what the front page shows of a layer."""
    field, filters = layer.field.attributes()["size"], script["filters"]
    return {
        "name": layer.name,
        "number": layer.number,
        "filters": layer.filters,
        "dead": sum(not filter["hits"] for filter in filters),
        "field": field if isinstance(field, list) else [field, field],
        "map": list(layer.tap.shape[1:]),
        "tap": layer.tap.follows,
        "tiles": task.nine.describe(),
        "wall": {**task.wall.describe(), "filters": FILTERS_A_SHEET},
        "patches": task.shows_patches,
        "clearest": [
            {"filter": f, "maximum": filters[f]["maximum"], "hits": len(filters[f]["hits"])} for f in clearest
        ],
    }


def layer_data(store: Store, layer: Layer, with_statistics: bool) -> dict[str, Any]:
    """Return what the wall and the filters' pages show of a layer."""
    arrays = store.layer(layer.name)
    filters = list(_describe_filters(arrays))
    if with_statistics:
        for filter, statistics in zip(filters, _describe_statistics(arrays), strict=True):
            filter.update(statistics)
    images = sorted({hit[0] for filter in filters for hit in filter["hits"]})
    keys, labels = store.images.columns(("key", "label"), np.array(images, np.int64))
    names = store.attributes["dataset"]["classes"]
    classes = {*labels.tolist(), *(label for filter in filters for label, _ in filter.get("classes", []))}
    return {
        "filters": filters,
        "images": {i: [str(key), int(label)] for i, key, label in zip(images, keys, labels, strict=True)},
        "classes": {label: names[label] for label in sorted(classes) if 0 <= label < len(names)},
        "levels": QUANTILE_LEVELS,
        "strongest": STRONGEST_IMAGES,
    }


def _describe_filters(arrays: StoredLayer) -> Iterator[dict[str, Any]]:
    """Yield, filter by filter, its figures and its hits: image, activation, and the four corners of the patch."""
    ranking, box = arrays.read_ranking(), arrays.read("box")
    figures = {key: arrays.read(name) for key, name in FIGURES.items()}
    for f in range(arrays.filters):
        ranks = np.nonzero(ranking.image[f] >= 0)[0]
        hits = zip(ranking.image[f, ranks], ranking.activation[f, ranks], box[f, ranks], strict=True)
        listed = [[int(image), number(activation), *corners.tolist()] for image, activation, corners in hits]
        yield {**{key: number(values[f]) for key, values in figures.items()}, "hits": listed}


def _describe_statistics(arrays: StoredLayer) -> Iterator[dict[str, Any]]:
    """Yield, filter by filter, its histogram from 0 to its maximum, quantiles, classes, and correlated filters."""
    for histogram, quantile, entropy, label, count, other, correlation in zip(
        *(arrays.read(name) for name in STATISTICS), strict=True
    ):
        yield {
            "histogram": histogram.tolist(),
            "quantiles": [number(value) for value in quantile],
            "entropy": number(entropy),
            "classes": [[int(name), int(images)] for name, images in zip(label, count, strict=True) if name >= 0],
            "together": [[int(f), number(value)] for f, value in zip(other, correlation, strict=True) if f >= 0],
        }
