"""Stage deconvolve: the patch and the projection of each of a filter's nine strongest activations."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.layers import Layer
from pipeline.patches import window_size
from pipeline.plan import Plan
from pipeline.projections import FILTERS_A_TASK, make_patches
from pipeline.store import Store

from .progress import Progress


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
    """Make and write the patches and projections of some filters (a task)."""
    made = make_patches(filters, plan, layer, threads)
    if made is not None:
        store = Store.open(plan.config.store, write=True)
        store.write_patches(layer.name, slice(filters.start, filters.stop), *made)
