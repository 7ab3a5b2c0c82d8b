"""Stage rank: the nine strongest images of every filter, and its maximum, mean and active fraction."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

import numpy as np

from pipeline.cluster import Pool
from pipeline.distinct import CANDIDATES, choose, describe, exclude
from pipeline.errors import InputError
from pipeline.layers import Layer
from pipeline.plan import Plan
from pipeline.ranking import RANKS, Figures, Ranking, Top, add_figures, figures, merge, running_top
from pipeline.store import Store
from pipeline.stream import ahead

from .progress import Progress

BLOCKS_A_TASK = 64
READ_BYTES = 2**23  # of activations that are read at once: larger reads cost zarr less, and wait in memory


@dataclass(frozen=True)
class Taken:
    """Hits that are ranked already, and which filters (filter) bool need more."""

    hits: Ranking
    unsettled: np.ndarray


def rank(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Rank every layer asked for whose ranking is not up to date."""
    store = Store.open(plan.config.store, write=True)
    stale = [layer for layer in plan.layers if store.fingerprint("rank", layer.name) != plan.rank_fingerprint(layer)]
    total = len(plan.layers) * store.blocks
    skipped = total - len(stale) * store.blocks
    yield Progress("rank", skipped, total, "blocks", skipped)
    for ranked, layer in enumerate(stale):
        missing = store.blocks - len(store.done_blocks(layer.name))
        if missing:
            raise InputError(
                f"{missing} of {store.blocks} blocks of layer {layer.name} are not mined: `topnine mine` first."
            )
        for done in rank_layer(plan, pool, store, layer):
            yield Progress("rank", skipped + ranked * store.blocks + done, total, "blocks", skipped)


def rank_layer(plan: Plan, pool: Pool, store: Store, layer: Layer) -> Iterator[int]:
    """Rank a layer and write it; give how many blocks were read.

    Where ``rank.distinct`` wants hits to differ, the blocks are read again for the filters whose candidates had too few
    that do, without all that shows the same as those taken: each time a filter gets at least one more.
    """
    distinct = plan.config.rank.distinct != "image"
    ranks = CANDIDATES if distinct else RANKS
    parts: dict[int, tuple[Top, Figures]] = {}
    for blocks, part in rank_parts(plan, pool, store, layer, ranks):
        parts[blocks.start] = part
        yield sum(min(BLOCKS_A_TASK, store.blocks - start) for start in parts)
    ranking = store.locate(layer.name, merge([found for found, _ in parts.values()], ranks))
    while distinct:
        chosen = choose(ranking, describe(store, plan.config, layer.field, *ranking.places()), plan.config)
        unsettled = (chosen.image[:, -1] < 0) & (ranking.image[:, -1] >= 0)
        if not unsettled.any():
            ranking = chosen
            break
        again = rank_parts(plan, pool, store, layer, ranks, Taken(chosen, unsettled))
        ranking = merge([chosen, store.locate(layer.name, merge([found for _, (found, _) in again], ranks))], ranks)
    in_order = [parts[start][1] for start in sorted(parts)]
    store.write_ranking(layer.name, ranking, add_figures(in_order), plan.rank_fingerprint(layer))


def rank_parts(
    plan: Plan, pool: Pool, store: Store, layer: Layer, ranks: int, taken: Taken | None = None
) -> Iterator[tuple[range, tuple[Top, Figures]]]:
    """Rank consecutive blocks in tasks; give them with what they gave, as they come."""
    starts = range(0, store.blocks, BLOCKS_A_TASK)
    groups = [range(first, min(first + BLOCKS_A_TASK, store.blocks)) for first in starts]
    for finished in pool.run(rank_blocks, groups, plan, layer, ranks, pool.threads, taken):
        if finished:
            yield finished


def rank_blocks(
    blocks: range, plan: Plan, layer: Layer, ranks: int, threads: int, taken: Taken | None
) -> tuple[Top, Figures]:
    """Rank some consecutive blocks (a task), read ahead; nothing that shows the same as a hit taken already."""
    store = Store.open(plan.config.store)
    at_once = 1 if taken else max(1, READ_BYTES // (4 * store.block * layer.filters))
    parts = []

    def read(first: int) -> list[tuple[int, np.ndarray, Figures]]:
        rows = slice(store.rows(first).start, store.rows(min(first + at_once, blocks.stop) - 1).stop)
        if taken is None:
            activation = store.read_activation(layer.name, rows)
        else:
            activation = read_distinct(store, plan, layer, rows, taken)
        by_block = (activation[start : start + store.block] for start in range(0, len(activation), store.block))
        return [(rows.start + i * store.block, block, figures(block)) for i, block in enumerate(by_block)]

    def runs() -> Iterator[tuple[int, np.ndarray]]:
        with closing(ahead(read, blocks[::at_once], threads, threads + 1)) as found:
            for first, activation, part in chain.from_iterable(found):
                parts.append(part)
                yield first, activation

    return running_top(runs(), ranks), add_figures(parts)


def read_distinct(store: Store, plan: Plan, layer: Layer, rows: slice, taken: Taken) -> np.ndarray:
    """Read activations (image, filter), NaN where a filter needs no more, or they show the same as a hit of its."""
    activation, row, column = store.read_mined(layer.name, rows)
    image = np.arange(rows.start, rows.stop)[:, None]
    traits, theirs = (
        describe(store, plan.config, layer.field, *places) for places in ((image, row, column), taken.hits.places())
    )
    distinct = exclude(activation, traits, taken.hits, theirs, plan.config)
    return np.where(taken.unsettled, distinct, np.float32(np.nan))
