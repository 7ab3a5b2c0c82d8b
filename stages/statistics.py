"""Stage statistics: the distribution of every filter's activations, its classes, and the filters that go with it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.ranking.statistics import Basis, Sums, count_classes, summarise
from topnine.pipeline.store.store import Store
from topnine.pipeline.stored_plan import StoredPlan
from topnine.stages.progress import Progress
from topnine.stages.work import check_ranked, find_stale, groups

BLOCKS_A_TASK = 16


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
    for blocks, part in pool.run(sum_blocks, groups(store.images.blocks, BLOCKS_A_TASK), store.path, layer, sums.basis):
        sums.add(part)
        summed += len(blocks)
        yield summed


def sum_blocks(blocks: range, path: str, layer: str, basis: Basis) -> Sums:
    """Add up some consecutive blocks (a task), one at a time."""
    store = Store.open(path)
    sums = Sums(basis)
    for block in blocks:
        rows = store.images.rows(block)
        (label,) = store.images.columns(["label"], rows)
        sums.add_images(store.layer(layer).read_activation(rows), label, rows.start)
    return sums
