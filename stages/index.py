"""Stage index: list the images of every shard, without reading them, and write ``images/*`` at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.config.sections import DataConfig
from topnine.pipeline.data.entry import IN_FLIGHT, Dataset, Shard
from topnine.pipeline.data.keys import unique_keys
from topnine.pipeline.data.labels import assign
from topnine.pipeline.data.listing import TEXT, Index, Listing, check_complete, join
from topnine.pipeline.data.reader import list_shards
from topnine.pipeline.errors import InputError, WorkError
from topnine.pipeline.files import is_url
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.changes import find_touched
from topnine.stages.progress import Progress
from topnine.stages.reuse import find_untold, open_index, take_over
from topnine.stages.work import groups


def index(plan: Plan, pool: Pool, store: Store) -> Iterator[Progress]:
    """Make the store's index, unless it has one that can be read."""
    total = len(plan.dataset.shards)
    is_indexed = store.fingerprint("index") is not None and store.images.are_indexed()
    if is_indexed and store.fingerprint("labels") == plan.fingerprints.labels:
        yield Progress("index", total, total, "shards", skipped=total)
        return
    if not is_indexed:
        check_again(plan, store)
    other = open_index(plan) if plan.config.data.index and not is_indexed else None
    numbers = range(total) if other is None else find_untold(plan, other)
    skipped = total - len(numbers)
    listed: dict[int, Listing] = {}
    yield Progress("index", skipped, total, "shards", skipped)
    for listings in scan(plan.dataset, pool, numbers):
        listed |= listings
        yield Progress("index", skipped + len(listed), total, "shards", skipped)
    if other is None:
        images = join(plan.dataset, [listed.pop(number) for number in numbers])
    else:
        images = take_over(plan, other, listed)
        yield Progress("index", total, total, "shards", skipped, f"the index is that of {other.path}")
    if not is_indexed:
        check_complete(images, plan.config.data.on_incomplete)
        check_damage(images, plan.config.data)
    labels = assign(images, plan.classes, plan.config.data.labels) if other is None else images.label
    names = (write_labels if is_indexed else write_index)(plan, store, images, labels)
    if images.parts.count:
        yield Progress("index", total, total, "shards", note=str(images.parts))
    if names and names == list(plan.network.architecture.categories):
        note = f"classes have the names of {plan.config.network.name}'s own, unless data.classes gives others"
        yield Progress("index", total, total, "shards", note=note)


def check_again(plan: Plan, store: Store) -> None:
    """Raise WorkError where an index is damaged, and cannot be made again from the same shards."""
    touched = store.fingerprint("index") is not None and next(find_touched(plan.dataset, store), None)
    if touched:
        raise WorkError(
            f"the index of store {store.path} is damaged, and shard {touched[1].name} has been touched since it was "
            "made: what it held cannot be known. Mine into another STORE."
        )


def scan(dataset: Dataset, pool: Pool, numbers: Sequence[int]) -> Iterator[dict[int, Listing]]:
    """List the shards of some numbers, those of a bucket many at once; yield listings by these numbers."""
    shards = [(number, dataset.shards[number]) for number in numbers]
    at_once = IN_FLIGHT if is_url(dataset.shards[0].path) else 1
    parts = [[shards[i] for i in part] for part in groups(len(shards), at_once)]
    for numbered, listings in pool.run(scan_shards, parts):
        yield {number: listing for (number, _), listing in zip(numbered, listings, strict=True)}


def scan_shards(numbered: Sequence[tuple[int, Shard]]) -> list[Listing]:
    """List the images of shards (a task)."""
    return list_shards([shard for _, shard in numbered])


def write_index(plan: Plan, store: Store, images: Index, labels: np.ndarray) -> list[str]:
    """Write the images of a dataset and their labels (image) into the store; return the names of the classes."""
    columns = {
        "key": unique_keys(images),
        "shard": images.shard,
        "offset": images.offset,
        "byte_count": images.size,
        "label": labels,
    }
    damage = np.empty(len(images), TEXT)
    for number, reason in images.damage.items():
        damage[number] = reason
    names, attributes = describe_index(plan, images, labels)
    fingerprints = plan.fingerprints
    store.write_index(columns, damage, plan.config.mine.block, attributes, fingerprints.index, fingerprints.labels)
    plan.check_store(store)
    return names


def write_labels(plan: Plan, store: Store, images: Index, labels: np.ndarray) -> list[str]:
    """Write other labels (image) and names of classes into a store whose index stays; return the names.

    WorkError where the shards are not those that were indexed.
    """
    recorded = store.images.columns(("key", "offset", "byte_count"))
    if len(images) != len(store.images) or not all(
        np.array_equal(now, was)
        for now, was in zip((unique_keys(images), images.offset, images.size), recorded, strict=True)
    ):
        raise WorkError(
            f"the images of {plan.config.data.path} are not those that store {store.path} was made with: their labels "
            "cannot be changed. Mine them into another STORE."
        )
    names, attributes = describe_index(plan, images, labels)
    store.write_labels(labels, attributes, plan.fingerprints.labels)
    return names


def describe_index(plan: Plan, images: Index, labels: np.ndarray) -> tuple[list[str], dict[str, Any]]:
    """Return the names of the classes, and the attributes of the store's root."""
    folders = sorted({class_name for _, class_name in images.folders if class_name})
    names = plan.name_classes(folders, labels)
    attributes = plan.root_attributes(names)
    attributes["dataset"]["incomplete"] = [
        {"shard": images.shards[number].name, "missing": missing} for number, missing in images.missing.items()
    ]
    return names, attributes


def check_damage(images: Index, config: DataConfig) -> None:
    """Raise InputError where no image is left, or one is damaged and ``data.on_damaged`` is ``fail``."""
    if images.damage and config.on_damaged == "fail":
        number = min(images.damage)
        shard, key = images.shards[images.shard[number]].name, images.key[number]
        raise InputError(
            f"shard {shard}: member {key} {images.damage[number]}. "
            'Copy the shard again, or set data.on_damaged = "skip".'
        )
    if len(images.damage) == len(images):
        raise InputError(f"{config.path} holds no images: expected .jpg, .jpeg, .png, .webp or .tif in its shards.")
