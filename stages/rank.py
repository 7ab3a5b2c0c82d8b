"""Stage rank: the nine strongest images of every filter, and its maximum, mean and active fraction."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.plan import Plan
from pipeline.ranking import Figures, Top, add_figures, figures, merge, top
from pipeline.store import Store

from .progress import Progress

BLOCKS_A_TASK = 16


def rank(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Rank every layer asked for whose ranking is not up to date."""
    store = Store.open(plan.config.store, write=True)
    stale = [layer for layer in plan.layers if store.fingerprint("rank", layer.name) != plan.rank_fingerprint(layer)]
    groups = [range(first, min(first + BLOCKS_A_TASK, store.blocks)) for first in range(0, store.blocks, BLOCKS_A_TASK)]
    total, done = len(plan.layers) * store.blocks, (len(plan.layers) - len(stale)) * store.blocks
    skipped = done
    yield Progress("rank", done, total, "blocks", skipped)
    for layer in stale:
        missing = store.blocks - len(store.done_blocks(layer.name))
        if missing:
            raise InputError(
                f"{missing} of {store.blocks} blocks of layer {layer.name} are not mined: `topnine mine` first."
            )
        parts: dict[int, tuple[Top, Figures]] = {}
        for finished in pool.run(rank_blocks, groups, plan.config.store, layer.name):
            if finished:
                blocks, parts[finished[0][0]] = finished
                done += len(blocks)
                yield Progress("rank", done, total, "blocks", skipped)
        in_order = [parts[first] for first in sorted(parts)]
        ranking = store.locate(layer.name, merge([part for part, _ in in_order]))
        store.write_ranking(
            layer.name, ranking, add_figures([part for _, part in in_order]), plan.rank_fingerprint(layer)
        )


def rank_blocks(blocks: range, path: str, layer: str) -> tuple[Top, Figures]:
    """Rank some consecutive blocks (a task), one at a time."""
    store = Store.open(path)
    tops, parts = [], []
    for block in blocks:
        activation = store.read_activation(layer, store.rows(block))
        tops.append(top(activation, store.rows(block).start))
        parts.append(figures(activation))
    return merge(tops), add_figures(parts)
