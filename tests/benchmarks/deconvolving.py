"""Projecting every filter's nine activations, against captum unit by unit, on images that are decoded already."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tests.benchmarks import peers
from tests.benchmarks.measure import Row, at_least, in_turn
from tests.benchmarks.mining import mined, planned, ranked
from tests.conftest import normalised
from topnine.pipeline.compute.projections import FILTERS_A_TASK, Projections, make_projections, ranked_images
from topnine.pipeline.data.fetching import ImageRecord
from topnine.pipeline.data.images import ImageReader
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.settings import projection_settings
from topnine.stages.work import PatchReader, groups

TARGETS = {"conv5": 2.5, "conv3": 12.0, "conv2": 30.0, "conv1": 100.0}
UNITS = 48  # that captum projects; its time is the same for each


def deconvolve_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare the projection of all filters of a layer with captum's of some, per unit."""
    plan = planned(folder, data, mine__layers="all")
    mined(plan)
    ranked(plan)
    store = Store.open(plan.config.store)
    pixels = PatchReader(store, plan.images, count_cores()).read_pixels(np.arange(len(store.images)))
    for layer in plan.layers:
        if layer.name in TARGETS:
            yield deconvolve_row(plan, layer, pixels, rounds)


def deconvolve_row(plan: Plan, layer: Layer, pixels: np.ndarray, rounds: int) -> Row:
    """Compare the projection of one layer."""
    ranking = Store.open(plan.config.store).layer(layer.name).read_ranking()
    hits = np.argwhere(ranking.image >= 0)
    some = hits[np.random.default_rng(0).permutation(len(hits))[:UNITS]]

    def decoded(reader: ImageReader, records: list[ImageRecord], threads: int) -> np.ndarray:
        return pixels[[record.offset for record in records]]

    with mock.patch.object(ImageReader, "read_pixels", decoded):
        ways = {"ours": partial(project_all, plan, layer), "captum": partial(captum_some, plan, layer, pixels, some)}
        took = in_turn(ways, rounds)
        check(plan, layer, pixels, some)
    ours, theirs = took["ours"] / len(hits), took["captum"] / len(some)
    detail = f"{ours * 1e3:.2f} ms a unit, {len(hits):,} units; captum {theirs * 1e3:.1f} ms"
    return at_least(
        f"deconvolve {layer.name}, all filters, against captum unit by unit", theirs / ours, TARGETS[layer.name], detail
    )


def project_all(plan: Plan, layer: Layer) -> list[Projections]:
    """Return the projections of all filters of a layer, task by task."""
    store = Store.open(plan.config.store).layer(layer.name)
    settings = projection_settings(plan, layer, count_cores())
    results = []
    for filters in groups(layer.filters, FILTERS_A_TASK):
        ranking = store.read_ranking(slice(filters.start, filters.stop))
        records = [ImageRecord(0, image, 0, str(image), "") for image in ranked_images(ranking).tolist()]
        result = make_projections(ranking, filters.start, records, settings, should_stop=lambda: False)
        assert result is not None
        results.append(result)
    return results


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


def check(plan: Plan, layer: Layer, pixels: np.ndarray, hits: np.ndarray) -> None:
    """Check that captum's projections are ours."""
    store = Store.open(plan.config.store)
    results = project_all(plan, layer)
    ours, boxes = (np.concatenate([getattr(result, name) for result in results]) for name in ("projection", "box"))
    for (f, r), theirs in zip(hits, captum_some(plan, layer, pixels, hits), strict=True):
        top, left, bottom, right = boxes[f, r]
        if np.abs(theirs[top:bottom, left:right] - ours[f, r]).max() > 1e-3 * np.abs(ours[f, r]).max():
            raise SystemExit(f"captum projects filter {f} of {layer.name}, rank {r}, otherwise ({store.path})")
