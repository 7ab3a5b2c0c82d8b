"""Projecting every filter's nine activations, against captum unit by unit, on images that are decoded already."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from pipeline import projections
from pipeline.device import cores
from pipeline.layers import Layer
from pipeline.patches import read_images
from pipeline.plan import Plan
from pipeline.projections import FILTERS_A_TASK, make_patches
from pipeline.store import Store
from tests.benchmarks import peers
from tests.benchmarks.measure import Row, at_least, in_turn
from tests.benchmarks.mining import mined, planned, ranked

TARGETS = {"conv5": 2.5, "conv3": 12.0, "conv2": 30.0, "conv1": 100.0}
UNITS = 48  # that captum projects; its time is the same for each


def deconvolve_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare the projection of all filters of a layer with captum's of some, per unit."""
    plan = planned(folder, data, mine__layers="all")
    mined(plan)
    ranked(plan)
    store = Store.open(plan.config.store)
    pixels = read_images(store, plan.dataset, np.arange(store.images), plan.config, cores())
    for layer in plan.layers:
        if layer.name in TARGETS:
            yield deconvolve_row(plan, layer, pixels, rounds)


def deconvolve_row(plan: Plan, layer: Layer, pixels: np.ndarray, rounds: int) -> Row:
    """Compare the projection of one layer."""
    ranking = Store.open(plan.config.store).read_ranking(layer.name)
    hits = np.argwhere(ranking.image >= 0)
    some = hits[np.random.default_rng(0).permutation(len(hits))[:UNITS]]

    def decoded(store: Store, dataset: object, images: np.ndarray, *_: object) -> np.ndarray:
        return pixels[images]

    with mock.patch.object(projections, "read_images", decoded):
        ways = {"ours": partial(project_all, plan, layer), "captum": partial(captum_some, plan, layer, pixels, some)}
        took = in_turn(ways, rounds)
        check(plan, layer, pixels, some)
    ours, theirs = took["ours"] / len(hits), took["captum"] / len(some)
    detail = f"{ours * 1e3:.2f} ms a unit, {len(hits):,} units; captum {theirs * 1e3:.1f} ms"
    return at_least(
        f"deconvolve {layer.name}, all filters, against captum unit by unit", theirs / ours, TARGETS[layer.name], detail
    )


def project_all(plan: Plan, layer: Layer) -> list[np.ndarray]:
    """Give the projections of all filters of a layer."""
    groups = (range(f, min(f + FILTERS_A_TASK, layer.filters)) for f in range(0, layer.filters, FILTERS_A_TASK))
    return [made[1] for group in groups if (made := make_patches(group, plan, layer, cores()))]


def captum_some(plan: Plan, layer: Layer, pixels: np.ndarray, hits: np.ndarray) -> list[np.ndarray]:
    """Give captum's projections (y, x, rgb) of some hits (hit, [filter, rank]), in the units of ours."""
    from captum.attr import NeuronDeconvolution

    torch.set_num_threads(cores())
    module = peers.module(plan)
    ranking = Store.open(plan.config.store).read_ranking(layer.name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        captum = NeuronDeconvolution(module, module.get_submodule(peers.AFTER[layer.name]))
        found = []
        for f, r in hits:
            image = plan.network().architecture.normalise(torch.from_numpy(pixels[ranking.image[f, r]][None]))
            unit = int(f), int(ranking.row[f, r]), int(ranking.column[f, r])
            projection = captum.attribute(image, unit)[0] * float(ranking.activation[f, r])
            found.append(projection.permute(1, 2, 0).detach().numpy())
    return found


def check(plan: Plan, layer: Layer, pixels: np.ndarray, hits: np.ndarray) -> None:
    """Check that captum's projections are ours."""
    store = Store.open(plan.config.store)
    ours = np.concatenate(project_all(plan, layer))
    groups = (range(f, min(f + FILTERS_A_TASK, layer.filters)) for f in range(0, layer.filters, FILTERS_A_TASK))
    boxes = np.concatenate([make_patches(group, plan, layer, cores())[2] for group in groups])
    for (f, r), theirs in zip(hits, captum_some(plan, layer, pixels, hits), strict=True):
        top, left, bottom, right = boxes[f, r]
        if np.abs(theirs[top:bottom, left:right] - ours[f, r]).max() > 1e-3 * np.abs(ours[f, r]).max():
            raise SystemExit(f"captum projects filter {f} of {layer.name}, rank {r}, otherwise ({store.path})")
