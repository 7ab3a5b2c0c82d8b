"""Stage mine: stream the images through the network, block by block, and record every filter's activation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice

import numpy as np
import torch

from pipeline import cluster, shards
from pipeline.cluster import Pool
from pipeline.decode import Decoded, decode
from pipeline.device import repeatable
from pipeline.errors import DecodeError, WorkError
from pipeline.layers import Layer
from pipeline.networks import Network
from pipeline.plan import Plan, versions
from pipeline.store import OK, UNDECODABLE, Store
from pipeline.stream import ahead
from pipeline.taps import read_taps, spatial_maximum

from .progress import Progress

MANY_DAMAGED = 10  # images; fewer never fail a run


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
        A shard is not what was indexed; or, when all is mined, too many images are damaged.
    """
    store = Store.open(plan.config.store, write=True)
    for layer in plan.layers:
        if layer.name not in store.layers:
            store.add_layer(layer, plan.config.mine.precision, versions(), plan.mine_fingerprint(layer))
    todo = find_todo(store, plan.layers)
    skipped = _images(store, set(range(store.blocks)) - todo.keys())
    yield Progress("mine", skipped, store.images, "images", skipped)
    if todo:
        for finished in pool.run(check_shard, touched_shards(plan, store), plan):
            if finished and finished[1]:
                raise WorkError(finished[1])
    for _ in pool.run(mine_span, find_spans(todo, plan.config.mine.span), plan, pool.threads):
        left = find_todo(store, plan.layers)
        yield Progress("mine", _images(store, set(range(store.blocks)) - left.keys()), store.images, "images", skipped)
    check_damage(plan, store)


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
    """Mine the blocks of a span (a task): its decoder runs ahead of the network, across the blocks."""
    store = Store.open(plan.config.store, write=True)
    network = plan.network()
    rows = slice(store.rows(span.blocks[0]).start, store.rows(span.blocks[-1]).stop)
    limit = max(2, plan.config.mine.queue_mib * 2**20 // (plan.config.decode.crop**2 * 3))
    columns = store.image_columns(("shard", "offset", "size", "key", "reason"), rows)
    with shards.opened(plan.dataset) as reader, repeatable(threads), torch.inference_mode():
        read = partial(read_image, reader, plan)
        decoded = ahead(read, zip(*(column.tolist() for column in columns), strict=True), threads, limit)
        for block in span.blocks:
            if cluster.stopping.is_set():
                break
            images = store.rows(block)
            mine_block(store, plan, network, span.layers, block, list_batches(decoded, images, plan.config.mine.batch))
        decoded.close()


def read_image(reader: shards.Reader, plan: Plan, place: tuple[int, int, int, str, str]) -> Decoded | DecodeError:
    """Read and decode an image by shard, offset, size, key and what is known to be wrong with it."""
    shard, offset, size, key, reason = place
    name = plan.dataset.shards[shard].name
    try:
        if reason:
            raise DecodeError(reason)
        data = reader.read(shard, offset, size)
        return decode(data, plan.config.decode.resize, plan.config.decode.crop, plan.config.data.max_pixels)
    except DecodeError as error:
        if plan.config.data.on_damaged == "fail":
            raise WorkError(
                f'shard {name}: image {key} cannot be decoded: {error}. Replace it, or set data.on_damaged = "skip".'
            ) from None
        return error
    except OSError as error:
        raise WorkError(f"shard {name}: image {key} cannot be read: {error}") from None


def list_batches(
    decoded: Iterator[Decoded | DecodeError], images: slice, batch: int
) -> Iterator[list[Decoded | DecodeError]]:
    """Take the images of a block from a stream, in batches that never cross it."""
    for start in range(images.start, images.stop, batch):
        yield list(islice(decoded, min(batch, images.stop - start)))


def mine_block(
    store: Store,
    plan: Plan,
    network: Network,
    layers: tuple[Layer, ...],
    block: int,
    batches: Iterator[list[Decoded | DecodeError]],
) -> None:
    """Run a block through the network; write its images' status, its layers' activations, then its markers."""
    images: list[Decoded | DecodeError] = []
    strongest: list[dict[str, list[np.ndarray]]] = []
    for batch in batches:
        images += batch
        strongest.append(run_batch(plan, network, layers, batch))
    bad = np.array([isinstance(image, DecodeError) for image in images])
    sizes = [
        (0, 0) if isinstance(image, DecodeError) else (image.geometry.height, image.geometry.width) for image in images
    ]
    reasons = [str(image) if isinstance(image, DecodeError) else "" for image in images]
    columns = {
        "status": np.where(bad, UNDECODABLE, OK),
        "reason": np.array(reasons, dtype=np.dtypes.StringDType()),
        "height": np.array([height for height, _ in sizes]),
        "width": np.array([width for _, width in sizes]),
    }
    store.write_images(block, columns)
    for layer in layers:
        activation, row, column = (
            np.concatenate(parts) for parts in zip(*(b[layer.name] for b in strongest), strict=True)
        )
        activation[bad], row[bad], column[bad] = np.nan, 0, 0
        if not np.isfinite(activation[~bad]).all():
            raise WorkError(
                f"layer {layer.name} gives activations that are not finite in block {block}: "
                "its weights are damaged, or mine.precision is too coarse for it."
            )
        store.write_block(layer.name, block, activation, row, column)
    for layer in layers:
        store.mark(layer.name, block)


def run_batch(
    plan: Plan, network: Network, layers: tuple[Layer, ...], batch: list[Decoded | DecodeError]
) -> dict[str, list[np.ndarray]]:
    """Give for every layer activation float32, row and column (image, filter); undecodable images are black here."""
    crop = plan.config.decode.crop
    pixels = np.zeros((len(batch), crop, crop, 3), np.uint8)
    for i, image in enumerate(batch):
        if isinstance(image, Decoded):
            pixels[i] = image.pixels
    normalised = network.architecture.normalise(torch.from_numpy(pixels).to(plan.device))
    taps = {layer.name: layer.tap for layer in layers}
    with torch.autocast(plan.device.split(":")[0], torch.bfloat16, enabled=plan.config.mine.precision == "bfloat16"):
        found = read_taps(network.module, normalised, taps, spatial_maximum)
    return {
        name: [activation.float().cpu().numpy(), row.cpu().numpy(), column.cpu().numpy()]
        for name, (activation, row, column) in found.items()
    }


def _images(store: Store, blocks: set[int]) -> int:
    return sum(store.rows(block).stop - store.rows(block).start for block in blocks)
