"""The index: its walk over tar headers, and opening one as long as ImageNet's."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np

from tests.benchmarks.measure import IMAGENET_IMAGES, Row, at_most, in_turn, reported
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.reader import list_images
from topnine.pipeline.files import OpenFile
from topnine.pipeline.store.store import Store

TAR_MEMBERS = 100_000
SHARD_MEMBERS = 1_281  # of a thousand tars, which hold as many images as ImageNet


def sparse_tar(path: Path, members: range = range(TAR_MEMBERS), size: int = 110_000) -> None:
    """Write a tar that takes no space: headers, and holes for images."""
    with path.open("wb") as file:
        for number in members:
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


def index_row(folder: Path, rounds: int) -> Row:
    """Compare the index's walk over headers with tarfile and with reading the headers alone."""
    path = folder / "sparse.tar"
    sparse_tar(path)
    (shard,) = find_dataset(str(path)).shards
    ways = {
        "ours": lambda: list_images(shard),
        "tarfile": lambda: with_tarfile(path),
        "bare": lambda: bare_headers(path),
    }
    took = in_turn(ways, rounds)
    detail = ", ".join(f"{way} {TAR_MEMBERS / time:,.0f} members/s" for way, time in took.items())
    return reported("index a tar, against tarfile", took["tarfile"] / took["ours"], detail)


OPEN = """
import sys, time
from tests.conftest import peak_kib
from topnine.pipeline.store.store import Store
began, before = time.perf_counter(), peak_kib()
store = Store.open(sys.argv[1])
columns = store.images.columns(("key", "shard", "offset", "byte_count", "label"))
assert len(columns[0]) == 1_281_167
print(time.perf_counter() - began, (peak_kib() - before) / 1024)
"""


def open_row(folder: Path, rounds: int) -> Row:
    """Open and read all of an index as long as ImageNet's."""
    numbers = np.arange(IMAGENET_IMAGES)
    columns = {
        "key": np.array([f"n{n // 1300:08d}_{n}" for n in range(IMAGENET_IMAGES)], dtype=np.dtypes.StringDType()),
        "shard": (numbers // 1300).astype(np.int32),
        "offset": numbers * 110_592,
        "byte_count": np.full(IMAGENET_IMAGES, 110_000),
        "label": (numbers // 1300).astype(np.int32),
    }
    store = Store.create(str(folder / "index.zarr"))
    damage = np.full(IMAGENET_IMAGES, "", dtype=np.dtypes.StringDType())
    store.write_index(columns, damage, 1024, {"dataset": {"name": "ImageNet", "shards": [], "classes": []}}, {}, {})
    command = [sys.executable, "-c", OPEN, store.path]
    outputs = [
        subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() for _ in range(rounds)
    ]
    took, grew = (statistics.median(float(output[i]) for output in outputs) for i in (0, 1))
    detail = f"{took:.2f} s, {grew:.0f} MiB (at most 300)"
    row = at_most("open and read an index of 1,281,167 images, of 2 s", took / 2, 1.0, detail)
    return Row(row.name, row.ratio, row.target, row.met and grew <= 300, row.detail)


INDEX = """
import sys
from pathlib import Path
from tests.benchmarks.mining import CONFIG, warm_pool
from tests.conftest import peak_kib, plan_run
from topnine.pipeline.store.store import Store
from topnine.stages.index import index
folder = Path(sys.argv[1])
plan = plan_run(folder, CONFIG, network__weights="random", data__path=folder / "shards", mine__layers="5")
Store.create(plan.config.store)
store, pool = Store.open(plan.config.store, write=True), warm_pool()
Path("/proc/self/clear_refs").write_text("5")  # the peak begins at what is taken now
before = peak_kib()
for _ in index(plan, pool, store):
    pass
print((peak_kib() - before) / 1024, len(store.images))
"""


def memory_row(folder: Path) -> Row:
    """Index a thousand tars with as many images as ImageNet; how much memory that takes at most, above the plan's."""
    (folder / "shards").mkdir()
    for first in range(0, IMAGENET_IMAGES, SHARD_MEMBERS):
        members = range(first, min(first + SHARD_MEMBERS, IMAGENET_IMAGES))
        sparse_tar(folder / "shards" / f"{first:07d}.tar", members)
    command = [sys.executable, "-c", INDEX, str(folder)]
    grew, images = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    if int(images) != IMAGENET_IMAGES:
        raise SystemExit(f"only {images} images are indexed")
    detail = f"{float(grew):.0f} MiB above what the process has when it begins"
    return at_most("peak memory of indexing 1,281,167 images, of 300 MiB", float(grew) / 300, 1.0, detail)
