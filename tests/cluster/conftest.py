"""A Dask scheduler that was started by hand."""

import socket
import subprocess
import sys

import pytest

from tests.conftest import REPOSITORY


@pytest.fixture
def scheduler():
    """A Dask scheduler and one worker, started by hand; gives the scheduler's process and its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"tcp://127.0.0.1:{port}"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "cwd": REPOSITORY}
    listen = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    first = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *listen], **quiet)
    work = [address, "--nthreads", "2", "--no-dashboard"]
    worker = subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_worker", *work], **quiet)
    yield first, address
    for process in (worker, first):
        process.kill()
        process.wait()
