"""The index of another store of the same data, taken over for ``data.index``.

A store has the keys, places and labels of its images, but not all that listing a shard says. Why an image cannot be
read may come from index or from mine, and names of classes from folders or from the network. The shards that tell are
listed again, and have to be what the store says of them.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from topnine.pipeline.data.keys import fits
from topnine.pipeline.data.listing import Index, Listing
from topnine.pipeline.errors import DamageError, InputError
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store

INDEX_COLUMNS = ("key", "shard", "offset", "byte_count", "label")


def open_index(plan: Plan) -> Store:
    """Open the store that ``data.index`` names; InputError where its index is not one of this run's data and labels."""
    path = plan.config.data.index
    store = Store.open(path)
    if store.fingerprint("index") is None:
        raise _refusal(path, "its index is not finished")
    if not store.images.are_indexed():
        raise _refusal(path, "its index is damaged")
    recorded = [(shard["name"], shard["size"], shard["modified"]) for shard in store.attributes["dataset"]["shards"]]
    shards = [(shard.name, shard.size, shard.modified) for shard in plan.dataset.shards]
    if len(recorded) != len(shards):
        raise _refusal(path, f"it has {len(recorded):,} shards, and {plan.config.data.path} has {len(shards):,}")
    for was, shard in zip(recorded, shards, strict=True):
        if was != shard:
            now = f"{shard[0]} of {shard[1]:,} (modified {shard[2]:.3f})"
            raise _refusal(
                path, f"where it has shard {was[0]} of size {was[1]:,} (modified {was[2]:.3f}), there is {now}"
            )
    labels = store.fingerprint("labels") or {}
    for key, value in plan.fingerprints.labels.items():
        if labels.get(key) != value:
            raise _refusal(path, f"its labels are those of another {key}")
    return store


def find_untold(plan: Plan, other: Store) -> list[int]:
    """List the numbers of the shards that have to be listed again: those with damage, and one that tells classes."""
    try:
        shard, label = other.images.columns(("shard", "label"))
        (reason,) = other.images.columns_so_far(["reason"])
    except DamageError as error:
        raise _refusal(other.path, str(error)) from error
    incomplete = {missing["shard"] for missing in other.attributes["dataset"].get("incomplete", [])}
    untold = {*shard[reason != ""].tolist()}
    untold |= {number for number, one in enumerate(plan.dataset.shards) if one.name in incomplete}
    if not plan.classes and not plan.config.data.labels:
        untold |= {*shard[label >= 0][:1].tolist()}
    return sorted(untold)


def take_over(plan: Plan, other: Store, listed: Mapping[int, Listing]) -> Index:
    """Return the images of another store's index, with the unique keys and the labels that they have there.

    Parameters
    ----------
    listed : mapping of int to Listing
        The shards that ``find_untold`` named, by their numbers.

    Raises
    ------
    InputError
        One of these is not what the index says.
    """
    key, shard, offset, size, label = other.images.columns(INDEX_COLUMNS)
    damage: dict[int, str] = {}
    missing: dict[int, str] = {}
    has_class_folders = False
    for number, listing in sorted(listed.items()):
        rows = np.nonzero(shard == number)[0]
        if (
            len(rows) != len(listing)
            or not np.array_equal(offset[rows], listing.offset)
            or not np.array_equal(size[rows], listing.size)
            or not all(fits(unique, name) for unique, name in zip(key[rows], listing.keys, strict=True))
        ):
            raise _refusal(other.path, f"shard {plan.dataset.shards[number].name} holds other images than it says")
        damage |= {int(rows[row]): reason for row, reason in listing.damage.items()}
        missing |= {number: listing.missing} if listing.missing else {}
        has_class_folders |= any(class_name for _, class_name in listing.folders)
    # Without data.classes the names of class folders are the store's; with it they do not matter.
    names = other.attributes["dataset"]["classes"] if has_class_folders and not plan.classes else []
    folders = (("", ""), *((name, name) for name in names))
    folder = np.zeros(len(key), np.int32)
    return Index(plan.dataset.shards, shard, key, offset, size, label, folder, folders, damage, missing)


def _refusal(path: str, why: str) -> InputError:
    return InputError(
        f"the index of data.index = {path!r} cannot be taken over: {why}. Leave data.index out, so that the shards are "
        "listed, or name a store of the same data."
    )
