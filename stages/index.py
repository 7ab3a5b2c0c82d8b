"""Stage index: list the images of every shard, without reading them, and write ``images/*`` at once."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline import shards
from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.plan import Plan, check_store, versions
from pipeline.shards import Dataset, Entry
from pipeline.store import Store

from .progress import Progress


def index(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Make the store and its index, unless it has one."""
    total = len(plan.dataset.shards)
    if Store.exists(plan.config.store) and Store.open(plan.config.store).fingerprint("index") is not None:
        yield Progress("index", total, total, "shards", skipped=total)
        return
    found: dict[int, list[Entry]] = {}
    yield Progress("index", 0, total, "shards")
    for finished in pool.run(scan_shard, range(total), plan.dataset):
        if finished:
            found[finished[0]] = finished[1]
            yield Progress("index", len(found), total, "shards")
    entries = [(shard, entry) for shard in range(total) for entry in found[shard]]
    if not entries:
        raise InputError(f"{plan.config.data.path} holds no images: expected .jpg, .jpeg or .png in its tar shards.")
    keys = shards.unique_keys([entry for _, entry in entries])
    store = Store.create(plan.config.store)
    attributes = {
        "network": {"name": plan.config.network.name, "weights": plan.digest},
        "preprocessing": plan.preprocessing(),
        "versions": versions(),
    }
    store.write_index(plan.dataset, entries, keys, plan.config.mine.block, attributes, plan.index_fingerprint())
    check_store(plan, store)


def scan_shard(shard: int, dataset: Dataset) -> list[Entry]:
    """List the images of a shard (a task)."""
    return shards.scan(dataset, shard)
