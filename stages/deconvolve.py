"""Stage deconvolve: the patch and the projection of each of a filter's nine strongest activations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from topnine.pipeline.cluster.pool import Pool, abandoned
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.compute.projections import FILTERS_A_TASK, ProjectionSettings
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Access, Store
from topnine.stages.changes import check_touched_shards
from topnine.stages.progress import Progress
from topnine.stages.settings import projection_settings
from topnine.stages.work import ShardFinder, check_ranked, find_stale, groups, project_filters


@dataclass(frozen=True)
class DeconvolveTask:
    """What every task of deconvolving is handed beside its filters: the store, and how it projects."""

    store: Access
    settings: ProjectionSettings

    def with_images(self, images: ImageSource) -> DeconvolveTask:
        """Return the task with other images, or other shards of them."""
        return replace(self, settings=replace(self.settings, images=images))


def deconvolve(plan: Plan, pool: Pool, store: Store) -> Iterator[Progress]:
    """Project every layer asked for whose projections are not up to date."""
    stale = find_stale(store, plan.fingerprints, "deconvolve", plan.layers)
    total, left = (sum(layer.filters for layer in layers) for layers in (plan.layers, stale))
    progress = Progress.begin("deconvolve", "filters", total, left)
    yield progress
    if stale:
        check_touched_shards(plan.dataset, store, pool)
    for layer in stale:
        check_ranked(store, plan.fingerprints, layer)
        arrays = store.layer(layer.name)
        arrays.create_patches(*patch_size(layer.field, plan.config.decode.crop))
        task = DeconvolveTask(store.access, projection_settings(plan, layer, pool.threads))
        narrow = partial(select_shards, ShardFinder.read(store, plan.images), arrays.read("top_image"))
        for filters, _ in pool.run(deconvolve_filters, groups(layer.filters, FILTERS_A_TASK), task, narrow=narrow):
            progress = progress.plus(len(filters))
            yield progress
        arrays.set_fingerprint("deconvolve", plan.fingerprints.of("deconvolve", layer))


def select_shards(
    finder: ShardFinder, top_image: np.ndarray, filters: range, task: DeconvolveTask
) -> tuple[DeconvolveTask]:
    """Return the task of some filters: with the shards of their hits alone. ``top_image`` is (filter, rank)."""
    images = top_image[filters.start : filters.stop]
    return (task.with_images(finder.select(images[images >= 0])),)


def deconvolve_filters(filters: range, task: DeconvolveTask) -> None:
    """Compute and write the patches and projections of some filters (a task)."""
    store = task.store.open()
    arrays = project_filters(filters, store, task.settings, abandoned)
    if arrays is not None:
        store.layer(task.settings.layer.name).write_patches(slice(filters.start, filters.stop), **arrays)
