"""Stage statistics: the distribution of every filter's activations, its classes, and the filters it goes with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.plan import Plan
from pipeline.statistics import Basis, Sums, count_classes, summarise
from pipeline.store import Store

from .progress import Progress

BLOCKS_A_TASK = 16


def statistics(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Take the statistics of every layer asked for whose statistics are not up to date."""
    store = Store.open(plan.config.store, write=True)
    stale = [
        layer
        for layer in plan.layers
        if store.fingerprint("statistics", layer.name) != plan.statistics_fingerprint(layer)
    ]
    total = len(plan.layers) * store.blocks
    skipped = done = total - len(stale) * store.blocks
    yield Progress("statistics", done, total, "blocks", skipped)
    for layer in stale:
        if store.fingerprint("rank", layer.name) != plan.rank_fingerprint(layer):
            raise InputError(f"layer {layer.name} is not ranked: `topnine rank` first.")
        (label,) = store.image_columns(["label"])
        classes = count_classes(label, len(store.attributes["dataset"]["classes"]))
        basis: Basis | None = Basis.of(store.read_layer(layer.name, "maximum"), store.images, classes)
        while basis:  # once; twice where activations are negative
            sums = Sums(basis)
            for blocks in read_blocks(store, pool, layer.name, sums):
                yield Progress("statistics", done + blocks, total, "blocks", skipped)
            basis = sums.widened()
        image = sums.top.image
        arrays = summarise(sums, np.where(image >= 0, label[image], -1))
        store.write_statistics(layer.name, arrays, plan.statistics_fingerprint(layer))
        done += store.blocks


def read_blocks(store: Store, pool: Pool, layer: str, sums: Sums) -> Iterator[int]:
    """Add up all blocks, group by group as they are done; give how many are."""
    groups = [range(first, min(first + BLOCKS_A_TASK, store.blocks)) for first in range(0, store.blocks, BLOCKS_A_TASK)]
    done = 0
    for finished in pool.run(sum_blocks, groups, store.path, layer, sums.basis):
        if finished:
            blocks, part = finished
            sums.add(part)
            done += len(blocks)
            yield done


def sum_blocks(blocks: range, path: str, layer: str, basis: Basis) -> Sums:
    """Add up some consecutive blocks (a task), one at a time."""
    store = Store.open(path)
    sums = Sums(basis)
    for block in blocks:
        rows = store.rows(block)
        (label,) = store.image_columns(["label"], rows)
        sums.take(store.read_activation(layer, rows), label, rows.start)
    return sums
