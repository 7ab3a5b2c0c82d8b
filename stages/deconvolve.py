"""Stage deconvolve: the patch and the projection of each of a filter's nine strongest activations."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from pipeline import cluster
from pipeline.cluster import Pool
from pipeline.deconvnet import project
from pipeline.device import repeatable
from pipeline.errors import InputError, WorkError
from pipeline.layers import Layer
from pipeline.patches import crops, cut, read_images, window_size, windows
from pipeline.plan import Plan
from pipeline.store import Ranking, Store

from .progress import Progress

FILTERS_A_TASK = 16

# How far the activation computed anew may be from the recorded one, as a fraction of the filter's strongest.
TOLERANCE = {"float32": 1e-4, "bfloat16": 0.1}


def deconvolve(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Project every layer asked for whose projections are not up to date."""
    store = Store.open(plan.config.store, write=True)
    stale = [
        layer
        for layer in plan.layers
        if store.fingerprint("deconvolve", layer.name) != plan.deconvolve_fingerprint(layer)
    ]
    total = sum(layer.filters for layer in plan.layers)
    skipped = done = total - sum(layer.filters for layer in stale)
    yield Progress("deconvolve", done, total, "filters", skipped)
    for layer in stale:
        if store.fingerprint("rank", layer.name) != plan.rank_fingerprint(layer):
            raise InputError(f"layer {layer.name} is not ranked: `topnine rank` first.")
        store.create_patches(layer.name, *window_size(layer.field, plan.config.decode.crop))
        groups = [range(f, min(f + FILTERS_A_TASK, layer.filters)) for f in range(0, layer.filters, FILTERS_A_TASK)]
        for finished in pool.run(deconvolve_filters, groups, plan, layer, pool.threads):
            if finished:
                done += len(finished[0])
                yield Progress("deconvolve", done, total, "filters", skipped)
        store.set_fingerprint("deconvolve", plan.deconvolve_fingerprint(layer), layer.name)


def deconvolve_filters(filters: range, plan: Plan, layer: Layer, threads: int) -> None:
    """Cut the patches and make the projections of some filters (a task)."""
    store = Store.open(plan.config.store, write=True)
    crop = plan.config.decode.crop
    rows = slice(filters.start, filters.stop)
    ranking = store.read_ranking(layer.name, rows)
    shape = (*ranking.image.shape, *window_size(layer.field, crop), 3)
    patch, projection = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    box = np.full((*ranking.image.shape, 4), -1, np.int32)
    filled = np.nonzero(ranking.image >= 0)
    images = np.unique(ranking.image[filled])
    source = read_images(store, plan.dataset, images, plan.config, threads)
    box[filled] = windows(layer.field, ranking.row[filled], ranking.column[filled], crop)
    parts = crops(layer.field, ranking.row[filled], ranking.column[filled], crop)
    for batch in batches_of_one_shape(parts, plan.config.deconvolve.batch * crop**2):
        if cluster.stopping.is_set():
            return
        at = filled[0][batch], filled[1][batch]
        pixels = source[np.searchsorted(images, ranking.image[at])]
        with repeatable(threads):
            activation, projected = project_parts(plan, layer, pixels, parts[batch], at[0] + filters.start, ranking, at)
        check_recomputed(plan, store, layer, filters.start, ranking, at, activation)
        patch[at] = cut(pixels, box[at])
        projection[at] = cut(projected, box[at] - np.tile(parts[batch, :2], 2))
    store.write_patches(layer.name, rows, patch, projection, box)


def batches_of_one_shape(boxes: np.ndarray, pixels: int) -> Iterator[np.ndarray]:
    """Divide boxes (hit, corner) into batches of one shape, of at most so many pixels; give their indices."""
    sizes = boxes[:, 2:] - boxes[:, :2]
    for height, width in np.unique(sizes, axis=0):
        alike = np.nonzero((sizes == (height, width)).all(axis=1))[0]
        batch = max(1, pixels // (height * width))
        yield from (alike[start : start + batch] for start in range(0, len(alike), batch))


def project_parts(
    plan: Plan,
    layer: Layer,
    images: np.ndarray,
    parts: np.ndarray,
    filters: np.ndarray,
    ranking: Ranking,
    at: tuple[np.ndarray, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Give activations (hit) and projections (hit, y, x, rgb) within parts (hit, corner) of images (hit, y, x, rgb)."""
    network = plan.network()
    pixels = network.architecture.normalise(torch.from_numpy(cut(images, parts)).to(plan.device))
    row = ranking.row[at] - parts[:, 0] // max(1, layer.field.y.stride)
    column = ranking.column[at] - parts[:, 1] // max(1, layer.field.x.stride)
    f, y, x = torch.from_numpy(np.stack([filters, row, column]).astype(np.int64)).to(plan.device)
    activation, projection = project(network.module, layer.tap, pixels, f, y, x, plan.rules())
    return activation.cpu().numpy(), projection.permute(0, 2, 3, 1).cpu().numpy()


def check_recomputed(
    plan: Plan,
    store: Store,
    layer: Layer,
    first: int,
    ranking: Ranking,
    at: tuple[np.ndarray, ...],
    activation: np.ndarray,
) -> None:
    """Compare activations (hit) computed anew with the recorded ones at (filter, rank); WorkError if one differs."""
    recorded, strongest = ranking.activation[at], ranking.activation[at[0], 0]
    wrong = np.nonzero(~(np.abs(activation - recorded) <= TOLERANCE[plan.config.mine.precision] * strongest))[0]
    if len(wrong):
        i = wrong[0]
        (key,) = store.image_columns(["key"], ranking.image[at][i : i + 1])[0]
        raise WorkError(
            f"image {key}, layer {layer.name}, filter {first + at[0][i]}: the activation is now {activation[i]:.6g}, "
            f"mine recorded {recorded[i]:.6g}. The images, the weights or the versions of torch and Pillow have "
            "changed since: mine into another STORE."
        )
