"""Stage mine: stream the images through the network, block by block, and record every filter's activation."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import groupby

import numpy as np

from pipeline import shards
from pipeline.activations import Mined, list_images, run_images
from pipeline.cluster import TRIES, Pool, abandoned
from pipeline.errors import WorkError
from pipeline.layers import Layer
from pipeline.plan import Plan, versions
from pipeline.store import UNDECODABLE, Store

from .progress import Progress

MANY_DAMAGED = 10  # images; fewer never fail a run
HOPELESS = 10  # blocks that fail before any is mined: then it is not the blocks
SHOWN = 10  # blocks that failed, in the summary


@dataclass(frozen=True)
class Span:
    """Consecutive blocks that one task streams through, and the layers they are still to be mined for."""

    blocks: tuple[int, ...]
    layers: tuple[Layer, ...]


def mine(plan: Plan, pool: Pool) -> Iterator[Progress]:
    """Mine every block that is not marked as done for every layer asked for.

    Raises
    ------
    WorkError
        A shard is not what was indexed; or, when all else is mined, blocks that failed, or too many damaged images.
    """
    store = Store.open(plan.config.store, write=True)
    for layer in plan.layers:
        if layer.name not in store.layers:
            store.add_layer(layer, plan.config.mine.precision, versions(), plan.mine_fingerprint(layer))
    todo = find_todo(store, plan.layers)
    skipped = count_mined(store, plan.layers)
    yield Progress("mine", skipped, store.images, "images", skipped)
    if not todo:
        check_damage(plan, store)
        return
    for checked in pool.run(check_shard, touched_shards(plan, store), plan):
        if checked and checked[1]:
            raise WorkError(checked[1])
    failed: dict[int, str] = {}
    look = 0.0
    spans = find_spans(todo, plan.config.mine.span)
    for finished in pool.attempt(mine_span, spans, plan, pool.threads, split=partial(find_unfinished, plan)):
        if finished and finished[1]:
            set_aside(store, finished[0], finished[1], failed)
        began = time.monotonic()
        if began < look:
            continue
        mined = count_mined(store, plan.layers)
        look = time.monotonic() + 19 * (time.monotonic() - began)  # a twentieth of the time goes into looking
        yield Progress("mine", mined, store.images, "images", skipped)
        if len(failed) >= HOPELESS and mined == skipped:
            break
    yield Progress("mine", count_mined(store, plan.layers), store.images, "images", skipped)
    if failed:
        raise WorkError(describe_failed(plan, store, failed))
    check_damage(plan, store)


def count_mined(store: Store, layers: tuple[Layer, ...]) -> int:
    """Count the images that are mined for every layer."""
    done = set.intersection(*(store.done_blocks(layer.name) for layer in layers))
    short = store.blocks * store.block - store.images  # what the last block lacks
    return len(done) * store.block - (short if store.blocks - 1 in done else 0)


def find_unfinished(plan: Plan, span: Span) -> list[Span]:
    """Cut what is left of a span that failed into spans of one block, so that the culprit is alone."""
    left = find_todo(Store.open(plan.config.store), span.layers)
    return [Span((block,), left[block]) for block in span.blocks if block in left]


def set_aside(store: Store, span: Span, error: WorkError, failed: dict[int, str]) -> None:
    """Record a block that failed however often it was tried, in the store and for the summary."""
    for block in span.blocks:
        failed[block] = str(error)
        for layer in span.layers:
            store.set_aside(layer.name, block, str(error))


def describe_failed(plan: Plan, store: Store, failed: dict[int, str]) -> str:
    """Give a sentence that names the blocks that failed, with their images, shard and errors."""
    lines = []
    for block in sorted(failed)[:SHOWN]:
        rows = store.rows(block)
        (shard,) = store.image_columns(["shard"], slice(rows.start, rows.start + 1))
        place = f"images {rows.start:,} to {rows.stop - 1:,}, from {plan.dataset.shards[shard[0]].name}"
        lines.append(f"\n  block {block} ({place}): {failed[block]}")
    more = f"\n  and {len(failed) - SHOWN:,} more" if len(failed) > SHOWN else ""
    left = len(find_todo(store, plan.layers)) - len(failed)
    rest = f"{left:,} more were not tried: this looks like no block's own fault" if left else "all others are mined"
    return (
        f"{len(failed):,} of {store.blocks:,} blocks failed, each {TRIES} times, and were set aside; {rest}. "
        f"The same command tries them again.{''.join(lines)}{more}"
    )


def touched_shards(plan: Plan, store: Store) -> list[int]:
    """Give the shards whose time of modification is not the indexed one: copied, or changed."""
    recorded = store.attributes["dataset"]["shards"]
    now = plan.dataset.shards
    return [i for i, shard in enumerate(recorded) if shard["modified"] != now[i].modified]


def check_shard(number: int, plan: Plan) -> str:
    """Compare a shard's headers with the index (a task); give what differs, in a sentence, or nothing."""
    store = Store.open(plan.config.store)
    (shard,) = store.image_columns(["shard"])
    rows = np.nonzero(shard == number)[0]
    key, offset, size = store.image_columns(("key", "offset", "size"), rows)
    found = shards.scan(plan.dataset.shards[number])
    name = plan.dataset.shards[number].name
    for i, entry in enumerate(found[: len(rows)]):
        if (entry.offset, entry.size) != (offset[i], size[i]) or entry.key not in key[i]:
            return (
                f"shard {name} has changed since it was indexed: where image {key[i]} was, at {offset[i]}, "
                f"is now {entry.key} at {entry.offset}. Mine the changed data into another STORE."
            )
    if len(found) != len(rows):
        was = f"{len(rows)} images then, {len(found)} now"
        return f"shard {name} has changed since it was indexed: {was}. Mine the changed data into another STORE."
    return ""


def check_damage(plan: Plan, store: Store) -> None:
    """Raise WorkError where more than ten images and more than the allowed fraction are damaged."""
    status, reason = store.image_columns(("status", "reason"))
    reasons = Counter(reason[status == UNDECODABLE].tolist())
    damaged, allowed = sum(reasons.values()), plan.config.data.max_damaged_fraction
    if damaged > MANY_DAMAGED and damaged > allowed * store.images:
        counts = "; ".join(f"{count} × {text}" for text, count in reasons.most_common(10))
        raise WorkError(
            f"{damaged:,} of {store.images:,} images are damaged, more than data.max_damaged_fraction = {allowed}: "
            f"{counts}. The store is kept: repair the data and give another STORE, or allow more."
        )


def find_todo(store: Store, layers: tuple[Layer, ...]) -> dict[int, tuple[Layer, ...]]:
    """Give for every block that is not done the layers it is missing, from the markers alone."""
    done = {layer.name: store.done_blocks(layer.name) for layer in layers}
    missing = {
        block: tuple(layer for layer in layers if block not in done[layer.name]) for block in range(store.blocks)
    }
    return {block: names for block, names in missing.items() if names}


def find_spans(todo: dict[int, tuple[Layer, ...]], length: int) -> list[Span]:
    """Cut blocks into spans of at most ``length`` consecutive ones that miss the same layers."""
    spans: list[Span] = []
    for (_, layers), run in groupby(enumerate(sorted(todo)), key=lambda pair: (pair[1] - pair[0], todo[pair[1]])):
        blocks = [block for _, block in run]
        spans += [Span(tuple(blocks[i : i + length]), layers) for i in range(0, len(blocks), length)]
    return spans


def mine_span(span: Span, plan: Plan, threads: int) -> None:
    """Mine the blocks of a span (a task), but for those that an earlier try has done."""
    store = Store.open(plan.config.store, write=True)
    names = [layer.name for layer in span.layers]
    blocks = [block for block in span.blocks if not all(store.is_done(name, block) for name in names)]
    rows = [store.rows(block) for block in blocks]
    with closing(run_images(plan, span.layers, list_images(store, rows), rows, threads)) as mined:
        for block, images in zip(blocks, mined, strict=False):
            write_block(store, span.layers, block, images)
            if abandoned():
                return


def write_block(store: Store, layers: tuple[Layer, ...], block: int, mined: Mined) -> None:
    """Write what a block's images gave: their status, the layers' activations, then the markers."""
    store.write_images(block, mined.columns)
    for layer in layers:
        store.write_block(layer.name, block, *mined.layers[layer.name])
    for layer in layers:
        store.mark(layer.name, block)
