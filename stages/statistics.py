"""Stage statistics: the distribution of every filter's activations, its classes, and the filters that go with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from threadpoolctl import threadpool_limits

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.prefetch import map_ahead
from topnine.pipeline.ranking.statistics import Basis, Sums, count_classes, summarise
from topnine.pipeline.store.store import Store
from topnine.pipeline.stored_plan import StoredPlan
from topnine.stages.progress import Progress
from topnine.stages.work import check_ranked, find_stale, groups

BLOCKS_A_TASK = 64


def statistics(plan: StoredPlan, pool: Pool, store: Store) -> Iterator[Progress]:
    """Compute the statistics of every layer asked for whose statistics are not up to date."""
    stale = find_stale(store, plan.fingerprints, "statistics", plan.layers)
    blocks = store.images.blocks
    progress = Progress.begin("statistics", "blocks", len(plan.layers) * blocks, len(stale) * blocks)
    yield progress
    for layer in stale:
        check_ranked(store, plan.fingerprints, layer)
        arrays = store.layer(layer.name)
        (label,) = store.images.columns(["label"])
        classes = count_classes(label, len(store.attributes["dataset"]["classes"]))
        basis: Basis | None = Basis.of(arrays.read("max_activation"), len(store.images), classes)
        while basis:  # once; twice where activations are negative
            sums = Sums(basis)
            for summed in sum_layer(store, pool, layer.name, sums):
                yield progress.plus(summed)
            basis = sums.wider_basis()
        image = sums.top.image
        statistics_arrays = summarise(sums, np.where(image >= 0, label[image], -1))
        arrays.write_statistics(statistics_arrays, plan.fingerprints.of("statistics", layer))
        progress = progress.plus(blocks)


def sum_layer(store: Store, pool: Pool, layer: str, sums: Sums) -> Iterator[int]:
    """Add up all blocks of a layer, group by group as they are done; yield how many are."""
    summed = 0
    tasks = groups(store.images.blocks, BLOCKS_A_TASK)
    for blocks, part in pool.run(sum_blocks, tasks, store.path, layer, sums, pool.threads, narrow=_narrow):
        sums.add(part)
        summed += len(blocks)
        yield summed


def _narrow(_: range, path: str, layer: str, sums: Sums, threads: int) -> tuple[str, str, Basis, np.ndarray, int]:
    """Return what a task needs of the sums so far: an activation below the weakest that they rank will not rank."""
    return path, layer, sums.basis, sums.top.activation[:, -1], threads


def sum_blocks(blocks: range, path: str, layer: str, basis: Basis, floor: np.ndarray, threads: int) -> Sums:
    """Add up some consecutive blocks (a task), in threads: the sums are the same whichever thread adds which."""
    store = Store.open(path)
    arrays, runs = store.layer(layer), store.layer(layer).runs(blocks)
    (label,) = store.images.columns(["label"], slice(runs[0].start, runs[-1].stop))

    def sum_runs(number: int) -> Sums:
        """Add up every so many runs of blocks."""
        sums = Sums(basis, floor)
        for rows in runs[number::threads]:
            of_rows = slice(rows.start - runs[0].start, rows.stop - runs[0].start)
            sums.add_images(arrays.read_activation(rows), label[of_rows], rows.start)
        return sums

    total = Sums(basis)
    with threadpool_limits(1, user_api="blas"):  # products of each thread: BLAS's own threads would wait for a core
        for part in map_ahead(sum_runs, range(threads), threads, threads):
            total.add(part)
    return total
