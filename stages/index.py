"""Stage index: list the images of every shard, without reading them, and write ``images/*`` at once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline import shards
from pipeline.cluster import Pool
from pipeline.config import absolute
from pipeline.errors import InputError
from pipeline.labels import assign
from pipeline.plan import Plan, check_store, versions
from pipeline.shards import Entry, Shard
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
    for finished in pool.run(scan_shard, enumerate(plan.dataset.shards)):
        if finished:
            found[finished[0][0]] = finished[1]
            yield Progress("index", len(found), total, "shards")
    entries = [(shard, entry) for shard in range(total) for entry in found[shard]]
    columns, reason = make_columns(plan, entries)
    attributes = make_attributes(plan, sorted({entry.class_name for _, entry in entries if entry.class_name}))
    store = Store.create(plan.config.store)
    store.write_index(columns, reason, plan.config.mine.block, attributes, plan.index_fingerprint())
    check_store(plan, store)


def scan_shard(numbered: tuple[int, Shard]) -> list[Entry]:
    """List the images of a shard (a task)."""
    return shards.scan(numbered[1])


def make_columns(plan: Plan, entries: list[tuple[int, Entry]]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Give the columns (image) of the index from (shard number, entry), and why images are damaged already."""
    named = [(plan.dataset.shards[shard].name, entry) for shard, entry in entries]
    damaged = [(shard, entry) for shard, entry in named if entry.damage]
    if damaged and plan.config.data.on_damaged == "fail":
        shard, entry = damaged[0]
        raise InputError(
            f'shard {shard}: member {entry.key} {entry.damage}. Copy the shard again, or set data.on_damaged = "skip".'
        )
    if len(damaged) == len(entries):
        raise InputError(f"{plan.config.data.path} holds no images: expected .jpg, .jpeg, .png or .webp in its shards.")
    columns = {
        "key": np.array(shards.unique_keys(named), dtype=np.dtypes.StringDType()),
        "shard": np.array([shard for shard, _ in entries], np.int32),
        "offset": np.array([entry.offset for _, entry in entries], np.int64),
        "size": np.array([entry.size for _, entry in entries], np.int64),
        "label": np.array(assign(named, plan.classes(), plan.config.data.labels), np.int32),
    }
    return columns, np.array([entry.damage for _, entry in entries], dtype=np.dtypes.StringDType())


def make_attributes(plan: Plan, folders: list[str]) -> dict[str, Any]:
    """Give the root's attributes. Class folders name the classes where nothing else does."""
    classes = plan.classes()
    return {
        "dataset": {
            "name": plan.dataset.name,
            "shards": [{"name": s.name, "size": s.size, "modified": s.modified} for s in plan.dataset.shards],
            "classes": list(classes.names) if classes else folders if not plan.config.data.labels else [],
        },
        "network": {"name": plan.config.network.name, "weights": plan.digest},
        "preprocessing": plan.preprocessing(),
        "versions": versions(),
        "configuration": absolute(plan.config),
    }
