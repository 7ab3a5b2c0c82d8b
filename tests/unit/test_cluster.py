import os

import psutil
import pytest

from pipeline.cluster import connect
from pipeline.config import ClusterConfig
from pipeline.errors import WorkError


def double(task: int, more: int) -> int:
    return 2 * task + more


def fail(task: int) -> int:
    if task == 3:
        raise WorkError("three is not wanted.")
    return task


def ports() -> set[tuple[str, int]]:
    """What this process listens on."""
    found = psutil.Process(os.getpid()).net_connections("inet")
    return {(c.laddr.ip, c.laddr.port) for c in found if c.status == psutil.CONN_LISTEN}


@pytest.mark.parametrize("kind", ["inline", "local"])
def test_every_task_is_run_and_comes_back_with_its_result(kind):
    with connect(ClusterConfig(kind=kind)) as pool:
        found = [finished for finished in pool.run(double, range(20), 5) if finished]
    assert sorted(found) == [(task, 2 * task + 5) for task in range(20)]


def test_the_first_error_is_raised_and_the_pool_can_be_used_again():
    with connect(ClusterConfig()) as pool:
        with pytest.raises(WorkError, match="three is not wanted"):
            list(pool.run(fail, range(6)))
        assert len([finished for finished in pool.run(fail, [0, 1, 2]) if finished]) == 3


def test_two_runs_at_once_do_not_get_in_each_others_way_and_listen_on_loopback_alone():
    before = ports()
    with connect(ClusterConfig()) as one, connect(ClusterConfig()) as other:
        assert {address for address, _ in ports() - before} <= {"127.0.0.1"}
        assert list(filter(None, one.run(double, [1], 0))) == list(filter(None, other.run(double, [1], 0)))
