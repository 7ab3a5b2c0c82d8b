"""Several runs on one store: started in the same moment, in another container, or taken over while they were paused."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, contents, plan_run, run_stages, write_tar
from topnine.pipeline.errors import TopnineError
from topnine.pipeline.store import holder, lease

SETTINGS = {"mine__layers": "1", "mine__block": 4, "mine__batch": 4}
STAGES = ("index", "mine", "rank")
TORTURE = bool(os.environ.get("TOPNINE_TORTURE"))
PAIRS, CONTAINERS, PAUSES = (200, 50, 50) if TORTURE else (8, 1, 4)
BUSY = 3  # the exit code

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.resume.test_owners"])


@pytest.fixture(scope="module")
def data(some_photos, tmp_path_factory) -> Path:
    return write_tar(tmp_path_factory.mktemp("data") / "a.tar", some_photos[:22]).parent


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("undisturbed")
    run_stages(plan_run(folder, data__path=data, **SETTINGS), *STAGES)
    return bytes_of(folder)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {**contents(folder / "run.zarr"), "zarr.json": b""}


def be_on_host(boot: str, gone_s: float) -> None:
    """Have this process be on a host with another boot, where a run counts as ended after so many seconds."""
    if boot:
        holder._boot = lambda: boot
    if gone_s:
        holder.GONE_S = lease.GONE_S = gone_s
        lease.HEARTBEAT_S, lease.LOOK_S = gone_s / 6, gone_s / 12


def run_once(folder: Path, data: Path, delay: float = 0, boot: str = "", gone_s: float = 0) -> int:
    """Run once in this process, as on a host with another boot; return the exit code."""
    be_on_host(boot, gone_s)
    plan = plan_run(folder, data__path=data, **SETTINGS)
    time.sleep(delay)
    try:
        run_stages(plan, *STAGES)
    except TopnineError as error:
        return error.exit_code
    return 0


def start(results, number: int, *arguments) -> multiprocessing.Process:
    process = processes.Process(target=_put_result, args=(results, number, *arguments))
    process.start()
    return process


def _put_result(results, number: int, *arguments) -> None:
    try:
        results.put((number, run_once(*arguments)))
    except BaseException as error:
        results.put((number, repr(error)))
        raise


def collect(results, count: int) -> list[int]:
    found = dict(results.get(timeout=300) for _ in range(count))
    return [found[number] for number in range(count)]


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_of_two_runs_that_start_at_once_on_a_new_store_one_does_the_work(data, undisturbed, tmp_path):
    chance, results = random.Random(0), processes.Queue()
    for number in range(PAIRS):
        folder = tmp_path / str(number)
        folder.mkdir()
        for i in range(2):
            start(results, i, folder, data, chance.uniform(0, 0.06))
        codes = collect(results, 2)
        assert sorted(codes) in ([0, 0], [0, BUSY]), codes
        assert bytes_of(folder) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_paused_run_that_was_taken_over_spoils_nothing(data, undisturbed, tmp_path):
    chance, results, lost = random.Random(1), processes.Queue(), 0
    for number in range(PAUSES):
        folder = tmp_path / str(number)
        folder.mkdir()
        paused = start(results, 0, folder, data, 0, "host one", 1.5)
        until = time.monotonic() + 120
        while not (folder / "run.zarr").exists() and paused.is_alive():
            assert time.monotonic() < until
            time.sleep(0.002)
        time.sleep(chance.uniform(0, 0.8))
        os.kill(paused.pid, signal.SIGSTOP)
        time.sleep(1.5)  # its heartbeat is as old as a run's that has ended
        other = start(results, 1, folder, data, 0, "host two", 1.5)
        time.sleep(chance.uniform(2, 8))
        os.kill(paused.pid, signal.SIGCONT)
        codes = collect(results, 2)
        other.join()
        assert set(codes) <= {0, BUSY}, codes
        lost += codes[0] == BUSY
        if 0 not in codes:  # both learnt that the other was there
            assert run_once(folder, data) == 0
        assert bytes_of(folder) == undisturbed
    assert lost, "no paused run was taken over"


def start_interpreter(*lines: str, before=()) -> subprocess.Popen:
    """Start a Python of its own that runs some lines of code."""
    return subprocess.Popen([*before, sys.executable, "-c", "\n".join(lines)], cwd=REPOSITORY)


def run_in_code(folder: Path, data: Path, *options: object) -> str:
    """Return the code that runs once and exits with the run's code."""
    arguments = f"Path({str(folder)!r}), Path({str(data)!r}), *{options!r}"
    return (
        f"import sys\nfrom pathlib import Path\nfrom tests.resume.test_owners import *\nsys.exit(run_once({arguments}))"
    )


def hold(folder: Path, boot: str) -> None:
    """Hold the lease of a store until a file is there that says to end; BusyError where it was lost."""
    be_on_host(boot, 3)
    with lease.hold_lease(str(folder / "run.zarr")) as held:
        (folder / "held").touch()
        wait_for(folder / "enough")
        held.check()


def wait_for(path: Path) -> None:
    until = time.monotonic() + 120
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [("", ""), ("host one", "host two")], ids=["one host", "two hosts"])
@pytest.mark.parametrize("step_s", [-3600, -5, 5, 3600])
@pytest.mark.parametrize("of", ["one", "both"])
def test_a_clock_that_is_stepped_makes_no_run_seem_to_have_ended(data, undisturbed, tmp_path, hosts, step_s, of):
    """The clock of the run that comes second, as clocks of hosts differ; or of both, while the first goes on."""
    clocks = [tmp_path / "first", tmp_path / "second"]
    for clock in clocks:
        clock.write_text("0")
    stepped = [f"from tests.clock import step_by\nstep_by({str(clock)!r})" for clock in clocks]
    holding = f"from tests.resume.test_owners import *\nhold(Path({str(tmp_path)!r}), {hosts[0]!r})"
    first = start_interpreter(stepped[0], holding)
    wait_for(tmp_path / "held")
    for clock in clocks if of == "both" else clocks[1:]:
        clock.write_text(str(step_s))
    second = start_interpreter(stepped[1], run_in_code(tmp_path, data, 0, hosts[1], 3))
    assert second.wait(timeout=300) == BUSY
    (tmp_path / "enough").touch()
    assert first.wait(timeout=60) == 0
    assert run_once(tmp_path, data) == 0
    assert bytes_of(tmp_path) == undisturbed


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a namespace of processes")
def test_a_run_in_another_container_of_this_host_is_seen(data, undisturbed, tmp_path):
    chance = random.Random(2)
    for number in range(CONTAINERS):
        folder = tmp_path / str(number)
        folder.mkdir()
        container = ["unshare", "--pid", "--fork", "--mount-proc"]
        runs = [
            start_interpreter(run_in_code(folder, data, chance.uniform(0, 0.5)), before=container) for _ in range(2)
        ]
        codes = sorted(run.wait(timeout=300) for run in runs)
        assert codes in ([0, 0], [0, BUSY]), codes
        assert bytes_of(folder) == undisturbed
