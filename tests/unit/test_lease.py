"""The lease: who gets it, who loses it, and what keeps it alive."""

import errno
import json
import os
import subprocess
import sys
import threading
import time

import pytest

from tests.conftest import elsewhere, put_lease
from topnine.pipeline import files
from topnine.pipeline.errors import BusyError
from topnine.pipeline.store import holder, lease
from topnine.pipeline.store.holder import GONE_S, Holder, Life
from topnine.pipeline.store.lease import find_holder, hold_lease, watch_silent


class NoAnswerError(Exception):
    """As botocore's EndpointConnectionError: no OSError."""


@pytest.fixture
def store(tmp_path) -> str:
    return str(tmp_path / "run.zarr")


@pytest.fixture(autouse=True)
def looked_at_each_time(monkeypatch) -> None:
    monkeypatch.setattr(lease, "CHECK_S", 0)


@pytest.fixture
def quick(monkeypatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.01)


@pytest.fixture
def short(monkeypatch) -> None:
    """Have a run count as gone after a fraction of a second."""
    monkeypatch.setattr(lease, "LOOK_S", 0.01)
    for module in (lease, holder):
        monkeypatch.setattr(module, "GONE_S", 0.5)


def watch(store: str) -> tuple[list[int], bytes | None]:
    """Watch a silent run to the end."""
    watching, waited = watch_silent(store), []
    try:
        while True:
            waited.append(next(watching))
    except StopIteration as ended:
        return waited, ended.value


def files_of(store: str) -> list[str]:
    return sorted(files.list_sizes(store))


def wait_until(condition) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def test_a_store_has_a_holder_while_it_is_held_and_no_file_of_it_after(store):
    assert find_holder(store) is None
    with hold_lease(store) as held:
        assert find_holder(store).pid == os.getpid()
        held.check()
        held.claim.check()
    assert find_holder(store) is None
    with pytest.raises(ValueError, match="of the run"), hold_lease(store):
        raise ValueError("of the run")
    assert files_of(store) == []
    assert "lease" not in {thread.name for thread in threading.enumerate()}


def test_a_live_run_is_respected(store):
    put_lease(store, elsewhere(pid=7))
    with (
        pytest.raises(BusyError, match=r"a run on elsewhere \(process 7\) is writing to .* since 20"),
        hold_lease(store),
    ):
        pytest.fail("it was held")
    assert find_holder(store).host == "elsewhere"
    assert list(watch_silent(store)) == []


def test_a_silent_run_is_taken_over_after_it_was_watched(store, short):
    put_lease(store, elsewhere(heartbeat=time.time() - 10))
    with pytest.raises(BusyError, match="elsewhere"), hold_lease(store):
        pytest.fail("it was not watched")
    waited, silent = watch(store)
    assert len(waited) > 5
    with hold_lease(store, silent):
        assert find_holder(store).pid == os.getpid()
        assert files_of(store) == ["progress/lease-2/zarr.json"]
    assert files_of(store) == []


def test_a_silent_run_that_moves_while_it_is_watched_lives(store, short):
    put_lease(store, elsewhere(heartbeat=1e9))  # its clock is years behind
    watching = watch_silent(store)
    next(watching)
    put_lease(store, elsewhere(heartbeat=1e9 + 5))
    with pytest.raises(BusyError, match="elsewhere"):
        list(watching)


@pytest.mark.parametrize(
    "document", [b"", b"{", b"[1, 2]", b'{"attributes": {"pid": "x"}}', b'{"attributes": {"pid": -1}}']
)
def test_a_lease_that_cannot_be_read_is_watched_like_a_silent_run(store, short, document):
    put_lease(store, document)
    assert find_holder(store) is None
    with pytest.raises(BusyError), hold_lease(store):
        pytest.fail("it was held")
    assert len(list(watch_silent(store))) > 5
    with hold_lease(store, document):
        assert find_holder(store).pid == os.getpid()


def test_a_lease_of_another_version_is_read_as_far_as_it_is_known():
    noted = json.loads(elsewhere(pid=7).document())
    noted["attributes"] |= {"queue": "gpu"}
    del noted["attributes"]["skipped"]
    assert Holder.read(json.dumps(noted).encode()) == elsewhere(pid=7).model_copy(
        update={key: noted["attributes"][key] for key in ("started", "heartbeat", "beat")}
    )


def test_what_is_reported_is_in_the_next_heartbeat(store, quick):
    with hold_lease(store) as held:
        taken = find_holder(store)
        held.report("mine", "images", 10, 20, 100)
        wait_until(lambda: find_holder(store).done == 20)
        first = find_holder(store)
        assert (first.stage, first.unit, first.skipped, first.total) == ("mine", "images", 10, 100)
        assert first.heartbeat > taken.heartbeat
        assert first.beat > taken.beat
        held.report("mine", "images", 10, 60, 100)
        wait_until(lambda: find_holder(store).done == 60)
        second = find_holder(store)
        assert second.stage_started == first.stage_started > taken.started - 1
        assert second.rate == pytest.approx(50 / (second.heartbeat - second.stage_started))
        held.report("rank", "layers", 0, 1, 5)
        wait_until(lambda: find_holder(store).stage == "rank")
        assert find_holder(store).stage_started > first.stage_started


@pytest.mark.parametrize("error", [OSError("disk full"), NoAnswerError("no answer"), KeyError("zarr.json")])
@pytest.mark.parametrize("call", ["read", "write", "list_names"])
def test_the_heartbeat_goes_on_after_any_error(store, quick, monkeypatch, error, call):
    failed = []
    works = getattr(files, call)

    def fail_three_times(*arguments):
        if len(failed) < 3 and threading.current_thread().name == "lease":
            failed.append(error)
            raise error
        return works(*arguments)

    with hold_lease(store):
        begun = find_holder(store).heartbeat
        monkeypatch.setattr(files, call, fail_three_times)
        wait_until(lambda: len(failed) == 3)
        wait_until(lambda: find_holder(store).heartbeat > begun)


def test_a_run_that_was_taken_over_learns_it_and_leaves_the_lease_to_the_other(store, quick):
    with hold_lease(store) as held:
        theirs = put_lease(store, elsewhere(pid=7), number=2)
        for check in (held.check, held.claim.check, held.renew):
            with pytest.raises(BusyError, match=r"no longer holds .*paused or cut off"):
                check()
        wait_until(lambda: "lease" not in {thread.name for thread in threading.enumerate()})
    assert theirs.exists()


def test_a_look_at_the_lease_is_good_for_a_second(store, monkeypatch):
    with hold_lease(store) as held:
        held.check()
        monkeypatch.setattr(lease, "CHECK_S", 1)
        theirs = put_lease(store, elsewhere(pid=7), number=2)
        held.check()
        monkeypatch.setattr(lease, "CHECK_S", 0)
        with pytest.raises(BusyError, match="no longer holds"):
            held.check()
    assert theirs.exists()


def test_a_run_that_could_not_renew_its_lease_has_lost_it_even_if_nobody_took_it(store, short, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 100)
    with hold_lease(store) as held:
        held.check()
        time.sleep(0.6)
        for _ in range(2):
            with pytest.raises(BusyError, match="no longer holds"):
                held.check()


def test_a_paused_heartbeat_that_is_written_late_does_not_give_the_lease_back(store, short, monkeypatch):
    monkeypatch.setattr(lease, "HEARTBEAT_S", 100)
    write = files.write

    def write_late(path, content):
        time.sleep(0.6)
        write(path, content)

    with hold_lease(store) as held:
        monkeypatch.setattr(files, "write", write_late)
        held.renew()
        with pytest.raises(BusyError, match="no longer holds"):
            held.check()


def without_links(*_):
    raise OSError(errno.EPERM, "Operation not permitted")  # FAT, exFAT and some network file systems


@pytest.mark.parametrize("link", [os.link, without_links])
def test_of_runs_that_start_in_the_same_moment_one_gets_the_lease(store, monkeypatch, link):
    monkeypatch.setattr(os, "link", link)
    for _ in range(30):
        go, got, refused = threading.Barrier(4), [], []

        def start(go=go, got=got, refused=refused):
            go.wait()
            try:
                with hold_lease(store):
                    got.append(1)
                    wait_until(lambda: len(got) + len(refused) == 4)
            except BusyError:
                refused.append(1)

        threads = [threading.Thread(target=start) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(got), len(refused)) == (1, 3)
        assert files_of(store) == []


def test_this_process_runs_and_one_that_had_its_number_has_ended():
    here = Holder.here()
    assert here.life() is Life.RUNS
    assert here.model_copy(update={"process": "1"}).life() is Life.ENDED
    assert here.model_copy(update={"pid": 2**22 - 1}).life() is Life.ENDED


def test_a_process_that_has_ended_and_is_not_waited_for_has_ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    started = holder._process_start(process.pid)
    wait_until(lambda: not holder._process_start(process.pid))
    assert Holder.here().model_copy(update={"pid": process.pid, "process": started}).life() is Life.ENDED
    process.wait()


@pytest.mark.parametrize("step", [5, -5, 3600, -3600])
def test_a_step_of_the_wall_clock_ends_no_run_of_this_kernel(monkeypatch, step):
    here = Holder.here()
    container = here.model_copy(update={"namespace": "pid:[1]", "pid": 1})
    stepped = time.time() + step
    monkeypatch.setattr(time, "time", lambda: stepped)
    assert here.life() is container.life() is Life.RUNS
    silent = container.model_copy(update={"beat": here.beat - GONE_S})
    assert silent.life() is Life.SILENT


@pytest.mark.parametrize(("ago", "life"), [(0, Life.RUNS), (GONE_S - 20, Life.RUNS), (GONE_S + 1, Life.SILENT)])
def test_of_a_run_on_another_host_the_heartbeat_tells(ago, life):
    assert elsewhere(heartbeat=time.time() - ago).life() is life
