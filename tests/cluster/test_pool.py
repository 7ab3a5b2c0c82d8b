"""Tasks on real Dask workers: retried, split, and given up on, alone."""

import ctypes
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from distributed import Client, wait

from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.cluster.pool import POLL_S, TRIES, Meter, Pool, Tick, Workers, _outcome
from topnine.pipeline.config.clusters import InlineCluster, LocalCluster
from topnine.pipeline.errors import StopError, WorkError

KINDS = {"inline": InlineCluster(), "local": LocalCluster(kind="local")}


def double(task: int, more: int) -> int:
    return 2 * task + more


def noted(task: tuple[int, ...], folder: Path, fault: str) -> int:
    """Note every part of a task that is tried; part 3 fails."""
    for part in task:
        with (folder / str(part)).open("a") as file:
            file.write("x")
        if part == 3:
            FAULTS[fault]()
    return sum(task)


def fail() -> None:
    raise WorkError("three is not wanted.")


FAULTS = {
    "refuse": fail,
    "raise": lambda: int("three"),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
}


def arenas(task: Path) -> int:
    """Let twenty threads allocate at once; give how many arenas malloc has then, written to a file."""
    together = threading.Barrier(20)

    def allocate() -> None:
        together.wait()
        held = [bytearray(3000) for _ in range(100)]
        together.wait()
        held.clear()

    threads = [threading.Thread(target=allocate) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    libc = ctypes.CDLL(None)
    libc.fopen.restype = ctypes.c_void_p
    file = ctypes.c_void_p(libc.fopen(str(task).encode(), b"w"))
    libc.malloc_info(0, file)
    libc.fclose(file)
    return task.read_text().count("<heap nr=")


def tries(folder: Path) -> dict[int, int]:
    return {int(path.name): len(path.read_text()) for path in folder.iterdir()}


def ports() -> set[tuple[str, int]]:
    """What this process listens on."""
    found = psutil.Process(os.getpid()).net_connections("inet")
    return {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("kind", KINDS)
def test_every_task_is_run_and_comes_back_with_its_result(kind):
    with connect(KINDS[kind]) as pool:
        found = [finished for finished in pool.run(double, range(20), 5) if finished]
    assert sorted(found) == [(task, 2 * task + 5) for task in range(20)]


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_memory_of_a_workers_threads_is_not_scattered(tmp_path):
    with connect(KINDS["local"]) as pool:
        found = [finished for finished in pool.run(arenas, [tmp_path / "malloc.xml"]) if finished]
    assert found[0][1] <= 6  # those of the threads before the limit was set; without one there would be 16


@pytest.mark.parametrize(
    ("kind", "fault", "reason"),
    [
        ("inline", "refuse", "three is not wanted"),
        ("inline", "raise", "ValueError: invalid literal"),
        ("local", "refuse", "three is not wanted"),
        ("local", "kill", "its worker died"),
    ],
)
def test_what_fails_is_split_tried_twice_more_and_given_up_on_alone(kind, fault, reason, tmp_path):
    tasks = [(0, 1), (2, 3, 4), (5, 6), (7,)]
    with connect(KINDS[kind]) as pool:
        attempts = pool.attempt(noted, tasks, tmp_path, fault, split=lambda task: [(part,) for part in task])
        found = dict(attempt for attempt in attempts if not isinstance(attempt, Tick))
        assert dict(pool.run(double, [1], 0)) == {1: 2}
    error = found.pop((3,))
    assert isinstance(error, WorkError)
    assert reason in str(error)
    assert found == {(0, 1): 1, (2,): 2, (4,): 4, (5, 6): 11, (7,): 7}
    counted = tries(tmp_path)
    assert counted.pop(3) == TRIES
    again = 1 if fault == "kill" else 0  # a result that a worker alone held when it died is computed anew, by Dask
    assert 2 <= counted.pop(2) <= 2 + again
    assert max(counted.values()) <= 1 + again


def metered(task: int) -> int:
    meter = Meter()

    def count() -> None:
        for _ in range(4):
            meter.add(10)
            time.sleep(POLL_S)

    thread = threading.Thread(target=count)  # mine counts where the batches come back
    thread.start()
    thread.join()
    meter.add(-40)
    return task


@pytest.mark.parametrize("kind", KINDS)
def test_a_running_task_says_how_far_it_is(kind):
    with connect(KINDS[kind]) as pool:
        ticks = [tick.units for tick in pool.attempt(metered, [0]) if isinstance(tick, Tick)]
    counted = [units for units in ticks if units]
    assert counted == sorted(counted)
    assert set(counted) <= {10, 20, 30, 40}
    assert max(counted) >= 30


def test_outside_of_a_worker_nobody_is_told_how_far_a_task_is():
    assert metered(1) == 1


def test_run_raises_what_is_given_up_on_and_the_pool_can_be_used_again(tmp_path):
    with connect(InlineCluster()) as pool:
        with pytest.raises(WorkError, match="three is not wanted"):
            list(pool.run(noted, [(1,), (3,), (5,)], tmp_path, "refuse"))
        assert len([finished for finished in pool.run(double, [0, 1, 2], 0) if finished]) == 3


def full_disk(task: int, folder: Path) -> None:
    (folder / str(task)).touch()
    raise OSError(28, "No space left on device", "/data/x")


def test_a_full_disk_stops_at_once(tmp_path):
    with connect(InlineCluster()) as pool, pytest.raises(StopError, match="No space left on device: '/data/x'"):
        list(pool.run(full_disk, range(5), tmp_path))
    assert len(list(tmp_path.iterdir())) == 1


def test_a_scheduler_that_goes_before_it_gave_a_result_is_a_sentence(scheduler):
    process, address = scheduler
    with Client(address, timeout="60s") as client:
        pool = Pool(lambda: Workers(client), 1, True)
        assert list(pool.run(double, [1], 0)) == [(1, 2)]
        future = client.submit(double, 1, 0, pure=False)
        wait([future], timeout=60)
        process.kill()
        process.wait()
        assert pool.dashboard.startswith("http://127.0.0.1:")  # progress shows it: that asks nobody
        with pytest.raises(StopError, match="the Dask scheduler is gone"):
            _outcome(future)


def test_workers_are_started_for_the_first_task_only():
    before = psutil.Process().children(recursive=True)
    with connect(LocalCluster(kind="local")) as pool:
        assert list(pool.run(double, [], 5)) == []
        assert pool.dashboard == ""
        assert psutil.Process().children(recursive=True) == before
        assert len(list(pool.run(double, [1], 5))) == 1
        assert pool.dashboard.startswith("http://127.0.0.1:")


def test_two_runs_at_once_do_not_get_in_each_others_way_and_listen_on_loopback_alone():
    before = ports()
    with connect(InlineCluster()) as one, connect(InlineCluster()) as other:
        assert list(one.run(double, [1], 0)) == list(other.run(double, [1], 0))
        assert {address for address, _ in ports() - before} <= {"127.0.0.1"}
