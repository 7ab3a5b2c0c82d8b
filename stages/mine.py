"""Stage mine: stream the images through the network, block by block, and record every filter's activation."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

from topnine.pipeline.cluster.pool import TRIES, Meter, Pool, Tick, abandoned
from topnine.pipeline.compute.activations import BlockResult, MiningSettings, run_images
from topnine.pipeline.data.entry import Dataset
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.errors import WorkError
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.prefetch import map_ahead
from topnine.pipeline.store.schema import UNDECODABLE
from topnine.pipeline.store.store import Access, Store
from topnine.pipeline.store.verification import mend
from topnine.stages.changes import check_touched_shards
from topnine.stages.progress import Progress
from topnine.stages.settings import mining_settings
from topnine.stages.work import ShardFinder, describe_lost, find_mined, image_columns, iterate_records

MANY_DAMAGED = 10  # images; fewer never fail a run
HOPELESS = 10  # blocks that fail before any is mined: then it is not the blocks
LISTED_FAILURES = 10  # blocks that failed, in the summary
LOOKING = 1 / 20  # of the time: what may be spent on looking how many blocks are done


@dataclass(frozen=True)
class Span:
    """Consecutive blocks that one task streams through, and the layers for which they are still to be mined."""

    blocks: tuple[int, ...]
    layers: tuple[Layer, ...]


@dataclass(frozen=True)
class MineTask:
    """What every task of mining is handed beside its span: the store, and how images are mined."""

    store: Access
    settings: MiningSettings

    def with_images(self, images: ImageSource) -> MineTask:
        """Return the task with other images, or other shards of them."""
        return replace(self, settings=replace(self.settings, images=images))


def mine(plan: Plan, pool: Pool, store: Store) -> Iterator[Progress]:
    """Mine every block that is not marked as done, or whose values are not there, for every layer asked for.

    Raises
    ------
    WorkError
        A shard is not what was indexed, or an image not what was mined for another layer; or, when all else is mined,
        blocks that failed, or too many damaged images.
    """
    add_layers(store, plan)
    names = [layer.name for layer in plan.layers]
    lost = [*mend(store, names, thorough=False)]
    todo = find_todo(store, plan.layers)
    skipped = count_mined(store, names)
    yield Progress("mine", skipped, len(store.images), "images", skipped, describe_lost(lost) if lost else "")
    if todo:
        check_touched_shards(plan.dataset, store, pool)
        task = MineTask(store.access, mining_settings(plan, pool.threads))
        spans = find_spans(todo, plan.config.mine.span)
        failed: dict[int, str] = {}
        for mined in mine_spans(store, pool, task, spans, failed):
            yield Progress("mine", mined, len(store.images), "images", skipped)
        if failed:
            raise WorkError(*describe_failed(plan.dataset, store, failed, len(find_todo(store, plan.layers))))
    for name in names:
        store.progress.forget_failures(name)
    check_damage(store, plan.config.data.max_damaged_fraction)


def add_layers(store: Store, plan: Plan) -> None:
    """Make the empty arrays of the layers that the store does not have yet."""
    for layer in plan.layers:
        if not store.layer(layer.name).is_added:
            store.add_layer(layer.name, plan.layer_attributes(layer), plan.fingerprints.of("mine", layer))


def mine_spans(
    store: Store, pool: Pool, task: MineTask, spans: Sequence[Span], failed: dict[int, str]
) -> Iterator[int]:
    """Mine spans; yield how many images are mined, and note in ``failed`` the blocks that failed, with the reason.

    Images of a block that is not finished count as soon as they are through the network. It gives up where ten blocks
    fail before any is mined.
    """
    names = list(dict.fromkeys(layer.name for span in spans for layer in span.layers))
    mined = skipped = count_mined(store, names)
    next_look, shown, most = 0.0, skipped, len(store.images) - 1
    narrow = partial(select_shards, store, ShardFinder.read(store, task.settings.images))
    for finished in pool.attempt(mine_span, spans, task, split=partial(find_unfinished, store), narrow=narrow):
        if not isinstance(finished, Tick) and isinstance(finished[1], WorkError):
            set_aside(store, finished[0], finished[1], failed)
        began = time.monotonic()
        if began >= next_look:
            mined = count_mined(store, names)
            next_look = time.monotonic() + (1 / LOOKING - 1) * (time.monotonic() - began)
        under_way = finished.units if isinstance(finished, Tick) else 0
        shown = max(shown, mined, min(mined + under_way, most))
        yield shown
        if len(failed) >= HOPELESS and mined == skipped:
            break
    yield count_mined(store, names)


def select_shards(store: Store, finder: ShardFinder, span: Span, task: MineTask) -> tuple[MineTask]:
    """Return the task of a span: with the shards of its images alone."""
    first, last = store.images.rows(span.blocks[0]), store.images.rows(span.blocks[-1])
    return (task.with_images(finder.select(slice(first.start, last.stop))),)


def count_mined(store: Store, layers: Sequence[str]) -> int:
    """Count the images that are mined for every one of some layers."""
    done = set.intersection(*(store.progress.done_blocks(layer) for layer in layers))
    images = store.images
    missing = images.blocks * images.block - len(images)  # from the last block
    return len(done) * images.block - (missing if images.blocks - 1 in done else 0)


def find_unfinished(store: Store, span: Span) -> list[Span]:
    """Cut what is left of a span that failed into spans of one block, so that the culprit is alone."""
    left = find_todo(store, span.layers)
    return [Span((block,), left[block]) for block in span.blocks if block in left]


def set_aside(store: Store, span: Span, error: WorkError, failed: dict[int, str]) -> None:
    """Record the blocks of a span that failed however often they were tried, in the store and for the summary."""
    for block in span.blocks:
        failed[block] = str(error)
        for layer in span.layers:
            store.progress.set_aside(layer.name, block, str(error))


def describe_failed(dataset: Dataset, store: Store, failed: dict[int, str], unfinished: int) -> list[str]:
    """Return a sentence on the blocks that failed, and a line for each with its images, shard and error."""
    lines = []
    for block in sorted(failed)[:LISTED_FAILURES]:
        rows = store.images.rows(block)
        (shard,) = store.images.columns(["shard"], slice(rows.start, rows.start + 1))
        images = f"images {rows.start:,} to {rows.stop - 1:,}, from {dataset.shards[shard[0]].name}"
        lines.append(f"block {block} ({images}): {failed[block]}")
    if len(failed) > LISTED_FAILURES:
        lines.append(f"and {len(failed) - LISTED_FAILURES:,} more")
    left = unfinished - len(failed)
    rest = f"{left:,} more were not tried: this looks like no block's own fault" if left else "all others are mined"
    sentence = (
        f"{len(failed):,} of {store.images.blocks:,} blocks failed, each {TRIES} times, and were set aside; {rest}. "
        "The same command tries them again."
    )
    return [sentence, *lines]


def check_damage(store: Store, allowed: float) -> None:
    """Raise WorkError where more than ten images and more than the allowed fraction are damaged."""
    status, reason = store.images.columns(("status", "reason"))
    reasons = Counter(reason[status == UNDECODABLE].tolist())
    damaged, images = sum(reasons.values()), len(store.images)
    if damaged > MANY_DAMAGED and damaged > allowed * images:
        counts = "; ".join(f"{count} × {text}" for text, count in reasons.most_common(10))
        raise WorkError(
            f"{damaged:,} of {images:,} images are damaged, more than data.max_damaged_fraction = {allowed}: "
            f"{counts}. The store is kept: repair the data and give another STORE, or allow more."
        )


def find_todo(store: Store, layers: Sequence[Layer]) -> dict[int, tuple[Layer, ...]]:
    """Return, for every block that is not done, the layers that it is missing, from the markers alone."""
    done = {layer.name: store.progress.done_blocks(layer.name) for layer in layers}
    blocks = range(store.images.blocks)
    missing = {block: tuple(layer for layer in layers if block not in done[layer.name]) for block in blocks}
    return {block: names for block, names in missing.items() if names}


def find_spans(todo: dict[int, tuple[Layer, ...]], length: int) -> list[Span]:
    """Cut blocks into spans of at most ``length`` consecutive ones that miss the same layers."""
    spans: list[Span] = []
    for (_, layers), run in groupby(enumerate(sorted(todo)), key=lambda pair: (pair[1] - pair[0], todo[pair[1]])):
        blocks = [block for _, block in run]
        spans += [Span(tuple(blocks[i : i + length]), layers) for i in range(0, len(blocks), length)]
    return spans


def mine_span(span: Span, task: MineTask) -> None:
    """Mine the blocks of a span (a task), except those that an earlier try has done."""
    store = task.store.open()
    names = [layer.name for layer in span.layers]
    done = set.intersection(*(store.progress.done_blocks(name) for name in names))
    blocks = [block for block in span.blocks if block not in done]
    runs = [store.images.rows(block) for block in blocks]
    records = iterate_records(store, runs, find_mined(store))
    meter, ended = Meter(), threading.Event()

    def count(images: int) -> None:
        """Count images of a batch that is through; end the block that is mined where nobody waits for it any more."""
        if ended.is_set():
            raise WorkError("the task has ended")
        meter.add(images)

    def results() -> Iterator[tuple[int, slice, BlockResult]]:
        """Yield the blocks with their rows and results."""
        with closing(run_images(task.settings, span.layers, records, runs, count)) as of_runs:
            yield from zip(blocks, runs, of_runs, strict=False)

    def write(block: tuple[int, slice, BlockResult]) -> slice:
        """Write a block, while the next one is mined; return its rows."""
        number, rows, result = block
        write_block(store, number, result)
        return rows

    with closing(map_ahead(write, results(), 1, 1)) as written, ExitStack() as at_the_end:
        at_the_end.callback(ended.set)
        for rows in written:
            meter.add(rows.start - rows.stop)
            if abandoned():
                return


def write_block(store: Store, block: int, result: BlockResult) -> None:
    """Write a block: its images' columns, the layers' activations, then the markers."""
    store.images.write(block, image_columns(result))
    for name, arrays in result.layers.items():
        store.layer(name).write_block(block, *arrays)
    for name in result.layers:
        store.progress.mark(name, block)
