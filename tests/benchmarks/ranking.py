"""Ranking a layer as long as ImageNet, and its statistics, against reading its activations once."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from unittest import mock

import numpy as np

from tests.benchmarks.measure import IMAGENET_IMAGES, Row, at_most, in_turn
from tests.benchmarks.mining import warm_pool
from tests.conftest import plan_run
from topnine.pipeline.plan import Plan
from topnine.pipeline.store import arrays
from topnine.pipeline.store.store import Store
from topnine.stages.rank import rank
from topnine.stages.statistics import statistics

FILTERS = 256  # of conv5
CLASSES = 1000
MOST_MIB = 600  # beyond what the process takes anyway

PEAK = """
import sys
from pathlib import Path
from tests.benchmarks import ranking
from tests.conftest import peak_kib
plan = ranking.planned(Path(sys.argv[2]), 1024)
Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now
before = peak_kib()
getattr(ranking, sys.argv[1])(plan)
print((peak_kib() - before) / 1024)
"""


def planned(folder: Path, block: int) -> Plan:
    """Make a plan for AlexNet's conv5, whose store is in a folder."""
    return plan_run(
        folder,
        "configs/imagenet-alexnet.toml",
        data__path="photos",
        network__weights="random",
        mine__layers="5",
        mine__block=block,
    )


def synthetic(folder: Path, block: int) -> Plan:
    """Make a mined store as long as ImageNet: three of five activations zero, many equal, some images undecodable."""
    plan = planned(folder, block)
    (layer,) = plan.layers
    store = Store.create(plan.config.store)
    text = np.full(IMAGENET_IMAGES, "", dtype=np.dtypes.StringDType())
    columns = {name: np.zeros(IMAGENET_IMAGES, np.int64) for name in ("shard", "offset", "byte_count")}
    columns["label"] = np.random.default_rng(1).integers(0, CLASSES, IMAGENET_IMAGES)
    store.write_index({"key": text, **columns}, text, block, plan.root_attributes([]), plan.fingerprints.index, {})
    store = Store.open(plan.config.store, write=True)
    attributes = {**layer.attributes(), "precision": "float32", "versions": {}}
    store.add_layer(layer.name, attributes, plan.fingerprints.of("mine", layer))
    random = np.random.default_rng(0)
    base = random.gamma(2.0, 8.0, (4096, FILTERS)) * (random.random((4096, FILTERS)) < 0.4)
    chosen, strength = random.integers(0, 4096, IMAGENET_IMAGES), random.random(IMAGENET_IMAGES)
    bad = random.random(IMAGENET_IMAGES) < 0.001
    nowhere = np.zeros((block, FILTERS), np.uint16)
    for number in range(store.images.blocks):
        rows = store.images.rows(number)
        activation = (np.round(base[chosen[rows]] * strength[rows, None] * 4) / 4).astype(np.float32)
        activation[bad[rows]] = np.nan
        count = rows.stop - rows.start
        store.layer(layer.name).write_block(number, activation, nowhere[:count], nowhere[:count])
        store.progress.mark(layer.name, number)
    return plan


def rank_anew(plan: Plan) -> np.ndarray:
    """Rank, whether it was done before or not; return the images (filter, rank)."""
    store = Store.open(plan.config.store, write=True)
    store.set_fingerprint("rank", None, "conv5")
    for _ in rank(plan, warm_pool(), store):
        pass
    return store.layer("conv5").read_ranking().image


def sum_anew(plan: Plan) -> dict[str, bytes]:
    """Take the statistics, whether it was done before or not; return all of them, by the names of their arrays."""
    store = Store.open(plan.config.store, write=True)
    store.set_fingerprint("statistics", None, "conv5")
    for _ in statistics(plan, warm_pool(), store):
        pass
    layer = store.layer("conv5")
    return {name: layer.read(name).tobytes() for name in ("histogram", "top_class", "correlation", "class_mean")}


def read_once(plan: Plan) -> None:
    """Read all activations of a store with zarr's own pipeline, some blocks at a time."""
    with mock.patch.object(arrays, "Zarrs", None):
        read_all(plan)


def read_all(plan: Plan) -> None:
    """Read all activations of a store, some blocks at a time."""
    store = Store.open(plan.config.store)
    for first in range(0, IMAGENET_IMAGES, 8 * store.images.block):
        store.layer("conv5").read_activation(slice(first, min(first + 8 * store.images.block, IMAGENET_IMAGES)))


def rank_rows(folder: Path, rounds: int) -> Iterator[Row]:
    """Compare ranking and statistics with reading; and their results with those of a store in other chunks."""
    plan, other = synthetic(folder / "small", 1024), synthetic(folder / "large", 3000)
    ways = {"rank": rank_anew, "statistics": sum_anew, "zarrs": read_all, "read": read_once}
    took = in_turn({name: partial(way, plan) for name, way in ways.items()}, rounds)
    if not np.array_equal(rank_anew(plan), rank_anew(other)) or sum_anew(plan) != sum_anew(other):
        raise SystemExit("other chunks give other results")
    for name, wanted in (("rank", 1.2), ("statistics", 3)):
        command = [sys.executable, "-c", PEAK, ways[name].__name__, str(folder / "small")]
        grew = float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        detail = (
            f"{took[name]:.1f} s, reading {took['read']:.1f} s (through zarrs {took['zarrs']:.1f} s), "
            f"{grew:.0f} MiB (at most {MOST_MIB}), the same in other chunks"
        )
        title = f"{name} {IMAGENET_IMAGES:,} × {FILTERS}, against reading it once, time"
        row = at_most(title, took[name] / took["read"], wanted, detail)
        yield Row(row.name, row.ratio, row.target, row.met and grew <= MOST_MIB, row.detail)
