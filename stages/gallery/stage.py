"""Stage gallery: a static site of every layer of a run, to be opened from disk or copied to any web server."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.drawing.clearest import chapter
from topnine.pipeline.drawing.sprites import data_script
from topnine.pipeline.errors import InputError
from topnine.pipeline.fingerprints import Fingerprints
from topnine.pipeline.network.graph import Graph
from topnine.pipeline.network.layers import Layer, find_layers
from topnine.pipeline.network.loading import Network
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.changes import check_touched_shards
from topnine.stages.gallery.data import (
    choose_clearest_filters,
    layer_data,
    run_data,
    subjects_data,
    summarise_layer,
)
from topnine.stages.gallery.pictures import (
    FILTERS_A_SHEET,
    Drawing,
    DrawTask,
    ThumbnailTask,
    draw_filters,
    draw_thumbnails,
    draw_weights,
)
from topnine.stages.progress import Progress
from topnine.stages.work import PatchReader, ShardFinder, groups, is_current

IMAGES_A_TASK = 64


@dataclass(frozen=True)
class ShownLayers:
    """The layers that a gallery shows, the names of the others, and the depth of the deepest numbered one."""

    layers: tuple[Layer, ...]
    left_out: tuple[str, ...]
    deepest: int


@dataclass(frozen=True)
class Site:
    """What the pages of all layers are made from.

    Attributes
    ----------
    folder : Path
        That is being written.
    store : Store
    patches : PatchReader
    network : Network
    deepest : int
        The depth of the deepest numbered layer.
    """

    folder: Path
    store: Store
    patches: PatchReader
    network: Network
    deepest: int


def gallery(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Write the site to ``gallery/`` in the run's folder; always done again.

    It shows every layer of the store that is deconvolved with the plan's settings, asked for or not. The old site stays
    until the new one is complete.

    Raises
    ------
    InputError
        No layer is.
    """
    store = Store.open(plan.config.store)
    shown = find_shown(store, plan.graph, plan.network.architecture.layers, plan.fingerprints)
    images = list_shown_images(store, shown.layers) if plan.config.gallery.thumbnails else np.empty(0, np.int64)
    progress = Progress("gallery", 0, sum(layer.filters for layer in shown.layers) + len(images), "pictures")
    yield progress
    check_touched_shards(plan.dataset, store, pool)
    folder, building = plan.folder / "gallery", plan.folder / "gallery.new"
    shutil.rmtree(building, ignore_errors=True)
    shutil.copytree(str(files(__package__) / "site"), building)
    site = Site(building, store, PatchReader(store, plan.images, pool.threads), plan.network, shown.deepest)
    summaries: list[dict[str, Any]] = []
    for layer in shown.layers:
        task, drawings = DrawTask.of(plan.config, layer, pool.threads), dict[int, Drawing]()
        for filters, drawing in pool.run(draw_filters, groups(layer.filters, FILTERS_A_SHEET), task):
            drawings[filters.start] = drawing
            write_files(building / folder_name(layer), drawing.files)
            progress = progress.plus(len(filters))
            yield progress
        clearest = choose_clearest_filters(store.layer(layer.name), [drawings[first] for first in sorted(drawings)])
        script = layer_data(store, layer, is_current(store, plan.fingerprints, "statistics", layer))
        summaries.append(write_layer(site, layer, task, script, clearest))
    thumbnail_task = ThumbnailTask(plan.config.store, plan.images, plan.config.tile.bands, pool.threads)
    finder = ShardFinder.read(store, plan.images)
    for drawn in write_thumbnails(pool, thumbnail_task, finder, images, building / "images"):
        progress = progress.plus(drawn)
        yield progress
    names = [layer.name for layer in shown.layers]
    current = [is_current(store, plan.fingerprints, "statistics", layer) for layer in shown.layers]
    run = run_data(plan.config, store, summaries, shown.left_out)
    subjects = subjects_data(store, names, current)
    scripts = {"run": data_script("", run), "subjects": data_script("/subjects", subjects)}
    write_files(building, {f"layers/{name}.js": script.encode() for name, script in scripts.items()})
    shutil.rmtree(folder, ignore_errors=True)
    building.replace(folder)


def find_shown(store: Store, graph: Graph, numbered: Mapping[str, str], fingerprints: Fingerprints) -> ShownLayers:
    """Find the layers of the store that are deconvolved with the run's settings; InputError if none is."""
    layers: list[Layer] = []
    left_out: list[str] = []
    for name in store.layers:
        found = find_layers(graph, numbered, name) if name in {**numbered, **graph.outputs} else []
        known = [layer.restored(store.layer(name).attributes) for layer in found]
        current = [layer for layer in known if is_current(store, fingerprints, "deconvolve", layer)]
        layers += current
        left_out += [] if current else [name]
    if not layers:
        raise InputError(
            f"no layer of store {store.path} is deconvolved with these settings: `topnine deconvolve` first."
        )
    depths = [graph.outputs[module] for module in numbered.values() if module in graph.outputs]
    depths = depths or [layer.tap.operation for layer in layers]
    return ShownLayers(tuple(layers), tuple(left_out), max(1, *depths))


def list_shown_images(store: Store, layers: Iterable[Layer]) -> np.ndarray:
    """List the ids of the images among the nine of any filter."""
    images = np.unique(np.concatenate([store.layer(layer.name).read_ranking().image.ravel() for layer in layers]))
    return images[images >= 0]


def folder_name(layer: Layer) -> str:
    """Return the folder of a layer's pictures in the site, and with ``.js`` its data: safe in file systems and URLs.

    Depth makes it unique among the layers.
    """
    return f"layers/{layer.tap.operation:03d}-{re.sub(r'[^A-Za-z0-9._-]', '-', layer.name)[:60]}"


def write_layer(
    site: Site, layer: Layer, task: DrawTask, script: dict[str, Any], clearest: list[int]
) -> dict[str, Any]:
    """Write a layer's data and its weights' pictures; return its summary for the front page."""
    write_files(site.folder, {f"{folder_name(layer)}.js": data_script(layer.name, script).encode()})
    weights = draw_weights(site.network, site.patches, layer, clearest, task)
    if weights is not None:
        write_files(site.folder / folder_name(layer), weights.files)
    return {
        **summarise_layer(task, layer, script, clearest),
        "folder": folder_name(layer),
        "chapter": chapter(layer.tap.operation, site.deepest),
        "pixels": weights and weights.description,
    }


def write_thumbnails(
    pool: Pool, task: ThumbnailTask, finder: ShardFinder, images: np.ndarray, folder: Path
) -> Iterator[int]:
    """Write the images whole; yield how many were drawn."""
    portions = [images[group.start : group.stop].tolist() for group in groups(len(images), IMAGES_A_TASK)]

    def narrow(numbers: list[int], task: ThumbnailTask) -> tuple[ThumbnailTask]:
        """Return the task of some images, with their shards alone."""
        return (replace(task, images=finder.select(numbers)),)

    for numbers, thumbnails in pool.run(draw_thumbnails, portions, task, narrow=narrow):
        write_files(folder, {f"{i}.webp": data for i, data in zip(numbers, thumbnails, strict=True)})
        yield len(numbers)


def write_files(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files by their paths in a folder, which is made where it is not there."""
    for name, data in contents.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
