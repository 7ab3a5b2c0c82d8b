"""What the tests share: data, small runs of the real stages, and REQUIRE_ALL."""

from __future__ import annotations

import ctypes
import gc
import io
import json
import logging
import os
import shutil
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.compute.normalise import normalisation_rows, normalise
from topnine.pipeline.config.reading import read_config
from topnine.pipeline.data import photos
from topnine.pipeline.data.decoding.decode import Decoded, decode
from topnine.pipeline.data.decoding.preparation import MAX_PIXELS, Preparation
from topnine.pipeline.data.entry import Dataset, Entry, Shard
from topnine.pipeline.data.listing import Index, ListingBuilder, join
from topnine.pipeline.machine import limit_arenas
from topnine.pipeline.network.architecture import Architecture
from topnine.pipeline.plan import Plan, make_plan
from topnine.pipeline.store.holder import Holder
from topnine.stages.runner import STAGES, run

REPOSITORY = Path(__file__).parent.parent

torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else 2)

SHARED_MEMORY = Path("/dev/shm")
ROOM = 8 << 30  # bytes; all tests together leave less than half of it


def pytest_configure(config):
    """Put the tests' folders into shared memory where it has room: they write thousands of stores, each made durable.

    A disk takes up to tens of milliseconds for each fsync, and the tests wait for it a third of their time.
    """
    if SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free >= ROOM:
        os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(SHARED_MEMORY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a module in one process, where they share fixtures; and all that mount file systems, too.

    A file system that is mounted while another process makes a namespace stays mounted there.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByModule(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            module = nodeid.split("::", maxsplit=1)[0]
            return "mounts" if module.endswith(("/test_power.py", "/test_owners.py")) else module

    return ByModule(config, log)


def pytest_collection_finish():
    """Leave what is imported by now to no later search for garbage: it takes seconds each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With REQUIRE_ALL=1 a skipped test fails, except those that need a GPU."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and REQUIRE_ALL=1: {report.longrepr}"


limit_arenas()  # as the command does; before there are many threads


@pytest.fixture(scope="module", autouse=True)
def _give_memory_back():
    """Give the memory of a module's networks back: what stays in the allocator adds up to more than the machine has."""
    yield
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):
        libc.malloc_trim(0)


@pytest.fixture(autouse=True)
def _without_log():
    """Undo what a command line that ran in this very process has set for all of it."""
    yield
    logger = logging.getLogger("topnine")
    logger.handlers, logger.propagate = [], True
    logger.setLevel(logging.NOTSET)


@pytest.fixture(autouse=True, scope="session")
def _own_state(tmp_path_factory):
    """Have what runs remember of the user's stores in a folder of the tests'."""
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder with real photographs and trained weights."""
    folder = os.environ.get("TOPNINE_TEST_DATA")
    if not folder or not Path(folder).is_dir():
        pytest.skip("TOPNINE_TEST_DATA names no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def photo_shards(tmp_path_factory) -> Path:
    """The demo's photographs as tar shards."""
    folder = tmp_path_factory.mktemp("photos")
    photos.write_shards(folder)
    return folder


@pytest.fixture(scope="session")
def some_photos(photo_shards) -> list[tuple[str, bytes]]:
    """Every tenth tile of the demo's photographs: name and PNG bytes."""
    members = []
    for path in sorted(photo_shards.glob("*.tar")):
        with tarfile.open(path) as container:
            members += [(member.name, container.extractfile(member).read()) for member in container]
    return sorted(members)[::10]


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> Path:
    """Write a tar of (name, bytes)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as container:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            container.addfile(member, io.BytesIO(data))
    return path


def index_of(shards: Mapping[str, Sequence[Entry]], missing: Mapping[str, str] = {}) -> Index:
    """Make an index of entries by their shards' names."""
    listings = []
    for name, entries in shards.items():
        builder = ListingBuilder()
        for entry in entries:
            builder.add(*entry)
        listings.append(builder.finish(missing.get(name, "")))
    return join(Dataset("a", tuple(Shard(name, name, "tar", 0, 0.0) for name in shards)), listings)


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    """Encode pixels (y, x, rgb) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


def decode_at(
    data: bytes, resize: int, crop: int, max_pixels: int = MAX_PIXELS, fast: bool = False, **options: Any
) -> Decoded:
    """Decode an image to a square."""
    return decode(data, Preparation(resize, (crop, crop), max_pixels=max_pixels, fast=fast, **options))


def noise(seed: int, height: int = 96, width: int = 96) -> np.ndarray:
    """Pixels (y, x, rgb) uint8 without a meaning."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def planned(tmp_path) -> Callable[..., Plan]:
    """Make plans whose store is in the test's temporary folder."""
    return partial(plan_run, tmp_path)


def plan_run(folder: Path, config: str = "configs/demo.toml", **changes: object) -> Plan:
    """Make a plan of a configuration with changes (``mine__block`` is ``mine.block``), its store in a folder."""
    settings = {"store": f'"{folder}/run.zarr"'}
    for key, value in changes.items():
        text = f'"{value}"' if isinstance(value, str | Path) else str(value)
        if isinstance(value, dict):
            text = f"{{{', '.join(f'{name} = {json.dumps(entry)}' for name, entry in value.items())}}}"
        settings[key.replace("__", ".")] = text
    return make_plan(read_config(str(REPOSITORY / config), settings))


def run_stages(plan: Plan, *names: str) -> None:
    """Run stages of a plan to their end."""
    with connect(plan.config.cluster) as pool:
        for _ in run(plan, pool, {name: STAGES[name] for name in names}):
            pass


def normalised(images: torch.Tensor, architecture: Architecture) -> torch.Tensor:
    """Normalise images (image, y, x, rgb) uint8 as a batch is, for a network's module."""
    return normalise(images, *(torch.from_numpy(row) for row in normalisation_rows(architecture, *images.shape[2:])))


def put_lease(store: str | Path, held: Holder | bytes, number: int = 1) -> Path:
    """Write a lease, as a run on another host would; return its file."""
    document = Path(store, f"progress/lease-{number}/zarr.json")
    document.parent.mkdir(parents=True, exist_ok=True)
    document.write_bytes(held if isinstance(held, bytes) else held.document())
    return document


def elsewhere(**changes: object) -> Holder:
    """Return a live run on another host."""
    return Holder.here().model_copy(update={"host": "elsewhere", "boot": "another", "token": "theirs", **changes})


def contents(store: Path) -> dict[str, bytes]:
    """Return the bytes of all files in a store, by their paths in it."""
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def same_files(first: Path, second: Path) -> bool:
    """Tell whether two stores hold the same files with the same bytes, but for the root's document.

    That document holds the paths of the data and the store.
    """
    one, other = ({**contents(store), "zarr.json": b""} for store in (first, second))
    return one == other


def peak_kib() -> int:
    """Give this process's peak memory in KiB; getrusage's figure would begin at that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
