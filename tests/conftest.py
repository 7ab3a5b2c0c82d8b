"""What the tests share: data, small runs of the real stages, and REQUIRE_ALL."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pipeline.cluster import connect
from pipeline.config import read_config
from pipeline.plan import Plan, make_plan
from pipeline.shards import photos
from stages.runner import STAGES, run

REPOSITORY = Path(__file__).parent.parent

torch.set_num_threads(2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """With REQUIRE_ALL=1 a skipped test fails, except those that need a GPU."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("REQUIRE_ALL") == "1" and not item.get_closest_marker("gpu"):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} was skipped, and REQUIRE_ALL=1: {report.longrepr}"


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


def encode(pixels: np.ndarray, format: str = "PNG") -> bytes:
    """Encode pixels (y, x, rgb) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format)
    return buffer.getvalue()


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


def same_files(first: Path, second: Path) -> bool:
    """Tell whether two stores hold the same files with the same bytes, in images/ and layers/."""

    def content(store: Path) -> dict[str, bytes]:
        files = (path for part in ("images", "layers") for path in (store / part).rglob("*") if path.is_file())
        return {str(path.relative_to(store)): path.read_bytes() for path in files}

    return content(first) == content(second)


def peak_kib() -> int:
    """Give this process's peak memory in KiB; getrusage's figure would begin at that of its parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
