"""Mining ImageNet photographs with AlexNet, against decoding and the network alone, and against other tools."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import cache, partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.benchmarks import peers
from tests.benchmarks.measure import IMAGENET_IMAGES, Row, at_least, at_most, in_turn, reported
from tests.conftest import normalised, plan_run, run_stages
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.compute.activations import BlockResult, Forward, image_columns
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.config.clusters import InlineCluster
from topnine.pipeline.data import images as images_module
from topnine.pipeline.data.decoding import decode as decode_module
from topnine.pipeline.data.decoding.decode import Decoded, decode
from topnine.pipeline.data.images import DecodedBatch
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.taps import read_taps, spatial_maximum
from topnine.pipeline.plan import Plan
from topnine.pipeline.prefetch import map_ahead
from topnine.pipeline.ranking.topk import RANKS
from topnine.pipeline.store.store import Store
from topnine.stages.mine import mine
from topnine.stages.rank import rank
from topnine.stages.settings import mining_settings

CONFIG = "configs/imagenet-alexnet.toml"
_number = count()


def planned(folder: Path, data: Path, **changes: Any) -> Plan:
    """Make a plan and index into a new store."""
    settings = {"network__weights": "random", "data__path": data, "mine__layers": "5", **changes}
    plan = plan_run(folder / f"run{next(_number)}", CONFIG, **settings)
    run_stages(plan, "index")
    return plan


@cache
def warm_pool() -> Pool:
    """Start the inline cluster once: what is measured are images a second, not how long Dask takes to begin."""
    return ExitStack().enter_context(connect(InlineCluster()))


def repeated(data: Path, folder: Path, times: int) -> Path:
    """Make a folder with links to the shards of another, several times, and return it."""
    folder.mkdir()
    for i in range(times):
        for tar in sorted(data.glob("*.tar")):
            (folder / f"{i:02d}-{tar.name}").symlink_to(tar.resolve())
    return folder


def mined(plan: Plan, pool: Pool | None = None) -> None:
    """Mine into the store of a plan, anew; in the process itself, unless workers are given."""
    for layer in plan.layers:
        shutil.rmtree(Path(plan.config.store) / "layers" / layer.name, ignore_errors=True)
        shutil.rmtree(Path(plan.config.store) / "progress" / "done" / layer.name, ignore_errors=True)
    for _ in mine(plan, pool or warm_pool(), Store.open(plan.config.store, write=True)):
        pass


def ranked(plan: Plan) -> np.ndarray:
    """Rank what was mined; return the nine images (filter, rank) of the deepest layer."""
    for _ in rank(plan, warm_pool(), Store.open(plan.config.store, write=True)):
        pass
    return Store.open(plan.config.store).layer(plan.layers[-1].name).read_ranking().image


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """Return the share of images (filter, rank) of one ranking that the other has, too, of live filters."""
    live = first[:, -1] >= 0
    pairs = zip(first[live], second[live], strict=True)
    return float(np.mean([len(set(a.tolist()) & set(b.tolist())) / RANKS for a, b in pairs]))


def decode_all(plan: Plan, threads: int) -> list[Decoded]:
    """Decode every image."""
    with open_reader(plan.dataset) as reader:

        def read(position: tuple[int, int, int, str]) -> Decoded:
            return decode(reader.read(*position), plan.preparation)

        shards = enumerate(plan.dataset.shards)
        positions = [(number, e.offset, e.size, e.key) for number, shard in shards for e in list_images(shard)]
        return list(map_ahead(read, positions, threads, 256))


def _batches(plan: Plan, images: list[Decoded]) -> Iterator[DecodedBatch]:
    for start in range(0, len(images), plan.config.mine.batch):
        of_batch = images[start : start + plan.config.mine.batch]
        yield DecodedBatch([], np.stack([image.pixels for image in of_batch]), list(of_batch))


def forward_side_by_side(plan: Plan, images: list[Decoded]) -> list[BlockResult]:
    """Run every decoded image through the network: several batches at once, on one core each."""
    device = open_device("cpu")
    forward = Forward.of(mining_settings(plan, count_cores()), plan.layers, device)
    with device.deterministic():
        return list(map_ahead(forward.run_batch, _batches(plan, images), count_cores(), count_cores() + 1))


def forward_together(plan: Plan, images: list[Decoded]) -> list[BlockResult]:
    """Run every decoded image through the network: a batch after the other, each on all cores."""
    network = plan.network
    tap = {plan.layers[-1].name: plan.layers[-1].tap}
    torch.set_num_threads(count_cores())
    with torch.inference_mode():
        for batch in _batches(plan, images):
            pixels = torch.from_numpy(batch.pixels)
            read_taps(network.module, normalised(pixels, network.architecture), tap, spatial_maximum)
    return []


def efficiency_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare mining with the limit of the machine, and with what a user would write instead."""
    plan = planned(folder, repeated(data, folder / "twice", 2))
    images = decode_all(plan, count_cores())
    loaders = {f"loader{n}": partial(peers.run_loader, plan, n) for n in (0, 1, 2)}
    took = in_turn(
        {
            "decode": lambda: decode_all(plan, count_cores()),
            "decode one more": lambda: decode_all(plan, count_cores() + 1),
            "side by side": lambda: forward_side_by_side(plan, images),
            "together": lambda: forward_together(plan, images),
            "mine": lambda: mined(plan),
            **loaders,
        },
        rounds,
    )
    d = len(images) / min(took["decode"], took["decode one more"])
    f = len(images) / min(took["side by side"], took["together"])
    rate, limit = len(images) / took["mine"], 1 / (1 / d + 1 / f)
    together, apart = len(images) / took["together"], len(images) / took["side by side"]
    detail = (
        f"mine {rate:.0f} images/s, limit {limit:.0f}: decode alone {d:.0f}, forward alone {f:.0f} "
        f"({apart:.0f} with a batch a core, {together:.0f} with all cores on one)"
    )
    yield at_least("mine conv5, of the machine's limit", rate / limit, 0.93, detail)
    workers, best = min(((name, took[name]) for name in loaders), key=lambda pair: pair[1])
    alike = planned(folder, folder / "twice", decode__resample="pillow")  # whose pixels the loader's are
    mined(alike)
    ours = ranked(alike)
    theirs = peers.run_loader(alike, 0)
    peers.check_values(Store.open(alike.config.store).layer("conv5").read_ranking().activation, theirs.activations)
    detail = (
        f"{len(images) / best:.0f} images/s with {workers[-1]} workers; its nine are kept in bfloat16: equal to that, "
        f"{overlap(ours, theirs.sample_ids.numpy()):.1%} of the images the same"
    )
    yield reported("mine conv5, against DataLoader + semanticlens", best / took["mine"], detail)


def crp_row(data: Path, folder: Path, rounds: int) -> Row:
    """Compare mining with zennit-crp's, with the composite of its tutorial; and without, which it allows, too."""
    from zennit.composites import EpsilonPlusFlat

    plan, alike = planned(folder, data), planned(folder, data, decode__resample="pillow")  # which crp's pixels are
    rankings: list[np.ndarray] = []
    ways = {
        "mine": lambda: mined(plan),
        "crp": lambda: rankings.append(peers.run_crp(plan, folder / "crp", EpsilonPlusFlat())),
        "bare": lambda: rankings.append(peers.run_crp(plan, folder / "bare", None)),
    }
    took = in_turn(ways, rounds, warm=False)
    mined(alike)
    same = overlap(ranked(alike), rankings[0])
    if same < 0.999:
        raise SystemExit(f"zennit-crp finds other images: only {same:.2%} the same")
    bare = f"without its composite, {500 / took['bare']:.0f}, {took['bare'] / took['mine']:.1f} times"
    detail = f"{500 / took['crp']:.0f} images/s, {same:.1%} of the images the same; {bare}"
    return reported("mine conv5, against zennit-crp", took["crp"] / took["mine"], detail)


def variant_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare all layers with one, bfloat16 with float32, fast decoding with exact."""
    plans = {
        "one": planned(folder, data),
        "all": planned(folder, data, mine__layers="all"),
        "bfloat16": planned(folder, data, mine__precision="bfloat16"),
        "fast": planned(folder, data, decode__fast="true"),
    }
    took = in_turn({name: partial(mined, plan) for name, plan in plans.items()}, rounds)
    nine = {name: ranked(plan) for name, plan in plans.items()}
    detail = f"{500 / took['all']:.0f} images/s"
    yield at_most("mine all five layers, against layer 5 alone, time", took["all"] / took["one"], 1.15, detail)
    detail = f"{500 / took['bfloat16']:.0f} images/s, {overlap(nine['one'], nine['bfloat16']):.1%} of the nine the same"
    yield reported("mine conv5 in bfloat16, against float32", took["one"] / took["bfloat16"], detail)
    detail = f"{500 / took['fast']:.0f} images/s, {overlap(nine['one'], nine['fast']):.1%} of the nine the same"
    yield reported("mine conv5 with decode.fast, against without", took["one"] / took["fast"], detail)
    size = sum(file.stat().st_size for file in Path(plans["all"].config.store).rglob("*") if file.is_file())
    gigabytes = size / 500 * IMAGENET_IMAGES / 1e9
    detail = f"{size / 500:,.0f} bytes an image"
    yield reported("GB of store, ImageNet, AlexNet's five layers, from 500 images", gigabytes, detail)


def nothing(forward: Forward, batch: DecodedBatch) -> BlockResult:
    """Return what a network would, without one."""
    (layer,), shape = forward.layers, (len(batch.images), forward.layers[0].filters)
    arrays = np.ones(shape, np.float32), *np.zeros((2, *shape), np.int64)
    return BlockResult(image_columns(batch.images), {layer.name: arrays})


def decoding_nothing(plan: Plan) -> Any:
    """Return a context in which every image is one that is decoded already."""
    first = replace(plan, dataset=replace(plan.dataset, shards=plan.dataset.shards[:1]))
    image = decode_all(first, 1)[0]

    def decode(data: object, preparation: object, out: object) -> Decoded:
        return image

    return mock.patch.object(images_module, "decode", decode)


def feed_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare mining without a network with bare decoding, and with mining that decodes with Pillow alone."""
    many = repeated(data, folder / "fed", 4)
    plan, by_pillow = planned(folder, many), planned(folder, many, decode__resample="pillow")

    def old() -> None:
        with mock.patch.object(decode_module, "read_jpeg_header", return_value=None):  # so that Pillow is asked
            mined(by_pillow)

    with mock.patch.object(Forward, "run_batch", nothing):
        ways = {"decode": lambda: decode_all(plan, count_cores()), "feed": lambda: mined(plan), "old": old}
        took = in_turn(ways, rounds)
    bare, fed, before = (len(Store.open(plan.config.store).images) / took[way] for way in ways)
    detail = f"{fed:.0f} images/s through shards, queue, blocks, writes and markers; decode alone {bare:.0f}"
    yield at_least("feed: mine without a network, against decoding", fed / bare, 0.95, detail)
    detail = f"with Pillow alone {before:.0f} images/s"
    yield at_least("feed, against feed with Pillow alone", fed / before, 1.6, detail)


def python_row(data: Path, folder: Path, rounds: int) -> Row:
    """Mine with a decoder and a network that cost nothing: what is left is reading, Python, and writing."""
    plan = planned(folder, repeated(data, folder / "free", 32))
    with mock.patch.object(Forward, "run_batch", nothing), decoding_nothing(plan):
        took = in_turn({"free": lambda: mined(plan)}, rounds)["free"]
    images = len(Store.open(plan.config.store).images)
    detail = f"{images / took:,.0f} images/s, their reading and the store's writes included"
    return at_most("µs of Python an image, decoder and network costing nothing", took / images * 1e6, 50, detail)


PEAK = """
import sys
from topnine.stages.cli.main import main
from tests.conftest import peak_kib
for stage in ("index", "mine"):
    sys.argv[1:2] = [stage]
    try:
        main()
    except SystemExit as end:
        assert not end.code
print(peak_kib(), file=sys.stderr)
"""


def memory_row(data: Path, folder: Path, rounds: int) -> Row:
    """Compare the peak memory of mining 20 times the data with that of mining it once; medians, in turn."""
    five, many = (repeated(data, folder / f"{times}-times", times) for times in (5, 20))
    peaks: dict[Path, list[int]] = {data: [], five: [], many: []}
    for turn in range(rounds):
        for path, peaks_kib in peaks.items():
            options = ["--config", CONFIG, "--data", str(path), "--weights", "random", "--layer", "5"]
            options += ["--store", str(folder / f"peak-{path.name}-{turn}.zarr"), "--set", "mine.block=128"]
            command = [sys.executable, "-c", PEAK, "STAGE", *options]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            peaks_kib.append(int(run.stderr.splitlines()[-1]))
    once, some, often = (median(peaks_kib) / 1024 for peaks_kib in peaks.values())
    detail = f"{once:.0f} MiB for 500 images, {some:.0f} MiB for 2,500, {often:.0f} MiB for 10,000, with their index"
    return at_most("memory of mine, 20 times the data", often / once, 1.03, detail)
