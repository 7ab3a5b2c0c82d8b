"""What a run would do, write and take, described before it does it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from itertools import islice

from topnine.pipeline.compute.activations import MiningSettings, run_images
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.data.images import ImageRecord
from topnine.pipeline.data.listing import Index, check_complete
from topnine.pipeline.data.reader import list_dataset
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.ranking.topk import RANKS
from topnine.stages.settings import mining_settings

WARM_UP_BATCHES = 2
CALIBRATION_S = 5.0
CALIBRATION_IMAGES = 4096  # at most, from all over the dataset


def estimate(plan: Plan) -> Iterator[str]:
    """Yield lines with images, blocks, the bytes of a store before compression, and the time that mining takes.

    The time is measured in this process. Where workers of their own compute on a GPU, which this machine need not have,
    there is none.
    """
    yield from plan.remarks
    index = list_dataset(plan.dataset)
    check_complete(index, plan.config.data.on_incomplete)
    images = len(index)
    blocks = -(-images // plan.config.mine.block)
    yield f"{images:,} images in {len(plan.dataset.shards)} shards, {blocks:,} blocks of {plan.config.mine.block}"
    sizes = [_layer_bytes(layer, images, plan.config.decode.crop) for layer in plan.layers]
    for layer, size in zip(plan.layers, sizes, strict=True):
        yield f"layer {layer.name}: {layer.filters} filters, up to {_mib(size)}"
        yield from (f"  {line}" for line in _describe_probe(layer))
    cluster = plan.config.cluster
    here = cluster.kind == "inline" or cluster.device == "cpu"
    device = open_device(cluster.device).name if here else f"{cluster.device} of the workers"
    yield f"{plan.config.store}: up to {_mib(sum(sizes))} before compression, on {device}"
    rate = calibrate(mining_settings(plan, count_cores()), plan.layers, _sample(index)) if here else 0
    if rate:
        yield _describe_time(images, rate)


def calibrate(settings: MiningSettings, layers: tuple[Layer, ...], records: list[ImageRecord]) -> float:
    """Mine some images for a few seconds, without writing: return images/s, 0 where there are too few images."""
    batch = settings.batch
    runs = [slice(first, first + batch) for first in range(0, len(records) // batch * batch, batch)]
    with closing(run_images(settings, layers, records, runs)) as mined:
        if len(list(islice(mined, WARM_UP_BATCHES))) < WARM_UP_BATCHES:
            return 0
        began, done = time.perf_counter(), 0
        for _ in mined:
            done += batch
            if time.perf_counter() - began > CALIBRATION_S:
                break
        return done / (time.perf_counter() - began)


def _sample(index: Index) -> list[ImageRecord]:
    """Return the records of some images from all over a dataset."""
    numbers = range(0, len(index), max(1, len(index) // CALIBRATION_IMAGES))
    columns = (column[numbers].tolist() for column in (index.shard, index.offset, index.size, index.key))
    rows = zip(numbers, *columns, strict=True)
    return [
        ImageRecord(shard, offset, size, key, index.damage.get(number, "")) for number, shard, offset, size, key in rows
    ]


def _describe_probe(layer: Layer) -> Iterator[str]:
    """Yield what the probe found of a layer."""
    field, size = layer.field, layer.field.attributes()["size"]
    claims = {
        "graph": f"{size} pixels, from the graph, and the gradient agrees",
        "measured": f"{size} pixels, measured",
        "bound": f"within {size} pixels, measured: it differs from position to position",
        "input": "the whole input",
    }
    yield f"read behind {layer.tap.follows} of {layer.module}, as {layer.tap.layout}"
    yield f"receptive field: {claims[field.source]}; projected on {'whole images' if layer.whole_image else 'crops'}"
    rectifiers = Counter(rectifier.name for rectifier in layer.tap.rectifiers)
    yield "rectifiers: " + (", ".join(f"{count} × {name}" for name, count in rectifiers.items()) or "none")
    for label, names in (
        ("pass their derivative back", layer.passing),
        ("bend and are no rectifiers, so that only deconvolve.rule = gradient is defined", layer.unrectified),
        ("are not seen by the trace", layer.unseen),
        ("cannot be projected", (layer.unprojectable,) if layer.unprojectable else ()),
    ):
        if names:
            yield f"{label}: {', '.join(names)}"


def _describe_time(images: int, rate: float) -> str:
    seconds = images / rate
    units = ((3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((size, unit) for size, unit in units if seconds >= 10 * size or size == 1)
    speed = f"{rate:,.0f} images/s with {count_cores()} cores"
    return f"mining takes about {seconds / size:,.0f} {unit} on this machine: {speed}"


def _layer_bytes(layer: Layer, images: int, crop: int) -> int:
    height, width = patch_size(layer.field, crop)
    mined = images * layer.filters * (4 + 2 + 2)
    projected = layer.filters * RANKS * height * width * 3 * (4 + 1)
    return mined + projected


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
