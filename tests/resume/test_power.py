"""Power cuts: an ext4 file system on a loop device is shut down with nothing flushed, as xfstests' godown does it."""

import fcntl
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, contents, plan_run, run_stages

FS_IOC_SHUTDOWN, NO_FLUSH = 0x8004587D, 2  # of the kernel's fs/ext4/ext4.h
SETTINGS = {"mine__layers": "1 2", "mine__block": 32}
BLOCKS = 17
CUTS = 20 if os.environ.get("TOPNINE_TORTURE") else 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory) -> Path:
    plan = plan_run(tmp_path_factory.mktemp("undisturbed"), **SETTINGS)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return Path(plan.config.store)


class Disk:
    """A disk of its own whose power can be cut."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "disk"
        self._image = folder / "image"
        self.folder.mkdir()
        with self._image.open("wb") as image:
            image.truncate(2**29)
        subprocess.run(["mkfs.ext4", "-q", self._image], check=True)
        self.mount()

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", self._image, self.folder], check=True)

    def unmount(self) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)

    def cut(self) -> None:
        """Cut the power, and give it back."""
        descriptor = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, NO_FLUSH.to_bytes(4, sys.byteorder))
        os.close(descriptor)


@pytest.fixture
def disk(tmp_path):
    if os.geteuid() != 0 or not Path("/dev/loop-control").exists() or shutil.which("mkfs.ext4") is None:
        pytest.skip("only root can mount a disk of its own")
    disk = Disk(tmp_path)
    yield disk
    disk.unmount()


def command(store: Path) -> list[str]:
    settings = [f"--set={key.replace('__', '.')}={value}" for key, value in SETTINGS.items()]
    return [sys.executable, "-m", "topnine", "run", "--store", str(store), *settings]


def markers(store: Path) -> list[Path]:
    return sorted((store / "progress/done").glob("*/c/*"))


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(CUTS))
def test_what_a_marker_vouches_for_outlasts_a_power_cut(undisturbed, disk, tmp_path, seed):
    chance = random.Random(seed)
    store = disk.folder / "run.zarr"
    waited_for = chance.randrange(1, BLOCKS - 2)  # blocks that are marked before the moment of the cut is chosen
    seconds = chance.choice([0, 0.1, 1, 7, 40]) * chance.random()
    running = subprocess.Popen(
        command(store), cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    until = time.monotonic() + 300
    while len(markers(store)) < waited_for and running.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.01)
    time.sleep(seconds)
    marked = [path.relative_to(store) for path in markers(store)]
    disk.cut()
    running.send_signal(signal.SIGKILL)
    running.communicate()
    disk.unmount()
    disk.mount()
    assert all((store / path).stat().st_size for path in marked), "a marker was lost"
    assert all(path.stat().st_size for path in (store / "layers").rglob("c/*/0") if path.is_file())
    again = subprocess.run(command(store), cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False)
    assert again.returncode == 0, again.stderr
    assert "lost or damaged" not in again.stderr
    one, other = ({**contents(path), "zarr.json": b""} for path in (undisturbed, store))
    assert one == other
