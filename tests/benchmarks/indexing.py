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


def sparse_tar(path: Path, size: int = 110_000) -> None:
    """Write a tar as large as a tenth of ImageNet that takes no space: headers, and holes for images."""
    with path.open("wb") as file:
        for number in range(TAR_MEMBERS):
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
