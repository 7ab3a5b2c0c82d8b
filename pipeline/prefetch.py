"""A map whose results are computed ahead of its reader: by threads, in order, within a limit.

Maps can be chained: each has a thread of its own that takes the items, so that none waits for what comes after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    limit: int,
    weigh: Callable[[Item], int] = lambda item: 1,
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for every item, in order; threads compute the next results while the reader works.

    Parameters
    ----------
    items : iterable
        Taken by a thread of their own; a generator is closed there.
    threads : int
        How many calls of ``function`` run at once.
    limit : int
        Of the weights of all items whose results are computed, or under way, before the reader has taken them. It
        bounds the memory. An item that weighs more is alone.
    weigh : callable, optional
        What an item counts; without it, 1.

    Raises
    ------
    Exception
        Whatever ``function`` or ``items`` raises, where its result would have been yielded.
    """
    results: SimpleQueue[tuple[Future[Result], int] | BaseException | None] = SimpleQueue()
    budget = _Budget(limit)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="prefetch")

    def feed() -> None:
        """Hand the items to the threads, as the budget allows."""
        taken = iter(items)
        try:
            for item in taken:
                weight = weigh(item)
                if not budget.take(weight):
                    break
                results.put((pool.submit(function, item), weight))
        except BaseException as error:  # noqa: BLE001 - raised in the reader's thread: it must not seem to be the end
            results.put(error)
        finally:
            if isinstance(taken, Generator):
                taken.close()
            results.put(None)

    feeder = threading.Thread(target=feed, name="prefetch-feed", daemon=True)
    feeder.start()
    try:
        while (waiting := results.get()) is not None:
            if isinstance(waiting, BaseException):
                raise waiting
            future, weight = waiting
            result = future.result()
            budget.give(weight)
            del future, waiting  # while the reader works, nothing here holds what it was given
            yield result
            del result
    finally:
        budget.close()
        feeder.join()
        pool.shutdown(wait=True, cancel_futures=True)


class _Budget:
    """What may be under way: a thread takes of it and waits while it is used up, another gives back."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._closed = False
        self._changed = threading.Condition()

    def take(self, weight: int) -> bool:
        """Wait until there is room; return False where it was closed meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._used or self._used + weight <= self._limit)
            self._used += weight
            return not self._closed

    def give(self, weight: int) -> None:
        """Count that so much was given back."""
        with self._changed:
            self._used -= weight
            self._changed.notify()

    def close(self) -> None:
        """Let the one that waits go."""
        with self._changed:
            self._closed = True
            self._changed.notify()
