"""Workers that run tasks: a task at a time each, tried again where it fails."""

from __future__ import annotations

import errno
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeVar

from distributed import Adaptive, CancelledError, Client, Future, KilledWorker, get_worker
from distributed import TimeoutError as DaskTimeoutError

from ..errors import StopError, TopnineError, WorkError
from ..machine import count_cores
from .gpus import check_gpu

Item = TypeVar("Item")
Result = TypeVar("Result")
Narrow = Callable[..., tuple[Any, ...]]

TRIES = 3  # of a task that fails, on any worker
POLL_S = 0.5  # between two looks at the workers while no task is done
METERS = "topnine-meters"  # Dask's topic of what the tasks report
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors of a disk to which no task can write

# A process runs one task at a time, whatever its number of Dask threads: torch and the device are shared by all.
_one_task = threading.Lock()


@dataclass(frozen=True)
class Tick:
    """No task was done: the reader of ``Pool.attempt`` may look around.

    Attributes
    ----------
    units : int
        What the running tasks have done by now, as their meters say.
    """

    units: int


@dataclass(frozen=True)
class _Attempt(Generic[Item]):
    item: Item
    tries: int
    future: Future[Any]


def _keep(item: Any, *fixed: Any) -> tuple[Any, ...]:
    """Return the fixed arguments: every task needs all of them."""
    return fixed


def abandoned() -> bool:
    """Return True when the driver no longer wants this task's result. Long tasks poll it."""
    try:
        worker = get_worker()
    except ValueError:  # the function was called outside of a worker
        return False
    task = worker.state.tasks.get(worker.get_current_task())
    return task is None or task.state == "cancelled"


class Meter:
    """Counts what a task has done, and reports it to the driver, twice a second; outside of a worker to nobody.

    It is made in the task's own thread; any thread may count.
    """

    def __init__(self) -> None:
        self._units = 0
        self._told = -POLL_S
        self._lock = threading.Lock()
        self._worker: Any = None
        with suppress(ValueError):  # the function was called outside of a worker
            self._worker = get_worker()
            self._task = self._worker.get_current_task()

    def add(self, units: int) -> None:
        """Count more units, or fewer: what the driver learns by other ways is taken off at once."""
        with self._lock:
            self._units += units
            if self._worker is None or (units >= 0 and time.monotonic() - self._told < POLL_S):
                return
            self._told = time.monotonic()
            self._worker.log_event(METERS, {"task": self._task, "units": self._units})


class ScaleToTasksLeft(Adaptive):
    """Dask's scaling, to the number of tasks that are left, between a minimum and a maximum."""

    left = 0

    async def target(self) -> int:
        """Return how many workers there is work for."""
        return self.left


@dataclass(frozen=True)
class Workers:
    """A connection to workers, and the scaling of their number where there is one."""

    client: Client
    scaling: ScaleToTasksLeft | None = None


class Pool:
    """Workers that run tasks; each has one Dask thread and drives one device. They are started for the first task.

    Parameters
    ----------
    start : callable
        Starts the workers.
    threads : int
        Of a worker; 0 where the workers have to be asked for their cores.
    has_dashboard : bool
        Whether Dask's dashboard tells more than the driver's own progress.
    """

    def __init__(self, start: Callable[[], Workers], threads: int, has_dashboard: bool) -> None:
        self._start = start
        self._threads = threads
        self._has_dashboard = has_dashboard
        self._started: Workers | None = None
        self._dashboard = ""
        self._units: dict[Any, int] = {}  # by running task

    @property
    def threads(self) -> int:
        """Threads of a worker, for decoding and the network."""
        if self._threads == 0:
            workers = self._workers()
            with _scheduler_answers():
                self._threads = min(workers.client.run(count_cores).values())
        return self._threads

    @property
    def dashboard(self) -> str:
        """The address of Dask's dashboard; empty where no workers were started, or none but the driver."""
        return self._dashboard

    def run(
        self, function: Callable[..., Result], items: Iterable[Item], *fixed: Any, narrow: Narrow = _keep
    ) -> Iterator[tuple[Item, Result]]:
        """Run ``function(item, *fixed)`` as a task for every item; yield (item, result) as each is done.

        Parameters
        ----------
        narrow : function
            See ``attempt``.

        Raises
        ------
        WorkError
            Of the first task that failed as often as it was tried.
        """
        for finished in self.attempt(function, items, *fixed, narrow=narrow):
            if isinstance(finished, Tick):
                continue
            item, result = finished
            if isinstance(result, WorkError):
                raise result
            yield item, result

    def attempt(
        self,
        function: Callable[..., Result],
        items: Iterable[Item],
        *fixed: Any,
        split: Callable[[Item], Sequence[Item]] = lambda item: [item],
        narrow: Narrow = _keep,
    ) -> Iterator[tuple[Item, Result | WorkError] | Tick]:
        """Run ``function(item, *fixed)`` as a task for every item; yield (item, result) as each is done, and Ticks.

        A task that fails, or whose worker dies, is tried twice more, on any worker; then its error is its result. A
        reader that goes away cancels the tasks that have not begun; those that have end where they next ask whether
        they are ``abandoned``.

        Parameters
        ----------
        split : function
            Returns the parts of an item whose task failed, to be tried each on its own.
        narrow : function
            Returns what the task of an item needs of the fixed arguments: ``narrow(item, *fixed)`` takes their place.
            It is called when the task is handed out, so that what is waiting is small, too.

        Raises
        ------
        StopError, InputError
            No other task can succeed either.
        """
        waiting = deque((item, 1) for item in items)
        running: dict[Any, _Attempt[Item]] = {}
        finished: SimpleQueue[Future[Any]] = SimpleQueue()
        try:
            while waiting or running:
                self._submit(function, lambda item: narrow(item, *fixed), waiting, running, finished)
                try:
                    attempt = running.pop(finished.get(timeout=POLL_S).key)
                except Empty:
                    yield self._tick(running)
                    continue
                del self._units[attempt.future.key]
                result = _outcome(attempt.future)
                if isinstance(result, WorkError) and attempt.tries < TRIES:
                    waiting.extend((part, attempt.tries + 1) for part in split(attempt.item))
                    yield self._tick(running)
                else:
                    yield attempt.item, result
        finally:
            for task in running:
                del self._units[task]
            self._cancel([attempt.future for attempt in running.values()])

    def _submit(
        self,
        function: Callable[..., Result],
        arguments: Callable[[Item], tuple[Any, ...]],
        waiting: deque[tuple[Item, int]],
        running: dict[Any, _Attempt[Item]],
        finished: SimpleQueue[Future[Any]],
    ) -> None:
        """Hand out tasks, one a worker: those that waited beside one that kills its worker would die with it."""
        workers = self._workers()
        if workers.scaling:
            workers.scaling.left = len(waiting) + len(running)
        while waiting and len(running) < max(1, self._count_workers()):
            item, tries = waiting.popleft()
            needed = arguments(item)
            with _scheduler_answers():
                future = workers.client.submit(_attempt, function, item, *needed, pure=False, retries=0)
            running[future.key] = _Attempt(item, tries, future)
            self._units[future.key] = 0
            future.add_done_callback(finished.put)

    def _workers(self) -> Workers:
        if self._started is None:
            self._started = self._start()
            client = self._started.client
            with _scheduler_answers():  # once: a client asks its scheduler for the address
                self._dashboard = str(client.dashboard_link) if self._has_dashboard else ""
                client.subscribe_topic(METERS, self._read_meter)
        return self._started

    def _read_meter(self, event: tuple[float, dict[str, Any]]) -> None:
        task, units = event[1]["task"], event[1]["units"]
        if task in self._units:  # a running scheduler may have tasks of others, too
            self._units[task] = units

    def _tick(self, running: Iterable[Any]) -> Tick:
        """Return what the running tasks of an attempt have done."""
        return Tick(sum(self._units[task] for task in running))

    def _count_workers(self) -> int:
        workers = self._workers()
        with _scheduler_answers():
            return len(workers.client.nthreads())

    def _cancel(self, futures: list[Future[Any]]) -> None:
        if self._started is None or not futures:
            return
        with _scheduler_answers():
            self._started.client.cancel(futures, force=True)
        with _one_task:  # a task in this very process goes on until it asks whether it is abandoned
            pass


def _attempt(function: Callable[..., Result], *arguments: Any) -> Result | TopnineError:
    """Run a task on a worker. Errors that a user can cause are returned: Dask would log them with tracebacks."""
    with _one_task:
        try:
            check_gpu()
            return function(*arguments)
        except TopnineError as error:
            return error
        except OSError as error:  # a full disk, a file that is gone, a bucket's server that is gone
            return (StopError if error.errno in UNWRITABLE else WorkError)(str(error))
        except MemoryError as error:
            return WorkError(str(error) or "out of memory")


def _outcome(future: Future[Any]) -> Any:
    """Return a future's result, errors included; raise those that end the run."""
    with _scheduler_answers():
        error = future.exception()
        result = future.result() if error is None else None
    if isinstance(error, KilledWorker):
        worker = error.last_worker.address
        return WorkError(f"its worker died ({worker}): out of memory, killed, or a library crashed")
    if error is not None:  # of any kind: whatever a library raised in a task
        return WorkError(f"{type(error).__name__}: {error}{_raised_in(future)}")
    if isinstance(result, TopnineError) and (isinstance(result, StopError) or not isinstance(result, WorkError)):
        raise result
    return result


def _raised_in(future: Future[Any]) -> str:
    with _scheduler_answers():
        frames = traceback.extract_tb(future.traceback())
    return f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""


@contextmanager
def _scheduler_answers() -> Iterator[None]:
    """Raise StopError where a question to the scheduler fails: Dask raises several errors when it is gone."""
    try:
        yield
    except (OSError, DaskTimeoutError, CancelledError) as error:
        message = "the Dask scheduler is gone. What is done is kept, the same command goes on from there."
        raise StopError(message) from error
