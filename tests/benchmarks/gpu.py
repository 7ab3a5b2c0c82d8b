"""Measure a machine with a GPU in at most eight minutes: the tests marked ``gpu``, feeding, mining and projecting.

Mining is compared with what bounds it: a bare forward pass to the same layer at its best batch size, and the decoder.
What is compared runs in turn, and medians count. The results go to runs/bench-gpu.json; with --readme, the table of the
README is made from them. With words, only what they choose is measured, and the other rows stay:
``python -m tests.benchmarks.gpu deconvolve``. Without TOPNINE_TEST_DATA the demo's photographs are mined.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
import torch

from tests.benchmarks.bench import write_table
from tests.benchmarks.deconvolving import compare_with_bare, mined_pixels, read_tasks, synchronise
from tests.benchmarks.measure import Row, in_turn, reported
from tests.benchmarks.mining import decode_all, decoding_nothing, mined, nothing, overlap, planned, ranked, repeated
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.compute.activations import Forward
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.data import photos
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.taps import read_taps
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.settings import projection_settings

RESULTS = Path("runs/bench-gpu.json")
PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
BATCHES = (64, 256, 1024)
NETWORKS = {"alexnet": "conv5", "resnet50": "layer4"}
DEVICE, IMAGES = "cuda", 4_000  # mined in a timed run
LARGE_BATCH = 64  # images in a backward pass, beside the default
PROCESSES = (1, 2, 4)
RESIZE = {"decode__resize": 256, "decode__crop": 224}


def measure(folder: Path, device: str, images: int) -> dict[str, Callable[[], Iterator[Row]]]:
    """Return what can be measured, by the word that chooses it."""
    options = {**RESIZE, "cluster__device": device, "mine__batch": 256}
    return {
        "feed": lambda: feed_rows(photographs(folder, images), folder, options),
        "mine": lambda: mine_rows(photographs(folder, images), folder, options),
        "processes": lambda: process_rows(photographs(folder, images), folder, options),
        "deconvolve": lambda: deconvolve_rows(photographs(folder, 0), folder, options),
    }


def photographs(folder: Path, images: int) -> Path:
    """Make a folder of links to the shards of photographs, so often that it has about as many images."""
    data = Path(os.environ.get("TOPNINE_TEST_DATA", "../shared")) / "data" / "imagenet-500"
    a_shard = 125
    if not data.is_dir():
        data, a_shard = folder / "photos", 64
        if not data.is_dir():
            photos.write_shards(data)
    shards = len(list(data.glob("*.tar")))
    links = folder / f"{images}-images"
    return links if links.exists() else repeated(data, links, max(1, images // (a_shard * shards)))


def feed_rows(data: Path, folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Compare mining without a network, and without a decoder, with decoding alone."""
    plan = planned(folder, data, **options)
    count = len(Store.open(plan.config.store).images)

    def fed() -> None:
        with mock.patch.object(Forward, "run_batch", nothing):
            mined(plan)

    def free() -> None:
        with mock.patch.object(Forward, "run_batch", nothing), decoding_nothing(plan):
            mined(plan)

    took = in_turn({"decode": lambda: decode_all(plan, count_cores()), "feed": fed, "free": free}, 2)
    bare, rate = count / took["decode"], count / took["feed"]
    yield reported(
        "feed: mine without a network, against decoding", rate / bare, f"{rate:,.0f} of {bare:,.0f} images/s"
    )
    python = took["free"] / count
    detail = f"{1 / python:,.0f} images/s in one process, decoder and network costing nothing"
    yield reported("µs of Python an image", python * 1e6, detail)


def mine_rows(data: Path, folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Compare mining of the networks with a bare forward pass."""
    for network, layer in NETWORKS.items():
        yield from network_rows(data, folder, options, network, layer)


def network_rows(data: Path, folder: Path, options: dict[str, Any], network: str, layer: str) -> Iterator[Row]:
    """Compare mining in every precision with a bare forward pass, and how many of the nine stay the same."""
    nine: dict[str, np.ndarray] = {}
    for precision in precisions(options["cluster__device"]):
        settings = {**options, "network__name": network, "mine__layers": layer, "mine__precision": precision}
        plan = planned(folder, data, **settings)
        count = len(Store.open(plan.config.store).images)
        bare, batch = max((forward_rate(plan, batch), batch) for batch in BATCHES)

        def free(plan: Plan = plan) -> None:
            with decoding_nothing(plan):
                mined(plan)

        took = in_turn({"free": free, "mine": partial(mined, plan)}, 1)  # the last leaves its activations
        nine[precision] = ranked(plan)
        rate, free_rate = count / took["mine"], count / took["free"]
        same = overlap(nine["float32"], nine[precision])
        detail = f"{rate:,.0f} images/s; with a decoder that costs nothing {free_rate:,.0f}; bare forward {bare:,.0f}"
        detail += f" (batch {batch}); {same:.1%} of the nine as in float32"
        yield reported(f"mine {network} {layer} in {precision}, of a bare forward", rate / bare, detail)


def precisions(device: str) -> list[str]:
    """List the precisions that a device has."""
    return [precision for precision in PRECISIONS if device.startswith("cuda") or precision != "tf32"]


def forward_rate(plan: Plan, batch: int) -> float:
    """Return the images a second of forward passes to the layer alone, on images that the device has already."""
    device, layer, precision = open_device(plan.config.cluster.device), plan.layers[0], plan.config.mine.precision
    module = device.place(plan.network.module)
    kind, half = device.name.split(":")[0], {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(precision)
    pixels = torch.randn(batch, 3, *plan.preparation.size, device=device.name)

    def run(times: int) -> None:
        for _ in range(times):
            read_taps(module, pixels, {"layer": layer.tap}, lambda maps: maps)
        synchronise(device.name)

    with (
        device.deterministic(precision),
        torch.inference_mode(),
        torch.autocast(kind, half, enabled=half is not None),
    ):
        times = max(1, 2048 // batch) if kind == "cuda" else 1
        took = in_turn({"forward": lambda: run(times)}, 3)
    return batch * times / took["forward"]


def process_rows(data: Path, folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Compare one process with several that share the device."""
    plans, ways = {}, {}
    with contextlib.ExitStack() as stack:
        for number in PROCESSES:
            settings = {"cluster__kind": "local", "cluster__maximum": number, "mine__precision": "bfloat16"}
            plan = planned(folder, data, **options, **settings)
            pool = stack.enter_context(connect(plan.config.cluster))
            plans[number], ways[str(number)] = plan, partial(mined, plan, pool)
        took = in_turn(ways, 2)
    inline = planned(folder, data, **options, mine__precision="bfloat16")
    alone = in_turn({"inline": partial(mined, inline)}, 2)["inline"]
    count = len(Store.open(inline.config.store).images)
    for name, seconds in took.items():
        detail = f"{count / seconds:,.0f} images/s; in the command's own process {count / alone:,.0f}"
        where = f"in {name} process{'es' * (name != '1')} beside the command's, on one GPU"
        yield reported(f"mine alexnet conv5 in bfloat16 {where}", alone / seconds, detail)


def deconvolve_rows(data: Path, folder: Path, options: dict[str, Any]) -> Iterator[Row]:
    """Compare projecting with a bare forward and backward pass of the same batches."""
    plan = planned(folder, data, **options, mine__layers="all")
    pixels = mined_pixels(plan)
    for layer in plan.layers:
        tasks, settings = read_tasks(plan, layer, pixels), projection_settings(plan, layer, count_cores())
        name = f"deconvolve {layer.name}, of a bare forward and backward pass"
        yield reported(name, *compare_with_bare(tasks, settings, 3))
        large = replace(settings, batch=LARGE_BATCH)
        yield reported(f"{name}, deconvolve.batch = {LARGE_BATCH}", *compare_with_bare(tasks, large, 3))


def run_tests() -> str:
    """Run the tests that need a GPU; return pytest's last line."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "tests/e2e/test_precision.py",
    ]
    finished = subprocess.run(command, check=False, capture_output=True, text=True)
    print(finished.stdout[-6000:], finished.stderr[-2000:], flush=True)
    return finished.stdout.strip().splitlines()[-1]


def main(words: list[str]) -> None:
    """Run the benchmark, or what some words choose of it; or make the README's table of the last one.

    Parameters
    ----------
    words : list of str
        ``--readme``; or a device (``cuda``), a number of images, and of ``tests`` and what ``measure`` names some.
    """
    if words == ["--readme"]:
        write_table(json.loads(RESULTS.read_text()), "bench-gpu")
        return
    known = {"tests", *measure(Path(), "", 0)}
    wanted = known.intersection(words) or known
    device, images = DEVICE, IMAGES
    for word in words:
        if word.isdecimal():
            images = int(word)
        elif word not in known:
            device = word
    name = torch.cuda.get_device_name() if device == "cuda" else platform.machine()
    machine = f"{name}, {count_cores()} cores; torch {version('torch')}"
    print(machine, flush=True)
    results: dict[str, Any] = {"tests": "", "rows": []}
    if wanted != known and RESULTS.exists():
        results = json.loads(RESULTS.read_text())
    results["machine"] = machine
    if "tests" in wanted:
        results["tests"] = run_tests()
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2))
    rows = {row["name"]: row for row in results["rows"]}
    with TemporaryDirectory() as folder:
        for word, rows_of in measure(Path(folder), device, images).items():
            for row in rows_of() if word in wanted else ():
                print(f"{row.ratio:10.2f}  {row.name} ({row.detail})", flush=True)
                rows[row.name] = row.table()
                results["rows"] = list(rows.values())
                RESULTS.write_text(json.dumps(results, indent=2))  # what there is, if the time runs out


if __name__ == "__main__":
    torch.set_num_threads(count_cores())
    main(sys.argv[1:])
