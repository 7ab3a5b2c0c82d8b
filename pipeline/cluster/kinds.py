"""The kinds of clusters that a ``[cluster]`` table can name, and how the workers of each are started."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin
from distributed import LocalCluster as DaskCluster
from distributed import TimeoutError as DaskTimeoutError
from distributed.security import Security

from ..config.clusters import (
    AddressCluster,
    ClusterConfig,
    CudaCluster,
    InlineCluster,
    LocalCluster,
    SlurmCluster,
)
from ..errors import InputError, WorkError
from ..machine import count_cores, limit_arenas
from .gpus import VISIBLE, list_visible
from .keys import make_keys, read_keys, write_keys
from .pool import Pool, ScaleToTasksLeft, Workers

WAIT_S = 60  # for a running scheduler to answer, and to have a worker

SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # a death is reported at once; the pool decides what is tried again
    "distributed.deploy.lost-worker-timeout": "20s",  # until a lost worker is replaced, if its nanny has not done so
    "distributed.worker.memory.target": False,  # nothing worth spilling is kept in Dask's own memory
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # a paused worker would wait for ever; one beyond 95 % is ended
    "distributed.comm.timeouts.connect": f"{WAIT_S}s",
}

LOOPBACK = "127.0.0.1:0"  # any free port; without an address a dashboard would listen on every interface
WORKER_OPTIONS: dict[str, Any] = {"nthreads": 1, "dashboard_address": LOOPBACK}
LOCAL_OPTIONS: dict[str, Any] = {
    "threads_per_worker": WORKER_OPTIONS["nthreads"],
    "worker_dashboard_address": WORKER_OPTIONS["dashboard_address"],
    "silence_logs": logging.CRITICAL,  # failures come back as sentences
}


@contextmanager
def connect(config: ClusterConfig, gpus: int = 0) -> Iterator[Pool]:
    """Return the workers that a configuration names, in a context that ends those that were started.

    Parameters
    ----------
    gpus : int
        That this machine has; asked for by ``cluster.kind = "cuda"`` alone.
    """
    with ExitStack() as stack, dask.config.set(SETTINGS):
        yield Pool(partial(_start, config, gpus, stack), _count_threads(config, gpus), config.kind != "inline")


def _count_threads(config: ClusterConfig, gpus: int) -> int:
    """Return the threads of a worker; 0 where its workers have to be asked."""
    if config.threads:
        return config.threads
    match config:
        case InlineCluster():
            return count_cores()
        case LocalCluster():
            return max(1, count_cores() // config.maximum)
        case CudaCluster():
            return max(1, count_cores() // max(1, gpus * config.per_gpu))
        case SlurmCluster():
            return max(1, config.cores // config.workers_a_job)
        case AddressCluster():
            return 0


def _start(config: ClusterConfig, gpus: int, stack: ExitStack) -> Workers:
    if isinstance(config, AddressCluster):
        client = _join_scheduler(config)
        stack.callback(_leave_scheduler, client)
        return Workers(client)
    try:
        cluster = stack.enter_context(_make_cluster(config, gpus, stack))
        client = stack.enter_context(Client(cluster))
    except (OSError, RuntimeError, ValueError) as error:  # also where a worker dies while it starts
        raise WorkError(f"the workers of cluster.kind = {config.kind!r} cannot be started: {error}") from error
    client.register_plugin(_LimitArenas())
    if isinstance(config, LocalCluster | CudaCluster):
        client.register_plugin(_IgnoreInterrupts())
    if isinstance(config, InlineCluster | CudaCluster):
        return Workers(client)
    limits = {"minimum": config.least, "maximum": config.maximum}
    return Workers(client, cluster.adapt(Adaptive=ScaleToTasksLeft, interval="1s", **limits))


def _make_cluster(config: ClusterConfig, gpus: int, stack: ExitStack) -> Any:
    """Return a cluster of a kind; whatever has to be deleted with it is entered into the stack."""
    match config:
        case InlineCluster():  # messages stay in the process, which listens for none
            return DaskCluster(
                n_workers=1, processes=False, dashboard_address=LOOPBACK, memory_limit=0, **LOCAL_OPTIONS
            )
        case LocalCluster():
            return DaskCluster(
                n_workers=config.maximum,
                dashboard_address=config.dashboard,
                memory_limit=config.memory,
                security=make_keys(),
                **LOCAL_OPTIONS,
            )
        case CudaCluster():
            return _gpu_processes(config, gpus)
        case SlurmCluster():
            return _slurm_jobs(config, stack.enter_context(write_keys(Path(config.logs))))
    raise AssertionError(config)


def _gpu_processes(config: CudaCluster, gpus: int) -> SpecCluster:
    """Start processes for every GPU, which see no other. It is what dask-cuda does, which pins Dask's version."""
    if not gpus:
        raise InputError("cluster.kind = 'cuda' needs a GPU, and torch finds none here: use 'inline' or 'local'.")
    names = [name for name in list_visible(os.environ, gpus)[:gpus] for _ in range(config.per_gpu)]
    keys = make_keys()
    listening = {"host": "127.0.0.1", "protocol": "tls://", "security": keys}
    scheduler = {"cls": Scheduler, "options": {**listening, "dashboard_address": config.dashboard, "port": 0}}
    workers = {
        number: {
            "cls": Nanny,
            "options": {**WORKER_OPTIONS, **listening, "memory_limit": 0, "env": {VISIBLE: name}},
        }
        for number, name in enumerate(names)
    }
    return SpecCluster(workers, scheduler, security=keys, silence_logs=logging.CRITICAL)


def _slurm_jobs(config: SlurmCluster, keys: Security) -> Any:
    if find_spec("dask_jobqueue") is None:
        raise InputError("cluster.kind = 'slurm' needs dask-jobqueue: pip install 'topnine[slurm]'.")
    from .slurm import start_jobs

    return start_jobs(config, keys, WAIT_S, LOOPBACK)


def _join_scheduler(config: AddressCluster) -> Client:
    keys = read_keys(config)
    try:
        client = Client(config.address, timeout=f"{WAIT_S}s", security=keys)
        client.wait_for_workers(1, timeout=WAIT_S)
    except (OSError, ValueError, DaskTimeoutError) as error:
        raise InputError(
            f"no Dask scheduler with a worker answers at {config.address} within {WAIT_S} s: {error}. "
            "Start them with `dask scheduler` and `dask worker`, or give another cluster.address."
        ) from error
    return client


def _leave_scheduler(client: Client) -> None:
    with suppress(OSError, DaskTimeoutError):  # one that is gone need not be told
        client.close()


class _IgnoreInterrupts(WorkerPlugin):
    """A terminal sends Ctrl-C to the workers, too, but it is the driver that ends them."""

    def setup(self, worker: Worker) -> None:
        """Ignore the interrupt signal in the worker's process."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _LimitArenas(WorkerPlugin):
    """The command line limits the arenas of its own process, this plugin those of the workers."""

    def setup(self, worker: Worker) -> None:
        """Limit the arenas of the worker's process."""
        limit_arenas()
