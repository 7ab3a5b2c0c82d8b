"""Stage deconvolve: the patch and the projection of each of a filter's nine strongest activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from topnine.pipeline.cluster.pool import Pool, abandoned
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.compute.projections import FILTERS_A_TASK, ProjectionSettings, projection_cost
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Access, Store
from topnine.stages.changes import check_touched_shards
from topnine.stages.progress import Progress
from topnine.stages.settings import projection_settings
from topnine.stages.work import Preview, ShardFinder, check_ranked, find_stale, groups, project_filters


@dataclass(frozen=True)
class DeconvolveTask:
    """What every task of deconvolving is handed beside its filters: the store, and how it projects."""

    store: Access
    settings: ProjectionSettings

    def with_images(self, images: ImageSource) -> DeconvolveTask:
        """Return the task with other images, or other shards of them."""
        return replace(self, settings=replace(self.settings, images=images))


def deconvolve(plan: Plan, pool: Pool, store: Store, preview: Preview | None = None) -> Iterator[Progress]:
    """Project every layer asked for whose projections are not up to date.

    Parameters
    ----------
    preview : Preview, optional
        What is shown first. All filters are projected after it, these too: what a batch holds moves the last bits of
        a projection, and the store is the same with a preview and without.
    """
    stale = find_stale(store, plan.fingerprints, "deconvolve", plan.layers)
    total, left = (sum(layer.filters for layer in layers) for layers in (plan.layers, stale))
    if stale:
        check_touched_shards(plan.dataset, store, pool)
    for layer in stale:
        check_ranked(store, plan.fingerprints, layer)
        store.layer(layer.name).create_patches(
            *patch_size(layer.field, plan.preparation.size), plan.preparation.channels
        )
    if preview and stale:
        yield from show_first(plan, pool, store, stale, preview)
    costs = {layer.name: projection_cost(layer, plan.preparation.size) for layer in stale}
    progress = Progress.begin(
        "deconvolve", "filters", total, left, sum(layer.filters * costs[layer.name] for layer in stale)
    )
    yield progress
    for layer in stale:
        for filters in project(plan, pool, store, layer, groups(layer.filters, FILTERS_A_TASK)):
            progress = progress.plus(len(filters), len(filters) * costs[layer.name])
            yield progress
        store.layer(layer.name).set_fingerprint("deconvolve", plan.fingerprints.of("deconvolve", layer))


def show_first(plan: Plan, pool: Pool, store: Store, layers: Sequence[Layer], preview: Preview) -> Iterator[Progress]:
    """Project the filters that sheets show, and draw these."""
    first = [(layer, numbers) for layer in layers if 0 < len(numbers := preview.filters(store, layer)) < layer.filters]
    progress = Progress("first sheets", 0, sum(len(numbers) for _, numbers in first), "filters")
    for layer, numbers in first:
        for filters in project(plan, pool, store, layer, [range(number, number + 1) for number in numbers]):
            progress = progress.plus(len(filters))
            yield progress
        yield replace(
            progress, note=f"first picture, while the other filters are projected: {preview.draw(store, layer)}"
        )


def project(plan: Plan, pool: Pool, store: Store, layer: Layer, filters: Sequence[range]) -> Iterator[range]:
    """Project some filters of a layer, and write what that gives; yield those that are done."""
    task = DeconvolveTask(store.access, projection_settings(plan, layer, pool.threads))
    top_image = store.layer(layer.name).read("top_image")
    narrow = partial(select_shards, ShardFinder.read(store, plan.images), top_image)
    for done, _ in pool.run(deconvolve_filters, filters, task, narrow=narrow):
        yield done


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
        store.layer(task.settings.layer.name).write_patches(slice(filters.start, filters.stop), arrays)
