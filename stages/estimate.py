"""What a run would do, write and take, told before it does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from pipeline import shards
from pipeline.activations import Place, run_images
from pipeline.device import cores
from pipeline.layers import Layer
from pipeline.patches import window_size
from pipeline.plan import Plan
from pipeline.ranking import RANKS

WARM_UP = 2  # batches
CALIBRATION_S = 5.0


def estimate(plan: Plan) -> Iterator[str]:
    """Give lines with images, blocks, the bytes of a store before compression, and the time that mining takes."""
    places = [
        (number, entry.offset, entry.size, entry.key, entry.damage)
        for number, shard in enumerate(plan.dataset.shards)
        for entry in shards.scan(shard)
    ]
    images = len(places)
    blocks = -(-images // plan.config.mine.block)
    yield f"{images:,} images in {len(plan.dataset.shards)} shards, {blocks:,} blocks of {plan.config.mine.block}"
    total = 0
    for layer in plan.layers:
        size = _bytes(plan, layer, images)
        total += size
        yield f"layer {layer.name}: {layer.filters} filters, up to {_mib(size)}"
    yield f"{plan.config.store}: up to {_mib(total)} before compression, on {plan.device}"
    rate = calibrate(plan, places)
    if rate:
        yield _time(images, rate)


def calibrate(plan: Plan, places: list[Place]) -> float:
    """Mine some images for a few seconds, without writing: images/s of this machine, 0 where they are too few."""
    batch = plan.config.mine.batch
    step = max(1, len(places) // 4096)  # from all over the dataset
    runs = [slice(first, first + batch) for first in range(0, len(places[::step]) // batch * batch, batch)]
    with closing(run_images(plan, plan.layers, places[::step], runs, cores())) as mined:
        if len(list(islice(mined, WARM_UP))) < WARM_UP:
            return 0
        began, done = time.perf_counter(), 0
        for _ in mined:
            done += batch
            if time.perf_counter() - began > CALIBRATION_S:
                break
        return done / (time.perf_counter() - began)


def _time(images: int, rate: float) -> str:
    seconds = images / rate
    size, unit = next(
        (size, unit) for size, unit in ((3600, "h"), (60, "min"), (1, "s")) if seconds >= 10 * size or size == 1
    )
    return f"mining takes about {seconds / size:,.0f} {unit} on this machine: {rate:,.0f} images/s with {cores()} cores"


def _bytes(plan: Plan, layer: Layer, images: int) -> int:
    height, width = window_size(layer.field, plan.config.decode.crop)
    mined = images * layer.filters * (4 + 2 + 2)
    projected = layer.filters * RANKS * height * width * 3 * (4 + 1)
    return mined + projected


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
