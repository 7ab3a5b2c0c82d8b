"""A Dask client from the ``[cluster]`` table. The only module that imports distributed."""

from __future__ import annotations

import errno
import logging
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

import dask
import torch
from distributed import Adaptive, CancelledError, Client, Future, KilledWorker, Worker, WorkerPlugin, get_worker
from distributed import LocalCluster as DaskCluster
from distributed.utils import TimeoutError as DaskTimeoutError

from . import device
from .config import AddressCluster, ClusterConfig, CudaCluster, InlineCluster, LocalCluster, SlurmCluster
from .errors import InputError, StopError, TopnineError, WorkError
from .memory import limit_arenas

Task = TypeVar("Task")
Result = TypeVar("Result")

TRIES = 3  # of a task that fails, on any worker
WAIT_S = 60  # for a running scheduler to answer, and to have a worker
SPARE_S = 120  # that a Slurm worker leaves before its job's time is over: in time, its task is not counted as failed
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # no task can write

SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,  # a death is reported at once; what is tried again is decided here
    "distributed.deploy.lost-worker-timeout": "20s",  # until a lost worker is replaced, if its nanny has not done so
    "distributed.worker.memory.target": False,  # nothing worth spilling is kept in Dask's own memory
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,  # a paused worker would wait for ever; one beyond 95 % is ended
    "distributed.comm.timeouts.connect": f"{WAIT_S}s",
}

# A process runs one task at a time, whatever its number of Dask threads: torch and the device are shared by all.
_working = threading.Lock()


def abandoned() -> bool:
    """Tell a task that nobody waits for it any more: the run was interrupted, or its driver is gone."""
    try:
        worker = get_worker()
    except ValueError:  # no task: somebody called its function
        return False
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"


def _attempt(function: Callable[..., Result], *arguments: Any) -> Result | TopnineError:
    """Run a task on a worker; what a user can cause comes back as a value: Dask logs errors with tracebacks."""
    with _working:
        try:
            return function(*arguments)
        except TopnineError as error:
            return error
        except OSError as error:  # a full disk, a file that is gone
            return (StopError if error.errno in FULL else WorkError)(str(error))
        except MemoryError as error:
            return WorkError(str(error) or "out of memory")


class Pool:
    """Workers that run tasks; each has one Dask thread and drives one device. They are started for the first task."""

    def __init__(self, config: ClusterConfig, stack: ExitStack) -> None:
        self._config = config
        self._stack = stack
        self._client: Client | None = None
        self._adaptive: _Backlog | None = None
        self._threads = _threads(config)

    @property
    def threads(self) -> int:
        """Threads of a worker, for decoding and the network; the workers of a running scheduler are asked."""
        if self._threads == 0:
            self._threads = min(self._connected().run(device.cores).values())
        return self._threads

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; nothing where there are no workers, or none but the driver."""
        return "" if self._client is None or self._config.kind == "inline" else self._client.dashboard_link

    def run(
        self, function: Callable[..., Result], tasks: Iterable[Task], *fixed: Any
    ) -> Iterator[tuple[Task, Result] | None]:
        """Do the same as ``attempt``, and raise the error of the first task that fails for good."""
        for finished in self.attempt(function, tasks, *fixed):
            if finished is None:
                yield None
                continue
            task, result = finished
            if isinstance(result, WorkError):
                raise result
            yield task, result

    def attempt(
        self,
        function: Callable[..., Result],
        tasks: Iterable[Task],
        *fixed: Any,
        split: Callable[[Task], Sequence[Task]] = lambda task: [task],
        poll_s: float = 0.5,
    ) -> Iterator[tuple[Task, Result | WorkError] | None]:
        """Run ``function(task, *fixed)`` for every task; give (task, result) as each is done.

        A task that fails, or whose worker dies, is tried twice more, on any worker; then its error is its result.
        None comes every ``poll_s`` seconds in which nothing was done, so that the reader can look around. A reader
        that goes away cancels what has not begun; what is in hand ends where it next asks whether it is ``abandoned``.

        Parameters
        ----------
        split : function
            Gives the parts of a task that failed, to be tried each on its own.

        Raises
        ------
        StopError, InputError
            No other task can succeed either.
        """
        waiting = deque((task, 1) for task in tasks)
        running: dict[Any, tuple[Task, int, Future]] = {}
        finished: SimpleQueue[Future] = SimpleQueue()
        try:
            while waiting or running:
                if self._adaptive:
                    self._adaptive.left = len(waiting) + len(running)
                # Never more than one a worker: those that wait beside a task that kills its worker would die with it.
                while waiting and len(running) < max(1, self._workers()):
                    task, tries = waiting.popleft()
                    future = self._connected().submit(_attempt, function, task, *fixed, pure=False, retries=0)
                    running[future.key] = task, tries, future
                    future.add_done_callback(finished.put)
                try:
                    future = finished.get(timeout=poll_s)
                except Empty:
                    yield None
                    continue
                task, tries, _ = running.pop(future.key)
                result = _outcome(future)
                if isinstance(result, WorkError) and tries < TRIES:
                    waiting.extend((part, tries + 1) for part in split(task))
                    yield None
                else:
                    yield task, result
        finally:
            self._cancel([future for _, _, future in running.values()])

    def _connected(self) -> Client:
        if self._client is None:
            self._client, self._adaptive = _start(self._config, self._stack)
        return self._client

    def _workers(self) -> int:
        try:
            return len(self._connected().nthreads())
        except (OSError, DaskTimeoutError) as error:
            raise _gone() from error

    def _cancel(self, futures: list[Future]) -> None:
        if self._client is None or not futures:
            return
        try:
            self._client.cancel(futures, force=True)
        except (OSError, DaskTimeoutError, CancelledError) as error:
            raise _gone() from error
        with _working:  # a task in this very process goes on to its next look
            pass


class _Backlog(Adaptive):
    """Scaling to the number of tasks that are left, between minimum and maximum."""

    left = 0

    async def target(self) -> int:
        return self.left


@contextmanager
def connect(config: ClusterConfig) -> Iterator[Pool]:
    """Give the workers that a configuration names, and end those that were started."""
    with ExitStack() as stack, dask.config.set(SETTINGS):
        yield Pool(config, stack)


def _outcome(future: Future) -> Any:
    """Give a future's result; an error as a value, but for those that end a run."""
    try:
        error = future.exception()
        if isinstance(error, KilledWorker):
            worker = error.last_worker.address
            return WorkError(f"its worker died ({worker}): out of memory, killed, or a library crashed")
        if error is not None:  # of any kind: what a library raised in a task
            place = traceback.extract_tb(future.traceback())[-1]
            return WorkError(f"{type(error).__name__}: {error} ({place.filename}, line {place.lineno})")
        result = future.result()
    except CancelledError:
        raise _gone() from None
    if isinstance(result, TopnineError) and (isinstance(result, StopError) or not isinstance(result, WorkError)):
        raise result
    return result


def _gone() -> StopError:
    return StopError("the Dask scheduler is gone. What is done is kept, the same command goes on from there.")


def _threads(config: ClusterConfig) -> int:
    """Give the threads of a worker; 0 where its workers have to be asked."""
    if config.threads:
        return config.threads
    match config:
        case InlineCluster():
            return device.cores()
        case LocalCluster():
            return max(1, device.cores() // config.maximum)
        case CudaCluster():
            return max(1, device.cores() // max(1, torch.cuda.device_count()))
        case SlurmCluster():
            return config.cores
        case AddressCluster():
            return 0


def _start(settings: ClusterConfig, stack: ExitStack) -> tuple[Client, _Backlog | None]:
    if settings.kind == "address":
        return stack.enter_context(_running_scheduler(settings)), None
    try:
        cluster = stack.enter_context(_STARTERS[settings.kind](settings))
        client = stack.enter_context(Client(cluster))
    except (OSError, RuntimeError, ValueError) as error:  # as a worker that dies while it starts
        raise WorkError(f"the workers of cluster.kind = {settings.kind!r} cannot be started: {error}") from error
    client.register_plugin(_FewArenas())
    if isinstance(settings, LocalCluster | CudaCluster):
        client.register_plugin(_DeafToInterrupts())
    if isinstance(settings, InlineCluster | CudaCluster):
        return client, None
    return client, cluster.adapt(Adaptive=_Backlog, minimum=settings.least, maximum=settings.maximum, interval="1s")


class _DeafToInterrupts(WorkerPlugin):
    """A terminal sends Ctrl-C to the workers, too: it is the driver that ends them."""

    def setup(self, worker: Worker) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


class _FewArenas(WorkerPlugin):
    """The command line sees to its own process, this to those of workers."""

    def setup(self, worker: Worker) -> None:
        limit_arenas()


def _in_process(settings: InlineCluster) -> DaskCluster:
    return DaskCluster(n_workers=1, processes=False, dashboard_address="127.0.0.1:0", memory_limit=0, **_LOCAL)


def _processes(settings: LocalCluster) -> DaskCluster:
    return DaskCluster(
        n_workers=settings.maximum,
        dashboard_address=settings.dashboard,
        memory_limit=settings.memory,
        **_LOCAL,
    )


# Any free port on loopback; None would be 8787 on every interface.
_LOCAL: dict[str, Any] = {
    "threads_per_worker": 1,
    "worker_dashboard_address": "127.0.0.1:0",
    "silence_logs": logging.CRITICAL,  # what went wrong comes back as a sentence
}


def _gpus(settings: CudaCluster) -> Any:
    _require("dask_cuda", "cuda")
    from dask_cuda import LocalCUDACluster

    return LocalCUDACluster(dashboard_address=settings.dashboard, memory_limit=0, **_LOCAL)


def _jobs(settings: SlurmCluster) -> Any:
    _require("dask_jobqueue", "slurm")
    from dask_jobqueue import SLURMCluster

    lifetime = max(settings.walltime_s - SPARE_S, settings.walltime_s // 2)
    return SLURMCluster(
        n_workers=settings.least,
        cores=1,  # Dask threads
        processes=1,
        job_cpu=settings.cores,
        memory=settings.memory,
        queue=settings.partition or None,
        account=settings.account or None,
        walltime=settings.walltime,
        interface=settings.interface or None,
        job_extra_directives=[f"--gres={settings.gres}"] if settings.gres else [],
        job_script_prologue=list(settings.prologue),
        log_directory=settings.logs,
        job_name="topnine-worker",
        death_timeout=WAIT_S,
        worker_extra_args=["--no-dashboard", "--lifetime", f"{lifetime}s"],
        scheduler_options={"dashboard_address": settings.dashboard},
        silence_logs=logging.CRITICAL,
    )


_STARTERS: dict[str, Callable[[Any], Any]] = {
    "inline": _in_process,
    "local": _processes,
    "cuda": _gpus,
    "slurm": _jobs,
}


def _running_scheduler(settings: AddressCluster) -> Client:
    try:
        client = Client(settings.address, timeout=f"{WAIT_S}s")
        client.wait_for_workers(1, timeout=WAIT_S)
    except (OSError, ValueError, DaskTimeoutError) as error:
        raise InputError(
            f"no Dask scheduler with a worker answers at {settings.address} within {WAIT_S} s: {error}. "
            "Start them with `dask scheduler` and `dask worker`, or give another cluster.address."
        ) from error
    return client


def _require(module: str, extra: str) -> None:
    if find_spec(module) is None:
        raise InputError(f"cluster.kind = {extra!r} needs {module.replace('_', '-')}: pip install 'topnine[{extra}]'.")
