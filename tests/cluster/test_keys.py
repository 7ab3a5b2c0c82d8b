"""Nobody but the run's own processes gets in: TLS with keys of the run wherever one of them listens."""

import os
import socket
import stat
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
from distributed.security import Security

from tests.cluster.test_survival import command, data, topnine, undisturbed  # noqa: F401
from tests.conftest import REPOSITORY, same_files
from tests.listening import family, listening, receive
from topnine.pipeline.cluster.keys import CERTIFICATE, KEY, write_keys
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.config.clusters import CudaCluster, InlineCluster, LocalCluster

STRANGER = """
import sys
from distributed import Client
from distributed.security import Security
keys = Security.temporary() if sys.argv[2] == "other keys" else None
try:
    client = Client(sys.argv[1], timeout=5, security=keys)
    print("let in:", client.run_on_scheduler(lambda: "code ran in the driver"))
except (OSError, TypeError) as error:
    print("refused:", type(error).__name__)
"""


def wait_a_little(task: int) -> int:
    time.sleep(0.5)  # so that no worker gets all
    return task


@pytest.mark.parametrize(
    ("config", "workers"),
    [
        (InlineCluster(), 0),
        (LocalCluster(kind="local"), 2),
        pytest.param(CudaCluster(kind="cuda"), 2, marks=pytest.mark.slow),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_wherever_a_run_listens_it_asks_for_a_key_or_shows_a_dashboard_on_loopback(config, workers):
    before = listening(family())
    with connect(config, gpus=2) as pool:
        assert len(list(pool.run(wait_a_little, range(4)))) == 4
        opened = listening(family()) - before
        received = Counter(receive(*address) for address in opened)
        children = len(psutil.Process().children(recursive=True))
    assert received.keys() <= {"tls", "dashboard"}, received
    # The scheduler, and every worker and its nanny; the scheduler's dashboard and those of the workers.
    assert received["tls"] == (1 + 2 * workers if workers else 0), received
    assert received["dashboard"] >= 1
    assert children >= workers


def refused(address: str, keys: str) -> bool:
    """Whether a client in another process is refused by a scheduler; what it says is shown where it is not."""
    stranger = subprocess.run(
        [sys.executable, "-c", STRANGER, address, keys], capture_output=True, text=True, check=True, timeout=120
    )
    return stranger.stdout.startswith("refused: ") or pytest.fail(stranger.stdout)


def test_another_client_is_refused():
    with connect(LocalCluster(kind="local", maximum=1)) as pool:
        assert list(pool.run(wait_a_little, [1])) == [(1, 1)]
        address = pool._started.client.scheduler.address
        assert address.startswith("tls://127.0.0.1:")
        assert refused(address, "other keys")
        assert refused(address, "no keys")
        assert refused(address.replace("tls://", "tcp://"), "no keys")
        assert list(pool.run(wait_a_little, [2])) == [(2, 2)]


def test_keys_in_files_are_for_the_user_alone_and_are_deleted(tmp_path):
    folder = tmp_path / "logs"
    before = os.umask(0)
    try:
        with write_keys(folder) as keys:
            (private,) = folder.iterdir()
            assert stat.S_IMODE(private.stat().st_mode) == 0o700
            modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in private.iterdir()}
            assert modes == {CERTIFICATE: 0o600, KEY: 0o600}
            assert keys.require_encryption
            assert {value for value in keys.get_tls_config_for_role("worker").values() if value} <= {
                str(private / CERTIFICATE), str(private / KEY)
            }  # fmt: skip
    finally:
        os.umask(before)
    assert list(folder.iterdir()) == []


def test_every_run_has_a_key_of_its_own(tmp_path):
    with write_keys(tmp_path / "a") as one, write_keys(tmp_path / "b") as other:
        assert Path(one.tls_worker_key).read_text() != Path(other.tls_worker_key).read_text()


# -- a scheduler that is running already ------------------------------------------------------------------------------


@pytest.fixture
def protected(tmp_path):
    """A Dask scheduler and one worker with certificates, started by hand; gives its address and the keys."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tls://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": REPOSITORY}
    with write_keys(tmp_path / "keys") as keys:
        options = keys.get_tls_config_for_role("worker")
        tls = [f"--tls-{name.replace('_', '-')}={options[name]}" for name in ("ca_file", "cert", "key")]
        dask = [sys.executable, "-m", "dask"]
        scheduler = ["scheduler", "--host", address, "--no-dashboard", *tls]
        worker = ["worker", address, "--nthreads", "2", "--no-dashboard", *tls]
        processes = [subprocess.Popen([*dask, *part], **quiet) for part in (scheduler, worker)]
        yield address, keys
        for process in reversed(processes):
            process.terminate()
            process.wait()


def table(address: str, keys: Security) -> str:
    named = {"tls_ca": keys.tls_ca_file, "tls_cert": keys.tls_client_cert, "tls_key": keys.tls_client_key}
    listed = "".join(f', {name} = "{path}"' for name, path in named.items())
    return f'--set=cluster={{kind = "address", address = "{address}"{listed}}}'


def test_a_running_scheduler_is_reached_with_its_certificates_alone(
    data,  # noqa: F811
    undisturbed,  # noqa: F811
    tmp_path,
    protected,
):
    address, keys = protected
    store = tmp_path / "run.zarr"
    finished = topnine(store, data, table(address, keys))
    assert finished.returncode == 0, finished.stderr
    assert same_files(undisturbed, store)
    with write_keys(tmp_path / "others") as others:
        refused = topnine(tmp_path / "other.zarr", data, table(address, others))
    assert refused.returncode == 2, refused.stderr
    assert f"no Dask scheduler with a worker answers at {address}" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_files_that_hold_no_keys_are_a_sentence(data, tmp_path):  # noqa: F811
    with write_keys(tmp_path / "keys") as keys:
        keys.tls_client_key = str(tmp_path / "nothing.pem")
        absent = topnine(tmp_path / "run.zarr", data, table("tls://127.0.0.1:9", keys))
        (tmp_path / "nothing.pem").write_text("no key")
        empty = topnine(tmp_path / "run.zarr", data, table("tls://127.0.0.1:9", keys))
    for failed, words in ((absent, "is no file"), (empty, "cannot be used: ")):
        assert failed.returncode == 2, failed.stderr
        assert "cluster.tls_key = " in failed.stderr or "tls_key = " in failed.stderr
        assert words in failed.stderr
        assert "Traceback" not in failed.stderr
