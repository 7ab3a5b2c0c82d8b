"""Measure mining against what the machine can do at all: a table in the terminal, and runs/bench.json.

The limit is 1/(1/D + 1/F), where D is the rate of decoding alone and F that of the network alone, both with all
cores. Rows are medians of runs in turn, so that a machine that gets slower does so for all of them.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tarfile
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from pipeline import shards
from pipeline.activations import run_batch
from pipeline.cluster import connect
from pipeline.config import read_config
from pipeline.decode import Decoded, decode
from pipeline.device import cores, repeatable
from pipeline.plan import Plan, make_plan
from pipeline.shards.files import OpenFile
from pipeline.store import Store
from pipeline.stream import ahead
from stages.index import index
from stages.mine import mine

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
    with repeatable(), torch.inference_mode():
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


def sparse_tar(path: Path, members: int = 100_000, size: int = 110_000) -> None:
    """Write a tar as large as a tenth of ImageNet that takes no place: headers, and holes for images."""
    with path.open("wb") as file:
        for number in range(members):
            member = tarfile.TarInfo(f"n{number // 1300:08d}_{number}.JPEG")
            member.size = size
            file.write(member.tobuf(tarfile.USTAR_FORMAT))
            file.seek(-(-size // 512) * 512, os.SEEK_CUR)
        file.write(bytes(1024))


def with_tarfile(path: Path) -> int:
    """List a tar with Python's tarfile."""
    with tarfile.open(path, "r:") as container:
        return sum(1 for _ in container)


def bare_headers(path: Path) -> int:
    """Read a tar's headers and nothing of them but the size."""
    with OpenFile(str(path)) as file:
        at = count = 0
        while (header := file.read(at, 512)).strip(b"\0"):
            at, count = at + 512 + -(-int(header[124:135], 8) // 512) * 512, count + 1
    return count


def index_row(folder: Path) -> dict:
    """Compare the index's walk over headers with tarfile and with reading the headers alone."""
    path = folder / "sparse.tar"
    sparse_tar(path)
    (shard,) = shards.find(str(path)).shards
    ways = {
        "ours": lambda: shards.scan(shard),
        "tarfile": lambda: with_tarfile(path),
        "bare": lambda: bare_headers(path),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(ROUNDS):
        for way, function in ways.items():
            times[way].append(seconds(function))
    rates = {way: 100_000 / statistics.median(found) for way, found in times.items()}
    detail = ", ".join(f"{way} {rate:,.0f} members/s" for way, rate in rates.items())
    name = "index a tar against tarfile"
    return {"name": name, "ratio": rates["ours"] / rates["tarfile"], "target": None, "met": True, "detail": detail}


OPEN = """
import sys, time
from tests.conftest import peak_kib
from pipeline.store import Store
began, before = time.perf_counter(), peak_kib()
store = Store.open(sys.argv[1])
columns = store.image_columns(("key", "shard", "offset", "size", "label"))
assert len(columns[0]) == 1_281_167
print(time.perf_counter() - began, (peak_kib() - before) / 1024)
"""


def open_row(folder: Path) -> dict:
    """Open and read all of an index as long as ImageNet's."""
    images = 1_281_167
    numbers = np.arange(images)
    columns = {
        "key": np.array([f"n{n // 1300:08d}_{n}" for n in range(images)], dtype=np.dtypes.StringDType()),
        "shard": (numbers // 1300).astype(np.int32),
        "offset": numbers * 110_592,
        "size": np.full(images, 110_000),
        "label": (numbers // 1300).astype(np.int32),
    }
    store = Store.create(str(folder / "index.zarr"))
    store.write_index(columns, np.full(images, "", dtype=np.dtypes.StringDType()), 1024, {}, {})
    command = [sys.executable, "-c", OPEN, store.path]
    found = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(ROUNDS)]
    took, grew = (statistics.median(float(run[i]) for run in found) for i in (0, 1))
    name, detail = "open and read an index of 1,281,167 images, in 2 s", f"{took:.2f} s, {grew:.0f} MiB (at most 300)"
    return {"name": name, "ratio": took / 2, "target": 1.0, "met": took <= 2 and grew <= 300, "detail": detail}


def mine_row(folder: Path) -> dict:
    """Compare mining the demo with decoding alone and the network alone."""
    decoding, forwarding, mining = [], [], []
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
    name = "mine the demo, start-up and writing included, against decode and forward alone"
    return {"name": name, "ratio": (d + f) / m, "target": None, "met": True, "detail": detail}


def main() -> None:
    """Run the benchmark."""
    with TemporaryDirectory() as name:
        rows = [row(Path(name)) for row in (mine_row, index_row, open_row)]
    machine = f"{platform.processor() or platform.machine()}, {cores()} cores, torch {torch.__version__}"
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench.json").write_text(json.dumps({"machine": machine, "rows": rows}, indent=2))
    print(machine)
    for each in rows:
        print(f"{each['ratio']:.2f}  {each['name']} ({each['detail']})")


if __name__ == "__main__":
    main()
