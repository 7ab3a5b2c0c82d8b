"""A Dask client from the ``[cluster]`` table. The only module that imports distributed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from distributed import Client, Future, LocalCluster, wait

from .config import ClusterConfig
from .device import cores
from .errors import TopnineError, WorkError

Task = TypeVar("Task")
Result = TypeVar("Result")

# Set when the run is interrupted: tasks in the driver's own process, which cannot be ended, look at it between blocks.
stopping = threading.Event()


def _attempt(function: Callable[..., Result], *arguments: Any) -> Result | TopnineError:
    """Run a task on a worker; what a user can cause comes back as a value: Dask logs errors with tracebacks."""
    try:
        return function(*arguments)
    except TopnineError as error:
        return error
    except OSError as error:  # a full disk, a file that is gone
        return WorkError(f"{error}. What is done is kept, the same command goes on from there.")


class Pool:
    """Workers that run tasks; each has one Dask thread and drives one device."""

    def __init__(self, client: Client, threads: int) -> None:
        self._client = client
        self.threads = threads

    def run(
        self, function: Callable[..., Result], tasks: Iterable[Task], *fixed: Any, poll_s: float = 0.5
    ) -> Iterator[tuple[Task, Result] | None]:
        """Run ``function(task, *fixed)`` for every task; give (task, result) as each is done.

        None comes every ``poll_s`` seconds in which nothing was done, so that the reader can look around. The
        first error is raised; tasks that have not begun are then dropped.
        """
        finished: SimpleQueue[Future] = SimpleQueue()
        futures: dict[Any, tuple[Task, Future]] = {}
        for task in tasks:
            future = self._client.submit(_attempt, function, task, *fixed, pure=False, retries=0)
            futures[future.key] = task, future
            future.add_done_callback(finished.put)
        try:
            while futures:
                try:
                    future = finished.get(timeout=poll_s)
                except Empty:
                    yield None
                    continue
                task, _ = futures.pop(future.key)
                result = future.result()
                if isinstance(result, TopnineError):
                    raise result
                yield task, result
        finally:
            self._drop([future for _, future in futures.values()])

    def _drop(self, futures: list[Future]) -> None:
        if not futures:
            return
        stopping.set()
        wait(futures)  # those that have not begun end at once, those in hand at the next block
        stopping.clear()


@contextmanager
def connect(config: ClusterConfig) -> Iterator[Pool]:
    """Start the workers that a configuration names, and end them."""
    inline = config.kind == "inline"
    workers = 1 if inline else config.workers
    threads = config.threads or max(1, cores() // workers)
    with (
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=not inline,
            dashboard_address="127.0.0.1:0",  # any free port; None would be 8787 on every interface
            worker_dashboard_address="127.0.0.1:0",
            memory_limit=0,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield Pool(client, threads)
