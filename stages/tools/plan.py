"""What a run would do, write and take, described before it does it."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from topnine.pipeline.compute.activations import BlockResult, MiningSettings, join, run_images
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.compute.projections import make_projections, ranked_images
from topnine.pipeline.data.decoding.preparation import Preparation
from topnine.pipeline.data.fetching import ImageRecord
from topnine.pipeline.data.listing import Index, check_complete
from topnine.pipeline.data.reader import list_dataset
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.ranking.topk import RANKS, Ranking, top
from topnine.pipeline.store.store import Store
from topnine.stages.progress import describe_seconds
from topnine.stages.settings import mining_settings, projection_settings
from topnine.stages.work import find_stale

WARM_UP_BATCHES = 2
CALIBRATION_S = 5.0
CALIBRATION_IMAGES = 4096  # at most, from all over the dataset
PROJECTED = 2  # filters of a layer that are projected to see how long one takes
TILE_S = 1.5  # to draw the sheets of a layer


@dataclass(frozen=True)
class LayerPlan:
    """A layer of a run: its filters, the most bytes that it takes before compression, and what the probe found."""

    name: str
    filters: int
    size: int
    found: tuple[str, ...]


@dataclass(frozen=True)
class StagePlan:
    """A stage of a run: how many of its units are done already, and the seconds that the others take about.

    ``seconds`` is None where that cannot be measured here.
    """

    stage: str
    done: int
    total: int
    unit: str
    seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """What a run would do, write and take.

    Attributes
    ----------
    remarks : tuple of str
        What was chosen for the user.
    images, shards, blocks, block : int
        Of the dataset; ``block`` is how many images a block has.
    layers : tuple of LayerPlan
    store, device : str
    size : int
        The most bytes of the store before compression.
    images_per_second : float
        That mining was measured at, with ``cores``; 0 where it was not.
    stages : tuple of StagePlan
        In their order.
    """

    remarks: tuple[str, ...]
    images: int
    shards: int
    blocks: int
    block: int
    layers: tuple[LayerPlan, ...]
    store: str
    size: int
    device: str
    images_per_second: float
    cores: int
    stages: tuple[StagePlan, ...]


@dataclass(frozen=True)
class Calibration:
    """How fast some images were mined, 0 where there are too few, and what the first ones (``records``) gave."""

    images_per_second: float
    records: Sequence[ImageRecord] = ()
    result: BlockResult | None = None


def estimate(plan: Plan) -> Estimate:
    """Return what a run would do, write and take.

    Times are measured in this process, a few seconds for each stage. Where workers of their own compute on a GPU, which
    this machine need not have, there are none.
    """
    began = time.perf_counter()
    index = list_dataset(plan.dataset)
    check_complete(index, plan.config.data.on_incomplete)
    listed = time.perf_counter() - began
    images, block, cluster = len(index), plan.config.mine.block, plan.config.cluster
    sizes = [_layer_bytes(layer, images, plan.preparation) for layer in plan.layers]
    here = cluster.kind == "inline" or cluster.device == "cpu"
    device = open_device(cluster.device).name if here else f"{cluster.device} of the workers"
    calibration = Calibration(0)
    if here:
        calibration = calibrate(mining_settings(plan, count_cores()), plan.layers, _sample(index))
    return Estimate(
        remarks=tuple(plan.remarks),
        images=images,
        shards=len(plan.dataset.shards),
        blocks=-(-images // block),
        block=block,
        layers=tuple(
            LayerPlan(layer.name, layer.filters, size, tuple(describe_probe(layer)))
            for layer, size in zip(plan.layers, sizes, strict=True)
        ),
        store=plan.config.store,
        size=sum(sizes),
        device=device,
        images_per_second=calibration.images_per_second,
        cores=count_cores(),
        stages=tuple(_list_stages(plan, images, listed, calibration)),
    )


def describe_estimate(found: Estimate) -> Iterator[str]:
    """Yield the lines of ``topnine plan``."""
    yield from found.remarks
    yield f"{found.images:,} images in {found.shards} shards, {found.blocks:,} blocks of {found.block}"
    for layer in found.layers:
        yield f"layer {layer.name}: {layer.filters} filters, up to {_mib(layer.size)}"
        yield from (f"  {line}" for line in layer.found)
    yield f"{found.store}: up to {_mib(found.size)} before compression, on {found.device}"
    for stage in found.stages:
        yield f"{stage.stage}: {_describe_stage(stage)}"
    if found.images_per_second:
        yield f"measured on this machine with {found.cores} cores: {found.images_per_second:,.0f} images/s are mined"


def _describe_stage(stage: StagePlan) -> str:
    if stage.done == stage.total:
        return "done"
    left = f"{stage.total - stage.done:,} {stage.unit}"
    part = f"{stage.done:,} of {stage.total:,} {stage.unit} done, {left} left" if stage.done else left
    return part if stage.seconds is None else f"{part}, about {describe_seconds(stage.seconds)}"


def _list_stages(plan: Plan, images: int, listed: float, calibration: Calibration) -> Iterator[StagePlan]:
    """Yield the stages of ``topnine run``, each with what is left of it."""
    store = Store.open(plan.config.store) if Store.exists(plan.config.store) else None
    indexed = store is not None and store.fingerprint("index") is not None
    shards = len(plan.dataset.shards)
    yield StagePlan("index", shards if indexed else 0, shards, "shards", 0 if indexed else listed)
    names = [layer.name for layer in plan.layers]
    blocks = -(-images // plan.config.mine.block)
    mined = len(set.intersection(*(store.progress.done_blocks(name) for name in names))) if store and indexed else 0
    rate = calibration.images_per_second
    done = images if mined == blocks else mined * plan.config.mine.block
    yield StagePlan("mine", done, images, "images", (images - done) / rate if rate else None)
    unranked, unprojected = (
        find_stale(store, plan.fingerprints, stage, plan.layers) if store and indexed else plan.layers
        for stage in ("rank", "deconvolve")
    )
    seconds = blocks * sum(_time_ranking(plan.config.mine.block, layer.filters) for layer in unranked)
    yield StagePlan("rank", len(names) - len(unranked), len(names), "layers", seconds)
    total, left = (sum(layer.filters for layer in layers) for layers in (plan.layers, unprojected))
    times = [_time_projection(plan, layer, calibration) for layer in unprojected]
    known = [each for each in times if each is not None]
    yield StagePlan("deconvolve", total - left, total, "filters", sum(known) if len(known) == len(times) else None)
    yield StagePlan("tile", 0, len(names), "layers", TILE_S * len(names))


def calibrate(settings: MiningSettings, layers: tuple[Layer, ...], records: Sequence[ImageRecord]) -> Calibration:
    """Mine some images for a few seconds, without writing."""
    batch = settings.batch
    runs = [slice(first, first + batch) for first in range(0, len(records) // batch * batch, batch)]
    with closing(run_images(settings, layers, records, runs)) as mined:
        first = list(islice(mined, WARM_UP_BATCHES))
        if len(first) < WARM_UP_BATCHES:
            return Calibration(0)
        began, done = time.perf_counter(), 0
        for _ in mined:
            done += batch
            if time.perf_counter() - began > CALIBRATION_S:
                break
        rate = done / (time.perf_counter() - began)
    return Calibration(rate, records[: WARM_UP_BATCHES * batch], join(first))


def _time_ranking(block: int, filters: int) -> float:
    """Return the seconds that ranking a block of a layer takes."""
    activation = np.random.default_rng(0).random((block, filters), np.float32)
    began = time.perf_counter()
    top(activation)
    return time.perf_counter() - began


def _time_projection(plan: Plan, layer: Layer, calibration: Calibration) -> float | None:
    """Return the seconds that projecting a layer takes, from a few filters; None where it cannot be tried."""
    is_defined = plan.config.deconvolve.rule == "gradient" or not (layer.unrectified or layer.unseen)
    if calibration.result is None or layer.unprojectable or not is_defined:
        return None
    activation, row, column = calibration.result.layers[layer.name]
    strongest = np.nanmax(np.nan_to_num(activation), axis=0)
    pairs = np.minimum(strongest[:-1], strongest[1:])
    first = int(np.argmax(pairs))
    if not pairs.size or pairs[first] <= 0:
        return None
    chosen = slice(first, first + PROJECTED)
    ranked = top(activation[:, chosen])
    filters = np.arange(PROJECTED)[:, None]
    at = np.maximum(ranked.image, 0), filters + first
    ranking = Ranking(ranked.activation, ranked.image, row[at].astype(np.int32), column[at].astype(np.int32))
    records = [calibration.records[number] for number in ranked_images(ranking)]
    settings = projection_settings(plan, layer, count_cores())
    for _ in range(2):  # the first one warms up
        began = time.perf_counter()
        make_projections(ranking, first, records, settings, lambda: False)
    hits = int((ranking.image >= 0).sum())
    return (time.perf_counter() - began) / hits * RANKS * layer.filters


def _sample(index: Index) -> list[ImageRecord]:
    """Return the records of some images from all over a dataset."""
    numbers = range(0, len(index), max(1, len(index) // CALIBRATION_IMAGES))
    columns = (column[numbers].tolist() for column in (index.shard, index.offset, index.size, index.key))
    rows = zip(numbers, *columns, strict=True)
    return [
        ImageRecord(shard, offset, size, key, index.damage.get(number, "")) for number, shard, offset, size, key in rows
    ]


def describe_probe(layer: Layer) -> Iterator[str]:
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


def _layer_bytes(layer: Layer, images: int, preparation: Preparation) -> int:
    height, width = patch_size(layer.field, preparation.size)
    mined = images * layer.filters * (4 + 2 + 2)
    projected = layer.filters * RANKS * height * width * 3 * (4 + 1)
    return mined + projected


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
