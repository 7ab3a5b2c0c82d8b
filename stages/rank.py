"""Stage rank: the nine strongest images of every filter, and its maximum, mean and active fraction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.compute.traits import TRAIT_COLUMNS, HitDescriber
from topnine.pipeline.errors import InputError
from topnine.pipeline.fingerprints import Fingerprint
from topnine.pipeline.prefetch import map_ahead
from topnine.pipeline.ranking.distinct import CANDIDATES, AlreadyRanked, Traits, choose_distinct, exclude
from topnine.pipeline.ranking.topk import RANKS, Ranking, Top, merge, running_top
from topnine.pipeline.ranking.totals import Totals, add_totals
from topnine.pipeline.store.store import Store
from topnine.pipeline.stored_plan import StoredPlan
from topnine.stages.progress import Progress
from topnine.stages.settings import hit_describer
from topnine.stages.work import find_stale, groups

BLOCKS_A_TASK = 64


@dataclass(frozen=True)
class RankTask:
    """What every task of ranking is handed beside its blocks.

    Attributes
    ----------
    store : str
        Its path.
    layer : str
    ranks : int
        How many activations of a filter are kept.
    threads : int
        That read.
    describer : HitDescriber
        Describes activations, to exclude what duplicates a hit.
    taken : AlreadyRanked, optional
        The hits that were chosen already. Nothing that duplicates one is ranked.
    """

    store: str
    layer: str
    ranks: int
    threads: int
    describer: HitDescriber
    taken: AlreadyRanked | None = None


def rank(plan: StoredPlan, pool: Pool, store: Store) -> Iterator[Progress]:
    """Rank every layer asked for whose ranking is not up to date."""
    stale = find_stale(store, plan.fingerprints, "rank", plan.layers)
    blocks = store.images.blocks
    progress = Progress.begin("rank", "blocks", len(plan.layers) * blocks, len(stale) * blocks)
    yield progress
    for layer in stale:
        missing = blocks - len(store.progress.done_blocks(layer.name))
        if missing:
            raise InputError(f"{missing} of {blocks} blocks of layer {layer.name} are not mined: `topnine mine` first.")
        describer = hit_describer(plan.config, layer.field)
        ranks = RANKS if describer.rule.by == "image" else CANDIDATES
        task = RankTask(store.path, layer.name, ranks, pool.threads, describer)
        for ranked in rank_layer(store, pool, task, plan.fingerprints.of("rank", layer)):
            yield progress.plus(ranked)
        progress = progress.plus(blocks)


def rank_layer(store: Store, pool: Pool, task: RankTask, fingerprint: Fingerprint) -> Iterator[int]:
    """Rank a layer and write its ranking; yield how many blocks were read."""
    arrays, rule = store.layer(task.layer), task.describer.rule
    parts: dict[int, tuple[Top, Totals]] = {}
    for blocks, part in pool.run(rank_blocks, groups(store.images.blocks, BLOCKS_A_TASK), task):
        parts[blocks.start] = part
        yield sum(min(BLOCKS_A_TASK, store.images.blocks - start) for start in parts)
    candidates = arrays.locate(merge([top for top, _ in parts.values()], task.ranks))
    describe_hits = partial(describe, store, task.describer)
    ranking = choose_distinct(candidates, rule, describe_hits, partial(rank_others, store, pool, task), task.ranks)
    arrays.write_ranking(ranking, add_totals([parts[start][1] for start in sorted(parts)]), fingerprint)


def describe(store: Store, describer: HitDescriber, hits: Ranking) -> Traits:
    """Return the traits (filter, rank) of hits."""
    return describer.describe(partial(store.images.columns, TRAIT_COLUMNS), hits.image, hits.row, hits.column)


def rank_others(store: Store, pool: Pool, task: RankTask, taken: AlreadyRanked) -> Ranking:
    """Rank all blocks again, without what duplicates a hit that was chosen already."""
    again = RankTask(task.store, task.layer, task.ranks, task.threads, task.describer, taken)
    parts = pool.run(rank_blocks, groups(store.images.blocks, BLOCKS_A_TASK), again)
    return store.layer(task.layer).locate(merge([top for _, (top, _) in parts], task.ranks))


def rank_blocks(blocks: range, task: RankTask) -> tuple[Top, Totals]:
    """Rank some consecutive blocks (a task), read ahead."""
    store = Store.open(task.store)
    block, read = store.images.block, _reader(store, task)
    runs_of_rows = store.layer(task.layer).runs(blocks)
    if task.taken:  # what hits are compared by takes memory, too
        runs_of_rows = [store.images.rows(number) for number in blocks]
    parts: list[Totals] = []

    def read_blocks(rows: slice) -> list[tuple[int, np.ndarray, Totals]]:
        """Read the rows of some blocks; list first image, activations and totals of each."""
        activation = read(rows)
        by_block = (activation[start : start + block] for start in range(0, len(activation), block))
        return [(rows.start + i * block, part, Totals.of(part)) for i, part in enumerate(by_block)]

    def runs() -> Iterator[tuple[int, np.ndarray]]:
        """Yield first image and activations of every block, and note the totals."""
        with closing(map_ahead(read_blocks, runs_of_rows, task.threads, task.threads + 1)) as results:
            for first, activation, totals in chain.from_iterable(results):
                parts.append(totals)
                yield first, activation

    return running_top(runs(), task.ranks), add_totals(parts)


def _reader(store: Store, task: RankTask) -> Callable[[slice], np.ndarray]:
    """Return a function that reads activations (image, filter) of rows: NaN where they must not rank."""
    arrays, taken = store.layer(task.layer), task.taken
    if taken is None:
        return arrays.read_activation
    taken_traits = describe(store, task.describer, taken.hits)
    read_columns = partial(store.images.columns, TRAIT_COLUMNS)

    def read(rows: slice) -> np.ndarray:
        """Read activations, without those that duplicate a hit."""
        activation, row, column = arrays.read_mined(rows)
        image = np.arange(rows.start, rows.stop)[:, None]
        traits = task.describer.describe(read_columns, image, row, column)
        return exclude(activation, traits, taken, taken_traits, task.describer.rule)

    return read
