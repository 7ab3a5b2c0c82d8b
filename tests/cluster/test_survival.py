"""Whatever fails, the rest goes on, the culprit is named, what is marked is kept, and the same command heals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import xarray
from typer.testing import CliRunner

from tests.conftest import REPOSITORY, elsewhere, plan_run, put_lease, run_stages, same_files, write_tar
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.errors import BusyError
from topnine.pipeline.store import holder, lease
from topnine.stages.cli.main import app
from topnine.stages.runner import STAGES, run

SETTINGS = {"mine.layers": "1", "mine.block": "4", "mine.batch": "4", "mine.span": "3"}
BLOCKS = 12
CULPRIT = 7


@pytest.fixture(scope="module")
def data(some_photos, tmp_path_factory) -> Path:
    return write_tar(tmp_path_factory.mktemp("data") / "photos" / "a.tar", some_photos[: 4 * BLOCKS]).parent


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> Path:
    settings = {key.replace(".", "__"): value for key, value in SETTINGS.items()}
    plan = plan_run(tmp_path_factory.mktemp("undisturbed"), data__path=data, **settings)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return Path(plan.config.store)


def command(store: Path, data: Path, *options: str) -> list[str]:
    settings = [f"--set={key}={value}" for key, value in SETTINGS.items()]
    topnine = [sys.executable, "-m", "topnine", "run"]
    return [*topnine, "--store", str(store), "--data", str(data), *settings, *options]


def topnine(store: Path, data: Path, *options: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        command(store, data, *options),
        cwd=REPOSITORY,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def status(store: Path) -> dict:
    printed = subprocess.run(
        [sys.executable, "-m", "topnine", "status", "--json", str(store)],
        cwd=REPOSITORY, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(printed.stdout)


def watched(log: Path, fault: str = "") -> dict[str, str]:
    return {
        "DASK_DISTRIBUTED__WORKER__PRELOAD": '["tests.faults"]',
        "TOPNINE_TEST_LOG": str(log),
        "TOPNINE_TEST_FAULT": fault,
    }


def mined(log: Path) -> Counter:
    return Counter(int(line) for line in log.read_text().split())


def wait_for_markers(store: Path, count: int, process: subprocess.Popen) -> None:
    markers = store / "progress/done/conv1/c"
    deadline = time.monotonic() + 120
    while not (markers.is_dir() and len(list(markers.glob("[0-9]*"))) >= count):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("cluster", "fault", "reason"),
    [
        ("inline", "raise", "cannot reshape array of size 3"),
        pytest.param("inline", "exhaust", "Unable to allocate", marks=pytest.mark.slow),
        ("local", "segfault", "its worker died"),
        pytest.param("local", "kill", "its worker died", marks=pytest.mark.slow),
        pytest.param('{kind = "local", memory = "1GiB"}', "fill", "its worker died", marks=pytest.mark.slow),
    ],
)
def test_a_block_that_fails_is_set_aside_alone_and_tried_again_by_the_next_run(
    data, undisturbed, tmp_path, cluster, fault, reason
):
    store, log = tmp_path / "run.zarr", tmp_path / "log"
    failed = topnine(
        store,
        data,
        f"--set=cluster={cluster}" if "{" in cluster else f"--cluster={cluster}",
        **watched(log, f"{fault} {CULPRIT}"),
    )
    assert failed.returncode == 1, failed.stderr
    last = failed.stderr[failed.stderr.index("topnine: ") :]
    assert f"1 of {BLOCKS} blocks failed, each 3 times, and were set aside; all others are mined" in last
    assert f"block {CULPRIT} (images 28 to 31, from a.tar): " in last
    assert reason in last
    tries = mined(log)
    assert tries[CULPRIT] == 3
    assert len(tries) == BLOCKS
    # A worker that dies takes the forward passes in hand along, but no block that another is at.
    assert all(count == 1 for block, count in tries.items() if block != CULPRIT), tries
    layer = status(store)["layers"]["conv1"]
    assert (layer["blocks"], layer["done"], layer["failed"], layer["rank"]) == (BLOCKS, BLOCKS - 1, 1, False)
    log.unlink()
    again = topnine(store, data, **watched(log))
    assert again.returncode == 0, again.stderr
    assert mined(log) == {CULPRIT: 1}
    assert status(store)["layers"]["conv1"]["failed"] == 0
    assert same_files(undisturbed, store)


def test_a_run_gives_up_where_every_block_fails(data, tmp_path, planned):
    plan = planned(data__path=data, mine__layers="1", mine__block=2, mine__span=2, mine__batch=2)
    run_stages(plan, "index")
    held = Path(plan.dataset.shards[0].path)
    gone = held.rename(held.with_suffix(".gone"))
    try:
        with pytest.raises(Exception, match="more were not tried: this looks like no block's own fault") as error:
            run_stages(plan, "mine")
    finally:
        gone.rename(held)
    assert "No such file" in str(error.value)


# -- the lease --------------------------------------------------------------------------------------------------------


def test_a_second_run_is_turned_away_and_one_that_was_killed_is_taken_over_at_once(data, undisturbed, tmp_path):
    store = tmp_path / "run.zarr"
    first = subprocess.Popen(command(store, data), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    wait_for_markers(store, 2, first)
    first.send_signal(signal.SIGSTOP)  # else it might be done before it is looked at
    second = topnine(store, data)
    assert second.returncode == 3, second.stderr
    assert f"(process {first.pid}) is writing to {store} since" in second.stderr
    assert "Traceback" not in second.stderr
    holder = status(store)["holder"]
    read = xarray.open_zarr(store, group="layers/conv1", consolidated=False).activation.load()
    marked = [int(path.name) for path in (store / "progress/done/conv1/c").glob("[0-9]*")]
    assert all(np.isfinite(read[4 * block : 4 * block + 4]).all() for block in marked)
    assert holder["pid"] == first.pid
    first.kill()  # not waited for: a dead process that nobody has collected is no holder
    time.sleep(0.2)
    assert status(store)["holder"] is None
    again = topnine(store, data)
    first.wait()
    first.stderr.close()
    assert again.returncode == 0, again.stderr
    assert same_files(undisturbed, store)
    assert status(store)["holder"] is None


def test_status_tells_pace_and_time_left_of_a_live_run_from_the_store_alone(data, planned):
    plan = planned(data__path=data, mine__layers="1")
    run_stages(plan, "index")
    at = {"stage": "mine", "unit": "images", "skipped": 100, "done": 300, "total": 1300}
    now = time.time()
    put_lease(plan.config.store, elsewhere(stage_started=now - 50, heartbeat=now, **at))
    holder = status(plan.config.store)["holder"]
    assert holder["per_second"] == pytest.approx(4)
    assert holder["seconds_left"] == pytest.approx(250)
    printed = CliRunner().invoke(app, ["status", plan.config.store]).output
    assert f"a run on elsewhere (process {os.getpid()}) since" in printed
    assert "mine, 300 of 1,300 images, 4.0 images/s, 250 s left" in printed


def test_a_holder_elsewhere_is_respected_and_taken_over_when_it_has_been_silent(data, planned, monkeypatch):
    plan = planned(data__path=data, mine__layers="1")
    run_stages(plan, "index")
    put_lease(plan.config.store, elsewhere())
    with pytest.raises(BusyError, match="a run on elsewhere"):
        run_stages(plan, "mine")
    for module in (holder, lease):
        monkeypatch.setattr(module, "GONE_S", 0.5)
    monkeypatch.setattr(lease, "LOOK_S", 0.1)
    put_lease(plan.config.store, elsewhere(heartbeat=time.time() - 1))
    with connect(plan.config.cluster) as pool:
        progress = [*run(plan, pool, {"mine": STAGES["mine"]})]
    assert progress[0].stage == "wait"
    assert progress[-1].stage == "mine"
    assert not [*Path(plan.config.store, "progress").glob("lease*")]


# -- what surrounds a run ---------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.parametrize("cluster", ["inline", pytest.param("local", marks=pytest.mark.slow)])
def test_a_full_disk_is_a_sentence_and_what_is_marked_is_kept(data, undisturbed, small_disk, cluster):
    store = small_disk / "run.zarr"
    full = topnine(store, data, "--cluster", cluster)
    assert full.returncode == 1, full.stderr
    assert "No space left on device" in full.stderr
    assert "Traceback" not in full.stderr
    done = {path.name: path.stat().st_mtime_ns for path in (store / "progress/done/conv1/c").glob("[0-9]*")}
    assert 0 < len(done) < BLOCKS
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    again = topnine(store, data)
    assert again.returncode == 0, again.stderr
    markers = store / "progress/done/conv1/c"
    assert all((markers / block).stat().st_mtime_ns == stamp for block, stamp in done.items())
    assert same_files(undisturbed, store)


@pytest.mark.slow
def test_a_disk_that_becomes_read_only_is_a_sentence(data, undisturbed, tmp_path, small_disk):
    subprocess.run(["mount", "-o", "remount,size=100m", str(small_disk)], check=True)
    store = small_disk / "run.zarr"
    run = subprocess.Popen(command(store, data), cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
    wait_for_markers(store, 2, run)
    readonly = ["mount", "-o", "remount,ro", str(small_disk)]
    while subprocess.run(readonly, capture_output=True, check=False).returncode:  # busy while a file is being written
        assert run.poll() is None
    _, errors = run.communicate(timeout=60)
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    assert run.returncode == 1, errors
    assert "Read-only file system" in errors
    assert "Traceback" not in errors
    assert topnine(store, data).returncode == 0
    assert same_files(undisturbed, store)


def test_a_running_scheduler_is_used_and_one_that_goes_is_a_sentence(data, undisturbed, tmp_path, scheduler):
    process, address = scheduler
    store = tmp_path / "run.zarr"
    cluster = f'--set=cluster={{kind = "address", address = "{address}"}}'
    run = subprocess.Popen(
        [*command(store, data, cluster), "--set=mine.block=1", "--set=mine.batch=1"],
        cwd=REPOSITORY,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for_markers(store, 2, run)
    process.kill()
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 1, errors
    assert "the Dask scheduler is gone" in errors
    assert topnine(store, data, "--set=mine.block=1", "--set=mine.batch=1").returncode == 0


def test_the_store_is_the_same_through_a_running_scheduler(data, undisturbed, tmp_path, scheduler):
    _, address = scheduler
    settings = {key.replace(".", "__"): value for key, value in SETTINGS.items()}
    run_stages(plan_run(tmp_path, data__path=data, **settings), "index")  # its workers are first asked for by mine
    finished = topnine(tmp_path / "run.zarr", data, f'--set=cluster={{kind = "address", address = "{address}"}}')
    assert finished.returncode == 0, finished.stderr
    assert same_files(undisturbed, tmp_path / "run.zarr")


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_the_store_is_the_same_on_processes(data, undisturbed, tmp_path, workers):
    cluster = f'--set=cluster={{kind = "local", maximum = {workers}}}'
    finished = topnine(tmp_path / "run.zarr", data, cluster)
    assert finished.returncode == 0, finished.stderr
    assert "dashboard: http://127.0.0.1:" in finished.stderr
    assert same_files(undisturbed, tmp_path / "run.zarr")
    again = topnine(tmp_path / "run.zarr", data, cluster)
    assert again.returncode == 0
    assert "dashboard" not in again.stderr, "workers were started for nothing"
