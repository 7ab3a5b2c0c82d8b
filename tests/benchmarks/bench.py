"""Measure mining against what the machine can do at all: a table in the terminal, and runs/bench.json.

The limit is 1/(1/D + 1/F), where D is the rate of decoding alone and F that of the network alone, both with all
cores. Rows are medians of runs in turn, so that a machine that gets slower does so for all of them.
"""

from __future__ import annotations

import json
import platform
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from pipeline import shards
from pipeline.cluster import connect
from pipeline.config import read_config
from pipeline.decode import Decoded, decode
from pipeline.device import cores, repeatable
from pipeline.plan import Plan, make_plan
from pipeline.stream import ahead
from stages.index import index
from stages.mine import mine, run_batch

ROUNDS = 5


def decode_all(plan: Plan) -> list[Decoded]:
    """Decode every image with all cores."""
    with shards.opened(plan.dataset) as reader:
        places = [(n, e.offset, e.size) for n, shard in enumerate(plan.dataset.shards) for e in shards.scan(shard)]
        size = plan.config.decode

        def read(place: tuple[int, int, int]) -> Decoded:
            return decode(reader.read(*place), size.resize, size.crop)

        return list(ahead(read, places, cores(), 256))


def forward_all(plan: Plan, images: list[Decoded]) -> None:
    """Run every decoded image through the network, to the layer's spatial maximum."""
    network, batch = plan.network(), plan.config.mine.batch
    with repeatable(cores()), torch.inference_mode():
        for start in range(0, len(images), batch):
            run_batch(plan, network, plan.layers, list(images[start : start + batch]))


def mine_all(settings: dict[str, str], folder: Path) -> Plan:
    """Index and mine into a new store."""
    plan = make_plan(
        read_config("configs/demo.toml", {**settings, "store": f'"{folder}/run.zarr"'}), folder.parent / "shards"
    )
    with connect(plan.config.cluster) as pool:
        for stage in (index, mine):
            for _ in stage(plan, pool):
                pass
    return plan


def seconds(function, *arguments) -> float:  # type: ignore[no-untyped-def]
    """Give how long a call takes, in s."""
    began = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - began


def main() -> None:
    """Run the benchmark."""
    decoding, forwarding, mining = [], [], []
    with TemporaryDirectory() as name:
        folder = Path(name)
        plan = mine_all({}, folder / "warm")
        images = decode_all(plan)
        forward_all(plan, images)
        for turn in range(ROUNDS):
            decoding.append(seconds(decode_all, plan))
            forwarding.append(seconds(forward_all, plan, images))
            mining.append(seconds(mine_all, {}, folder / f"turn{turn}"))
    d, f, m = (statistics.median(times) for times in (decoding, forwarding, mining))
    detail = ", ".join(
        f"{what} {len(images) / s:.0f} images/s" for what, s in (("decode", d), ("forward", f), ("mine", m))
    )
    row = {
        "name": "mine the demo, start-up and writing included, against decode and forward alone",
        "ratio": (d + f) / m,
    }
    rows = [{**row, "target": None, "met": True, "detail": detail}]
    machine = f"{platform.processor() or platform.machine()}, {cores()} cores, torch {torch.__version__}"
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2))
    print(machine)
    for each in rows:
        print(f"{each['ratio']:.2f}  {each['name']} ({each['detail']})")


if __name__ == "__main__":
    main()
