"""A run that is interrupted says so, ends with 130, and goes on to the same bytes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, plan_run, run_stages, same_files, write_tar


def command(store, data, *options):
    return [
        sys.executable, "-m", "topnine", "run", "--config", "configs/demo.toml", "--store", str(store), "--data",
        str(data), "--layer", "1 2", "--set", "mine.block=8", "--set", "mine.batch=4", *options,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data(some_photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    members = [(f"{copy}-{name}", image) for copy in range(6) for name, image in some_photos]
    members.insert(100, ("bad.png", b"\x89PNG no"))
    half = len(members) // 2
    write_tar(folder / "a-1.tar", members[:half])
    write_tar(folder / "a-2.tar", members[half:])
    return folder


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    plan = plan_run(folder, data__path=data, mine__layers="1 2", mine__block=8, mine__batch=4)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return Path(plan.config.store)


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        ("SIGINT", "local"),
        ("SIGTERM", "inline"),
        pytest.param("SIGINT", "inline", marks=pytest.mark.slow),
        pytest.param("SIGTERM", "local", marks=pytest.mark.slow),
        pytest.param("SIGHUP", "inline", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_goes_on_to_the_bytes_of_an_undisturbed_one(data, undisturbed, tmp_path, name, cluster):
    store = tmp_path / "interrupted.zarr"
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is inherited, and the tests may run under nohup
    run = subprocess.Popen(
        command(store, data, "--cluster", cluster),
        cwd=REPOSITORY, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    signal.signal(signal.SIGHUP, before)
    markers = store / "progress/done/conv2/c"
    deadline = time.monotonic() + 120
    while not (markers.is_dir() and len(list(markers.glob("[0-9]*"))) >= 2):
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    os.killpg(run.pid, getattr(signal, name))  # as a terminal does: to the workers, too
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert "the same command goes on from there" in errors
    assert "Traceback" not in errors
    done = {path.name: path.stat().st_mtime_ns for path in markers.glob("[0-9]*")}
    assert 2 <= len(done) < -(-len(list(range(6 * 54 + 1))) // 8)
    again = subprocess.run(
        command(store, data), cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False
    )
    assert again.returncode == 0, again.stderr
    assert all((markers / block).stat().st_mtime_ns == stamp for block, stamp in done.items())
    assert same_files(undisturbed, store)
    assert "1 undecodable" in again.stdout
