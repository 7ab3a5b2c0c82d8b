"""A map whose results are computed ahead of its reader: by threads, in order, a bounded number at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, limit: int
) -> Generator[Result, None, None]:
    """Yield ``function(item)`` for every item, in order; threads compute the next results while the reader works.

    Parameters
    ----------
    threads : int
        How many calls of ``function`` run at once.
    limit : int
        How many results may be computed, or be under way, before the reader has taken them. It bounds the memory.

    Raises
    ------
    Exception
        Whatever ``function`` raises, where its result would have been yielded.
    """
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="prefetch") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= limit:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
