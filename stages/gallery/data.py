"""The data of the gallery's pages: of the run, and of every layer's filters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from topnine.pipeline.config.sections import RunConfig
from topnine.pipeline.drawing.clearest import choose_clearest, compute_clearness
from topnine.pipeline.drawing.sprites import number
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.ranking.statistics import QUANTILE_LEVELS, STRONGEST_IMAGES
from topnine.pipeline.ranking.topk import RANKS
from topnine.pipeline.store.layers import StoredLayer
from topnine.pipeline.store.schema import OK
from topnine.pipeline.store.store import Store
from topnine.stages.gallery.pictures import FILTERS_A_SHEET, LARGEST_PATCH, Drawing, DrawTask

CLEAREST_FILTERS = 6  # of a layer on the front page
FIGURES = {"maximum": "max_activation", "mean": "mean_activation", "active": "active_fraction"}
STATISTICS = (
    "histogram", "activation_quantile", "class_entropy", "top_class", "top_class_count", "top_class_lift", "coactive",
    "correlation",
)  # fmt: skip
CLASS_FILTERS = 6  # of a layer, on the page of a class
ROUNDING = 1e-5  # of a sum that is computed from means in float32
MIN_CLASS_IMAGES = 2  # of a class whose mean says something of the class and not of an image


def choose_clearest_filters(arrays: StoredLayer, drawings: Sequence[Drawing]) -> list[int]:
    """Choose the filters of a layer for the front page, from the drawings of all its filters in their order."""
    images = arrays.read_ranking().image
    agreement = np.concatenate([drawing.agreement for drawing in drawings])
    sketches = np.concatenate([drawing.sketches for drawing in drawings])
    clearness = compute_clearness(agreement, (images >= 0).mean(axis=1), arrays.read("max_activation"))
    return choose_clearest(clearness, sketches, images, CLEAREST_FILTERS)


def run_data(
    config: RunConfig, store: Store, layers: Sequence[Mapping[str, Any]], left_out: Sequence[str]
) -> dict[str, Any]:
    """Return what the pages need to know of the run; ``layers`` are their summaries."""
    return {
        "network": config.network.name,
        "dataset": store.attributes["dataset"]["name"],
        "images": len(store.images),
        "rule": config.deconvolve.rule,
        "about": _describe_run(config, store),
        "input": list(config.decode.size),
        "ranks": RANKS,
        "thumbnails": config.gallery.thumbnails,
        "largestPatch": LARGEST_PATCH,
        "layers": list(layers),
        "leftOut": list(left_out),
    }


def _describe_run(config: RunConfig, store: Store) -> list[list[str]]:
    """Return what the page about the run lists: names and values."""
    dataset, versions = store.attributes["dataset"], store.attributes.get("versions", {})
    network, decode = config.network, config.decode
    facts = {
        "Network": network.name,
        "Weights": Path(network.weights).name,
        "Data": dataset["name"],
        "Images": f"{len(store.images):,}",
        "Classes with a name": f"{len(dataset['classes']):,}",
        "Input": f"{decode.size[0]} × {decode.size[1]} pixels",
        "Rule of the deconvnet": config.deconvolve.rule,
        "Store": Path(config.store).name,
        **{f"Version of {name}": str(version) for name, version in sorted(versions.items())},
    }
    return [[name, value] for name, value in facts.items() if value]


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
        "cropped": task.crops,
        "clearest": [
            {
                "filter": f,
                "maximum": filters[f]["maximum"],
                "hits": len(filters[f]["hits"]),
                "classes": _frequent_classes(script, filters[f]["hits"]),
            }
            for f in clearest
        ],
    }


def _frequent_classes(script: Mapping[str, Any], hits: Sequence[Sequence[Any]]) -> list[str]:
    """Return the names of the classes of more than one of a filter's images, the most frequent first."""
    labels = Counter(script["images"][hit[0]][1] for hit in hits)
    return [script["classes"][label] for label, n in labels.most_common() if n > 1 and label in script["classes"]]


def layer_data(store: Store, layer: Layer, with_statistics: bool) -> dict[str, Any]:
    """Return what the wall and the filters' pages show of a layer."""
    arrays = store.layer(layer.name)
    filters = list(_describe_filters(arrays))
    if with_statistics:
        for filter, statistics in zip(filters, _describe_statistics(arrays, len(store.images)), strict=True):
            filter.update(statistics)
    images = sorted({hit[0] for filter in filters for hit in filter["hits"]})
    keys, labels = store.images.columns(("key", "label"), np.array(images, np.int64))
    names = store.attributes["dataset"]["classes"]
    classes = {*labels.tolist(), *(label for filter in filters for label, *_ in filter.get("classes", []))}
    return {
        "filters": filters,
        "images": {i: [str(key), int(label)] for i, key, label in zip(images, keys, labels, strict=True)},
        "classes": {label: names[label] for label in sorted(classes) if 0 <= label < len(names)},
        "levels": QUANTILE_LEVELS,
        "strongest": STRONGEST_IMAGES,
    }


def _describe_filters(arrays: StoredLayer) -> Iterator[dict[str, Any]]:
    """Yield, filter by filter, its figures and its hits: image, activation, corners of patch and footprint."""
    ranking, box, footprint = arrays.read_ranking(), arrays.read("box"), arrays.read("footprint")
    figures = {key: arrays.read(name) for key, name in FIGURES.items()}
    for f in range(arrays.filters):
        ranks = np.nonzero(ranking.image[f] >= 0)[0]
        corners = np.concatenate([box[f, ranks], footprint[f, ranks]], axis=1).tolist()
        hits = zip(ranking.image[f, ranks], ranking.activation[f, ranks], corners, strict=True)
        listed = [[int(image), number(activation), *corners] for image, activation, corners in hits]
        yield {**{key: number(values[f]) for key, values in figures.items()}, "hits": listed}


def _describe_statistics(arrays: StoredLayer, images: int) -> Iterator[dict[str, Any]]:
    """Yield, filter by filter, its histogram from 0 to its maximum, quantiles, classes, and correlated filters.

    The classes of a filter's strongest images say nothing where these are all images, or where no class has two.
    """
    values = {name: arrays.read(name) for name in STATISTICS}
    telling = images > STRONGEST_IMAGES and (values["top_class_count"] > 1).any()
    for f in range(arrays.filters):
        histogram, quantile, entropy, label, count, lift, other, correlation = (each[f] for each in values.values())
        classes = zip(label.tolist(), count.tolist(), lift.tolist(), strict=True)
        yield {
            "histogram": histogram.tolist(),
            "quantiles": [number(value) for value in quantile],
            "entropy": number(entropy) if telling else None,
            "classes": [[name, n, number(times)] for name, n, times in classes if telling and n > 1],
            "together": [[int(f), number(value)] for f, value in zip(other, correlation, strict=True) if f >= 0],
        }


def subjects_data(store: Store, layers: Sequence[str], with_statistics: Sequence[bool]) -> dict[str, Any]:
    """Return what the pages of images and classes show: which filters have an image, and which prefer a class.

    Returns
    -------
    dict
        ``images``: by id the key, the label and the hits: layer, filter, rank, activation, corners of the footprint.
        ``classes``: by label the name, the number of images, and the filters that prefer it: layer, filter, and the
        mean activation over the class divided by that over all other images, None where no other image activates it;
        strongest preference first.
    """
    hits: dict[int, list[list[Any]]] = {}
    for layer, name in enumerate(layers):
        ranking, footprint = store.layer(name).read_ranking(), store.layer(name).read("footprint")
        for f, rank in zip(*np.nonzero(ranking.image >= 0), strict=True):
            hit = [layer, int(f), int(rank), number(ranking.activation[f, rank]), *footprint[f, rank].tolist()]
            hits.setdefault(int(ranking.image[f, rank]), []).append(hit)
    images = sorted(hits)
    keys, labels = store.images.columns(("key", "label"), np.array(images, np.int64))
    return {
        "images": {i: [str(key), int(label), hits[i]] for i, key, label in zip(images, keys, labels, strict=True)},
        "classes": _describe_classes(store, layers, with_statistics),
    }


def _describe_classes(store: Store, layers: Sequence[str], with_statistics: Sequence[bool]) -> dict[int, list[Any]]:
    label, status = store.images.columns(("label", "status"))
    known = label[(label >= 0) & (status == OK)]
    counts = np.bincount(known)
    names = store.attributes["dataset"]["classes"]
    found: dict[int, list[Any]] = {
        int(c): [names[c] if c < len(names) else "", int(counts[c]), []] for c in np.nonzero(counts)[0]
    }
    for layer, (name, has_statistics) in enumerate(zip(layers, with_statistics, strict=True)):
        arrays = store.layer(name)
        if has_statistics and arrays.attributes.get("classes", 0):
            mean, total = arrays.read("class_mean").astype(np.float64), (status == OK).sum()
            everywhere = arrays.read("mean_activation").astype(np.float64)
            for c, (_, images, preferring) in found.items():
                if images >= MIN_CLASS_IMAGES:
                    times = _compare_with_rest(mean[:, c], everywhere, images, int(total))
                    order = [f for f in np.argsort(-times, kind="stable")[:CLASS_FILTERS] if times[f] > 1]
                    preferring += [[layer, int(f), number(times[f])] for f in order]
    return found


def _compare_with_rest(mean: np.ndarray, everywhere: np.ndarray, images: int, total: int) -> np.ndarray:
    """Return the mean (filter) over some images, divided by that over all others.

    Infinite where the others do not activate the filter: what is left of its sum then is rounding. 0 where there are no
    others, and where one of the means is negative.
    """
    if images == total:
        return np.zeros(len(mean))
    rest = everywhere * total - mean * images
    rest[np.abs(rest) <= ROUNDING * np.abs(mean) * images] = 0
    times = np.full(len(mean), np.inf)
    np.divide(mean, rest / (total - images), out=times, where=rest != 0)
    times[(mean <= 0) | (rest < 0)] = 0
    return times
