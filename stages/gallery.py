"""Stage gallery: a static site of every layer of a run, to be opened from disk or copied to any web server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline import networks, site
from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.figures import contrast
from pipeline.graph import trace
from pipeline.layers import Layer, find_layers, pixel_weights
from pipeline.patches import read_images, strongest_patches, window_size
from pipeline.plan import Plan
from pipeline.ranking import RANKS
from pipeline.statistics import IMAGES, LEVELS
from pipeline.store import Store
from pipeline.stream import ahead

from .progress import Progress

FILTERS_A_SHEET = 64  # of the wall; and of a task
WALL_COLUMNS = 8
IMAGES_A_TASK = 64
CLEAREST = 6  # filters of a layer on the front page
GRID = 100  # patches of the first layer's clearest filter
HALF = 0.5  # of the network's input, from which a patch counts as a whole image


@dataclass(frozen=True)
class Drawing:
    """Some filters, drawn.

    Attributes
    ----------
    files : dict of str to bytes
        By their path in the layer's folder.
    agreement : ndarray (filter)
        How much alike a filter's nine projections and nine patches are: 0 to 2.
    sketches : ndarray (filter, value)
        Of the mean projection.
    """

    files: dict[str, bytes]
    agreement: np.ndarray
    sketches: np.ndarray


def gallery(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Write the site to ``gallery/`` in the run's folder; always done again.

    It holds every layer of the store that is deconvolved with the plan's settings, asked for or not. The old site
    stays until the new one is complete.

    Raises
    ------
    InputError
        No layer is.
    """
    store = Store.open(plan.config.store)
    shown, left_out, deepest = _find_shown(plan, store)
    plan = replace(plan, layers=shown)
    images = _shown_images(store, shown) if plan.config.gallery.thumbnails else np.empty(0, np.int64)
    done, total = 0, sum(layer.filters for layer in shown) + len(images)
    yield Progress("gallery", done, total, "pictures")

    folder = plan.folder / "gallery"
    building = plan.folder / "gallery.new"
    shutil.rmtree(building, ignore_errors=True)
    shutil.copytree(str(files("stages") / "site"), building)
    summaries = []
    for layer in shown:
        parts: dict[int, Drawing] = {}
        for part, drawing in _draw_layer(plan, pool, layer):
            parts[part] = drawing
            _write(building / folder_name(layer), drawing.files)
            done += len(drawing.agreement)
            yield Progress("gallery", done, total, "pictures")
        clearest = _clearest(store, layer, [parts[part] for part in sorted(parts)])
        script = _layer_data(plan, store, layer)
        _write(building, {f"{folder_name(layer)}.js": site.data_script(layer.name, script).encode()})
        summaries.append(_summary(plan, pool, store, layer, script, clearest, deepest, building))
    for some, thumbnails in _draw_thumbnails(plan, pool, images):
        _write(building / "images", {f"{i}.webp": data for i, data in zip(some, thumbnails, strict=True)})
        done += len(some)
        yield Progress("gallery", done, total, "pictures")
    run = _run_data(plan, store, summaries, left_out)
    _write(building, {"layers/run.js": site.data_script("", run).encode()})
    shutil.rmtree(folder, ignore_errors=True)
    building.replace(folder)


# -- what is shown ----------------------------------------------------------------------------------------------------


def folder_name(layer: Layer) -> str:
    """Give the folder of a layer's pictures in the site, and with ``.js`` its data: safe for any file system and URL.

    Depth makes it unique among the layers.
    """
    return f"layers/{layer.tap.operation:03d}-{re.sub(r'[^A-Za-z0-9._-]', '-', layer.name)[:60]}"


def _find_shown(plan: Plan, store: Store) -> tuple[tuple[Layer, ...], list[str], int]:
    """Give the layers that are shown, the names of the others, and the depth of the deepest numbered one."""
    network = networks.load(plan.config.network, "cpu")  # the driver may have no other device
    crop = plan.config.decode.crop
    graph = trace(network.module, torch.zeros(1, 3, crop, crop))
    numbered = network.architecture.layers
    shown, left_out = [], []
    for name in store.layers:
        known = find_layers(graph, numbered, name) if name in {**numbered, **graph.outputs} else []
        current = [each for each in known if store.fingerprint("deconvolve", name) == plan.deconvolve_fingerprint(each)]
        shown += current
        left_out += [] if current else [name]
    if not shown:
        raise InputError(
            f"no layer of store {store.path} is deconvolved with these settings: `topnine deconvolve` first."
        )
    depths = [graph.outputs[module] for module in numbered.values() if module in graph.outputs]
    return tuple(shown), left_out, max([1, *depths, *([] if depths else [layer.tap.operation for layer in shown])])


def _shown_images(store: Store, layers: Iterable[Layer]) -> np.ndarray:
    """Give the ids of the images that any filter's nine are of."""
    found = np.unique(np.concatenate([store.read_ranking(layer.name).image.ravel() for layer in layers]))
    return found[found >= 0]


def shows_patches(plan: Plan, layer: Layer) -> bool:
    """Tell whether a layer's patches are shown: without thumbnails none that is more than half of an image."""
    height, width = window_size(layer.field, plan.config.decode.crop)
    return plan.config.gallery.thumbnails or height * width <= HALF * plan.config.decode.crop**2


# -- pictures ---------------------------------------------------------------------------------------------------------


def _draw_layer(plan: Plan, pool: Pool, layer: Layer) -> Iterator[tuple[int, Drawing]]:
    groups = [range(f, min(f + FILTERS_A_SHEET, layer.filters)) for f in range(0, layer.filters, FILTERS_A_SHEET)]
    for finished in pool.run(draw_filters, groups, plan, layer, pool.threads):
        if finished:
            yield finished[0].start, finished[1]


def draw_filters(filters: range, plan: Plan, layer: Layer, threads: int) -> Drawing:
    """Draw the nine of some filters, and the strongest of each on two sheets for the wall (a task)."""
    store = Store.open(plan.config.store)
    layout = _layout(plan, layer, RANKS)
    filled = store.read_ranking(layer.name, slice(filters.start, filters.stop)).image >= 0
    patches = shows_patches(plan, layer)

    def draw(f: int) -> tuple[bytes, list[np.ndarray | None], float, np.ndarray]:
        projection, patch = (store.read_layer(layer.name, name, slice(f, f + 1))[0] for name in ("projection", "patch"))
        there = np.nonzero(filled[f - filters.start])[0]
        seen = [[contrast(each, plan.config.tile.quantile) for each in projection[there]], list(patch[there])]
        small = [[site.shrink(each, layout.height, layout.width) for each in kind] for kind in seen]
        rows = [[*kind, *[None] * (RANKS - len(kind))] for kind in small]
        shown = rows if patches else rows[:1]
        sheet = site.sprite_sheet([tile for row in shown for tile in row], layout) if len(there) else b""
        agreement, mean = _compare(small)
        return sheet, [row[0] for row in shown], agreement, mean

    with closing(ahead(draw, filters, threads, 2 * threads)) as drawn:
        sheets, strongest, agreement, sketches = zip(*drawn, strict=True)
    part = filters.start // FILTERS_A_SHEET
    wall = _layout(plan, layer, WALL_COLUMNS)
    kinds = zip(("projections", "patches"), zip(*strongest, strict=True), strict=False)
    made = {f"filter-{f}.webp": sheet for f, sheet in zip(filters, sheets, strict=True) if sheet}
    made |= {f"{kind}-{part}.webp": site.sprite_sheet(tiles, wall) for kind, tiles in kinds}
    return Drawing(made, np.array(agreement), np.stack(sketches))


def _compare(pictures: list[list[np.ndarray]]) -> tuple[float, np.ndarray]:
    """Give how much alike projections are and patches are, together, and a sketch of the mean projection."""
    if not pictures[0]:
        return 0.0, np.zeros(3 * site.SKETCH_PX**2, np.float32)
    projections, patches = site.sketches(np.stack(pictures[0]), np.stack(pictures[1]))
    mean = projections.mean(axis=0)
    return site.agreement(projections) + site.agreement(patches), mean / max(np.linalg.norm(mean), 1e-6)


def _layout(plan: Plan, layer: Layer, columns: int) -> site.Tiles:
    return site.tiles(*window_size(layer.field, plan.config.decode.crop), columns)


def _draw_thumbnails(plan: Plan, pool: Pool, images: np.ndarray) -> Iterator[tuple[list[int], list[bytes]]]:
    groups = [images[i : i + IMAGES_A_TASK].tolist() for i in range(0, len(images), IMAGES_A_TASK)]
    for finished in pool.run(draw_thumbnails, groups, plan, pool.threads):
        if finished:
            yield finished


def draw_thumbnails(images: list[int], plan: Plan, threads: int) -> list[bytes]:
    """Draw some images whole, as the network sees them (a task)."""
    pixels = read_images(Store.open(plan.config.store), plan.dataset, np.array(images), plan.config, threads)
    with closing(ahead(site.thumbnail, pixels, threads, 2 * threads)) as drawn:
        return list(drawn)


# -- which filters come first -----------------------------------------------------------------------------------------


def _clearest(store: Store, layer: Layer, drawings: list[Drawing]) -> list[int]:
    """Choose the filters for the front page: those whose nine agree, times how lively the filter is.

    A filter is as lively as the fraction of its nine ranks that are filled, times its strongest activation in
    units of the layer's median, at most 1.
    """
    ranked = (store.read_ranking(layer.name).image >= 0).mean(axis=1)
    maximum = np.nan_to_num(store.read_layer(layer.name, "maximum"))
    alive = maximum[maximum > 0]
    lively = ranked * np.clip(maximum / (np.median(alive) if len(alive) else 1), 0, 1)
    agreement = np.concatenate([drawing.agreement for drawing in drawings])
    sketches = np.concatenate([drawing.sketches for drawing in drawings])
    return site.choose_clearest(agreement * lively, sketches, CLEAREST)


# -- data -------------------------------------------------------------------------------------------------------------


def _run_data(plan: Plan, store: Store, layers: list[dict[str, Any]], left_out: list[str]) -> dict[str, Any]:
    return {
        "network": plan.config.network.name,
        "dataset": store.attributes["dataset"]["name"],
        "images": store.images,
        "rule": plan.config.deconvolve.rule,
        "input": plan.config.decode.crop,
        "thumbnails": plan.config.gallery.thumbnails,
        "layers": layers,
        "leftOut": left_out,
    }


def _summary(
    plan: Plan,
    pool: Pool,
    store: Store,
    layer: Layer,
    script: Mapping[str, Any],
    clearest: list[int],
    deepest: int,
    building: Path,
) -> dict[str, Any]:
    """Give what the front page shows of a layer; of a layer on pixels its weights are drawn, too."""
    field = layer.field.attributes()["size"]
    return {
        "name": layer.name,
        "number": layer.number,
        "folder": folder_name(layer),
        "chapter": site.chapter(layer.tap.operation, deepest),
        "filters": layer.filters,
        "dead": sum(not each["hits"] for each in script["filters"]),
        "field": field if isinstance(field, list) else [field, field],
        "map": list(layer.tap.shape[1:]),
        "tap": layer.tap.follows,
        "tiles": _layout(plan, layer, RANKS).describe(),
        "wall": {**_layout(plan, layer, WALL_COLUMNS).describe(), "filters": FILTERS_A_SHEET},
        "patches": shows_patches(plan, layer),
        "clearest": [
            {"filter": f, "maximum": script["filters"][f]["maximum"], "hits": len(script["filters"][f]["hits"])}
            for f in clearest
        ],
        "pixels": _draw_pixels(plan, pool, store, layer, clearest, building / folder_name(layer)),
    }


def _draw_pixels(
    plan: Plan, pool: Pool, store: Store, layer: Layer, clearest: list[int], folder: Path
) -> dict[str, Any] | None:
    """Draw the weights of a convolution on pixels, and the patches that excite its clearest filter most."""
    weights = pixel_weights(networks.load(plan.config.network, "cpu").module, layer)
    if weights is None or not clearest:
        return None
    pictures = [contrast(each.transpose(1, 2, 0), 1.0) for each in weights]
    patches = strongest_patches(store, plan.dataset, layer, clearest[0], GRID, plan.config, pool.threads)
    shape, window = weights.shape[2:], patches.shape[1:3]
    drawn = site.tiles(shape[0], shape[1], WALL_COLUMNS), site.tiles(window[0], window[1], WALL_COLUMNS)
    small = [site.shrink(each, drawn[1].height, drawn[1].width) for each in patches]
    sheets = {"weights.webp": site.sprite_sheet(pictures, drawn[0]), "grid.webp": site.sprite_sheet(small, drawn[1])}
    _write(folder, sheets if shows_patches(plan, layer) else {"weights.webp": sheets["weights.webp"]})
    return {"weights": drawn[0].describe(), "grid": drawn[1].describe(), "patches": len(patches)}


def _layer_data(plan: Plan, store: Store, layer: Layer) -> dict[str, Any]:
    """Give what the wall and the filters' pages show of a layer; statistics where there are any."""
    filters = _filters(store, layer)
    if store.fingerprint("statistics", layer.name) == plan.statistics_fingerprint(layer):
        for each, more in zip(filters, _statistics(store, layer), strict=True):
            each.update(more)
    shown = sorted({hit[0] for each in filters for hit in each["hits"]})
    keys, labels = store.image_columns(("key", "label"), np.array(shown, np.int64))
    names = store.attributes["dataset"]["classes"]
    known = {*labels.tolist(), *(label for each in filters for label, _ in each.get("classes", []))}
    return {
        "filters": filters,
        "images": {i: [str(key), int(label)] for i, key, label in zip(shown, keys, labels, strict=True)},
        "classes": {label: names[label] for label in sorted(known) if 0 <= label < len(names)},
        "levels": LEVELS,
        "strongest": IMAGES,
    }


def _filters(store: Store, layer: Layer) -> list[dict[str, Any]]:
    ranking = store.read_ranking(layer.name)
    names = {"maximum": "maximum", "mean": "mean", "active": "active_fraction"}
    figures = {key: store.read_layer(layer.name, name) for key, name in names.items()}
    box = store.read_layer(layer.name, "box")
    found = []
    for f in range(layer.filters):
        there = np.nonzero(ranking.image[f] >= 0)[0]
        hits = zip(ranking.image[f, there], ranking.activation[f, there], box[f, there], strict=True)
        listed = [[int(image), site.number(activation), *corners.tolist()] for image, activation, corners in hits]
        found.append({**{key: site.number(values[f]) for key, values in figures.items()}, "hits": listed})
    return found


def _statistics(store: Store, layer: Layer) -> Iterator[dict[str, Any]]:
    """Give, filter by filter, its histogram from 0 to its maximum, quantiles, classes, and the filters it goes with."""
    names = ("histogram", "quantile", "class_entropy", "top_class", "top_class_count", "coactive", "correlation")
    arrays = (store.read_layer(layer.name, name) for name in names)
    for histogram, quantile, entropy, label, count, other, correlation in zip(*arrays, strict=True):
        yield {
            "histogram": histogram.tolist(),
            "quantiles": [site.number(value) for value in quantile],
            "entropy": site.number(entropy),
            "classes": [[int(one), int(of)] for one, of in zip(label, count, strict=True) if one >= 0],
            "together": [[int(one), site.number(of)] for one, of in zip(other, correlation, strict=True) if one >= 0],
        }


def _write(folder: Path, contents: Mapping[str, bytes]) -> None:
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
