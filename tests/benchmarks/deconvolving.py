"""Projecting every filter's nine activations, against captum unit by unit and against torch's passes alone.

The images are decoded already, and the rankings are read.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tests.benchmarks import peers
from tests.benchmarks.measure import Row, at_least, in_turn
from tests.benchmarks.mining import mined, planned, ranked
from tests.conftest import normalised
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.compute.projections import (
    FILTERS_A_TASK,
    Projected,
    Projections,
    ProjectionSettings,
    Projector,
    project_hits,
    ranked_images,
)
from topnine.pipeline.data.fetching import ImageRecord
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.taps import read_taps
from topnine.pipeline.plan import Plan
from topnine.pipeline.prefetch import map_ahead
from topnine.pipeline.ranking.topk import Ranking
from topnine.pipeline.store.store import Store
from topnine.stages.settings import projection_settings
from topnine.stages.work import PatchReader, groups

TARGETS = {"conv5": 2.5, "conv3": 12.0, "conv2": 30.0, "conv1": 100.0}
BARE_TARGETS = {"conv5": 0.9, "conv3": 0.9}
UNITS = 48  # that captum projects; its time is the same for each
BARE_TASKS = 4  # of a layer, that are compared with bare passes


@dataclass(frozen=True)
class Task:
    """Some filters of a layer: the first one's number, their hits, and the images of these (y, x, channel) uint8."""

    first_filter: int
    ranking: Ranking
    records: list[ImageRecord]
    images: list[np.ndarray]

    @property
    def hits(self) -> int:
        """The number of units that are projected."""
        return int((self.ranking.image >= 0).sum())


def deconvolve_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare projecting the filters of a layer with captum, per unit, and with torch's passes alone."""
    plan = planned(folder, data, mine__layers="all")
    pixels = mined_pixels(plan)
    for layer in plan.layers:
        tasks, settings = read_tasks(plan, layer, pixels), projection_settings(plan, layer, count_cores())
        if layer.name in TARGETS:
            yield captum_row(plan, layer, pixels, tasks, settings, rounds)
        if layer.name in BARE_TARGETS:
            ratio, detail = compare_with_bare(tasks[:: -(-len(tasks) // BARE_TASKS)], settings, rounds)
            name = f"deconvolve {layer.name}, against a bare forward and backward of the same batches"
            yield at_least(name, ratio, BARE_TARGETS[layer.name], detail)


def mined_pixels(plan: Plan) -> np.ndarray:
    """Mine and rank the layers of a plan; return the pixels (image, y, x, channel) uint8 of all images."""
    mined(plan)
    ranked(plan)
    store = Store.open(plan.config.store)
    return PatchReader(store, plan.images, count_cores()).read_pixels(np.arange(len(store.images)))


def read_tasks(plan: Plan, layer: Layer, pixels: np.ndarray) -> list[Task]:
    """Return the tasks of projecting a layer, of images that are decoded."""
    store = Store.open(plan.config.store).layer(layer.name)
    tasks = []
    for filters in groups(layer.filters, FILTERS_A_TASK):
        ranking = store.read_ranking(slice(filters.start, filters.stop))
        images = ranked_images(ranking).tolist()
        records = [ImageRecord(0, image, 0, str(image), "") for image in images]
        tasks.append(Task(filters.start, ranking, records, [pixels[image] for image in images]))
    return tasks


def project_all(tasks: list[Task], settings: ProjectionSettings) -> list[Projections]:
    """Return the projections of tasks, one after the other."""
    results = []
    for task in tasks:
        result = project_hits(task.ranking, task.first_filter, task.records, task.images, settings, lambda: False)
        assert result is not None
        results.append(result)
    return results


def captum_row(
    plan: Plan, layer: Layer, pixels: np.ndarray, tasks: list[Task], settings: ProjectionSettings, rounds: int
) -> Row:
    """Compare the projection of one layer with captum's."""
    hits = np.argwhere(Store.open(plan.config.store).layer(layer.name).read_ranking().image >= 0)
    some = hits[np.random.default_rng(0).permutation(len(hits))[:UNITS]]
    ways = {"ours": partial(project_all, tasks, settings), "captum": partial(captum_some, plan, layer, pixels, some)}
    took = in_turn(ways, rounds)
    check(captum_some(plan, layer, pixels, some), project_all(tasks, settings), some, layer)
    ours, theirs = took["ours"] / len(hits), took["captum"] / len(some)
    detail = f"{ours * 1e3:.2f} ms a unit, {len(hits):,} units; captum {theirs * 1e3:.1f} ms"
    return at_least(
        f"deconvolve {layer.name}, all filters, against captum unit by unit", theirs / ours, TARGETS[layer.name], detail
    )


def captum_some(plan: Plan, layer: Layer, pixels: np.ndarray, hits: np.ndarray) -> list[np.ndarray]:
    """Return captum's projections (y, x, rgb) of some hits (hit, [filter, rank]), in the units of ours."""
    from captum.attr import NeuronDeconvolution

    torch.set_num_threads(count_cores())
    module = peers.module(plan)
    ranking = Store.open(plan.config.store).layer(layer.name).read_ranking()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captum = NeuronDeconvolution(module, module.get_submodule(peers.AFTER[layer.name]))
        projections = []
        for f, r in hits:
            image = normalised(torch.from_numpy(pixels[ranking.image[f, r]][None]), plan.network.architecture)
            unit = int(f), int(ranking.row[f, r]), int(ranking.column[f, r])
            projection = captum.attribute(image, unit)[0] * float(ranking.activation[f, r])
            projections.append(projection.permute(1, 2, 0).detach().numpy())
    return projections


def check(theirs: list[np.ndarray], results: list[Projections], hits: np.ndarray, layer: Layer) -> None:
    """Check that captum's projections of some hits are ours."""
    ours, boxes = (np.concatenate([getattr(result, name) for result in results]) for name in ("projection", "box"))
    for (f, r), whole in zip(hits, theirs, strict=True):
        top, left, bottom, right = boxes[f, r]
        if np.abs(whole[top:bottom, left:right] - ours[f, r]).max() > 1e-3 * np.abs(ours[f, r]).max():
            raise SystemExit(f"captum projects filter {f} of {layer.name}, rank {r}, otherwise")


def compare_with_bare(tasks: list[Task], settings: ProjectionSettings, rounds: int) -> tuple[float, str]:
    """Return how fast tasks are projected beside torch's passes alone on batches of the same shapes, and a detail.

    On a CPU the passes run side by side, a batch a core, as ours do, and once more one after the other on all cores;
    the faster way counts. On a GPU one thread starts one after the other and waits for the last.
    """
    shapes, units = batch_shapes(tasks, settings), sum(task.hits for task in tasks)
    ways = {"ours": partial(project_all, tasks, settings), "bare": partial(pass_batches, shapes, settings)}
    if open_device(settings.device).name == "cpu":
        ways["together"] = partial(pass_together, shapes, settings)
    took = {way: seconds / units * 1e3 for way, seconds in in_turn(ways, rounds).items()}
    ours = took.pop("ours")
    bare = f"bare {took['bare']:.3f}"
    if "together" in took:
        bare += f" with a batch a core, {took['together']:.3f} with all cores on one"
    return min(took.values()) / ours, f"{ours:.3f} ms a unit, {bare}; {units:,} units in {len(shapes)} batches"


def batch_shapes(tasks: list[Task], settings: ProjectionSettings) -> list[tuple[int, int, int, int]]:
    """Return the shapes (hit, channel, y, x) of the batches that tasks are projected in."""
    shapes = []
    project = Projector.project

    def noting(projector: Projector, images: list[np.ndarray], crops: np.ndarray, *others: np.ndarray) -> Projected:
        top, left, bottom, right = crops[0].tolist()
        shapes.append((len(crops), images[0].shape[2], bottom - top, right - left))
        return project(projector, images, crops, *others)

    with mock.patch.object(Projector, "project", noting):
        project_all(tasks, settings)
    return shapes


def pass_batches(shapes: list[tuple[int, int, int, int]], settings: ProjectionSettings) -> None:
    """Pass batches forward to the layer, and the sum of its maps back to the pixels: as ``compare_with_bare`` says."""
    device = open_device(settings.device)
    at_once = device.backwards(count_cores()) if device.name == "cpu" else 1
    with device.deterministic():
        for _ in map_ahead(partial(pass_batch, settings), shapes, at_once, 2 * at_once):
            pass
    synchronise(device.name)


def pass_together(shapes: list[tuple[int, int, int, int]], settings: ProjectionSettings) -> None:
    """Pass batches forward and back, one after the other, each on all cores."""
    torch.set_num_threads(count_cores())
    for shape in shapes:
        pass_batch(settings, shape)


def pass_batch(settings: ProjectionSettings, shape: tuple[int, int, int, int]) -> None:
    """Pass a batch of a shape forward and back."""
    device, layer = open_device(settings.device), settings.layer
    module = device.place(load_network(settings.network, settings.digest).module)
    leaf = torch.rand(shape, device=device.name, requires_grad=True)
    maps = read_taps(module, leaf.clone(), {"layer": layer.tap}, lambda maps: maps)["layer"]
    torch.autograd.grad(maps.sum(), leaf)


def synchronise(device: str) -> None:
    """Wait for a device."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
