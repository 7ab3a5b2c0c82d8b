"""Shards that are not what was indexed any more: their times of modification tell which ones to compare."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.data.entry import Dataset, Shard
from topnine.pipeline.data.keys import fits
from topnine.pipeline.data.reader import list_images
from topnine.pipeline.errors import InputError, WorkError
from topnine.pipeline.store.store import Store


def check_touched_shards(dataset: Dataset, store: Store, pool: Pool) -> None:
    """Compare the shards whose time of modification has changed with the index; WorkError where one differs."""
    for _, difference in pool.run(check_shard, find_touched(dataset, store), store.path):
        if difference:
            raise WorkError(difference)


def find_touched(dataset: Dataset, store: Store) -> Iterator[tuple[int, Shard]]:
    """Yield the shards whose time of modification has changed since they were indexed, with their numbers.

    Raises
    ------
    InputError
        The store names another number of shards.
    """
    recorded = store.attributes["dataset"]["shards"]
    if len(recorded) != len(dataset.shards):
        raise InputError(
            f"store {store.path} is damaged: it names {len(recorded):,} shards, the data has {len(dataset.shards):,}. "
            "Give another STORE."
        )
    for number, (was, shard) in enumerate(zip(recorded, dataset.shards, strict=True)):
        if was["modified"] != shard.modified:
            yield number, shard


def check_shard(numbered: tuple[int, Shard], path: str) -> str:
    """Compare a shard's headers with the index (a task); return what differs as a sentence, or an empty text."""
    number, shard = numbered
    images = Store.open(path).images
    rows = np.nonzero(images.columns(["shard"])[0] == number)[0]
    key, offset, size = images.columns(("key", "offset", "byte_count"), rows)
    listing = list_images(replace(shard, sidecar=""))  # which may be older than the shard
    changed = f"shard {shard.name} has changed since it was indexed"
    remedy = "Mine the changed data into another STORE."
    for i in range(min(len(rows), len(listing))):
        entry = listing[i]
        if (entry.offset, entry.size) != (offset[i], size[i]) or not fits(key[i], entry.key):
            moved = f"where image {key[i]} was, at {offset[i]}, is now {entry.key} at {entry.offset}"
            return f"{changed}: {moved}. {remedy}"
    if len(listing) != len(rows):
        return f"{changed}: {len(rows)} images then, {len(listing)} now. {remedy}"
    return ""
