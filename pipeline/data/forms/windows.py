"""Reading the headers of a tar in a bucket, where a request takes the longest of it: a window at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from .headers import Read

FIRST = 2**14  # bytes of the first window, and of one behind a member that is skipped
LARGEST = 2**20
MEMBERS = 4  # of the last one's size, in a window
LEAST = 2  # of them: where fewer fit, they are skipped


class Windows:
    """Reads ranges of bytes that mostly ascend, out of windows.

    Whether the next member is skipped or read through is a matter of time: a request costs its latency, and bytes cost
    what they take to come. Windows grow as long as one takes less than twice as long as the quickest, of which half is
    then latency. So many headers come in one window on a fast network, and members are skipped on a slow one. Members
    of which fewer than two fit into the largest window are always skipped.

    Parameters
    ----------
    read : callable
        ``read(offset, size)`` returns bytes, fewer where the file ends before.
    clock : callable, optional
        Returns the time, in s.
    """

    def __init__(self, read: Read, clock: Callable[[], float] = time.perf_counter) -> None:
        self._read = read
        self._clock = clock
        self._begin = self._last = 0  # of the window, and of the last range
        self._content = b""
        self._size = 0
        self._affordable = LARGEST
        self._latency_s = math.inf

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer where the file ends before."""
        end = self._begin + len(self._content)
        if not self._begin <= offset <= offset + size <= end:
            self._content = self._fetch(offset, size)
            self._begin = offset
        self._last = offset
        start = offset - self._begin
        return self._content[start : start + size]

    def _fetch(self, offset: int, size: int) -> bytes:
        """Read the window of a range; how long that takes says how large the next may be."""
        member = abs(offset - self._last)
        wanted = max(2 * self._size, MEMBERS * member, FIRST)
        window = min(wanted, self._affordable)
        if window < LEAST * member:
            window = FIRST
        began = self._clock()
        content = self._read(offset, max(size, window))
        took = self._clock() - began
        self._latency_s = min(self._latency_s, took)
        if took > 2 * self._latency_s:
            self._affordable = max(window // 2, FIRST)
        elif window == self._affordable:
            self._affordable = min(2 * window, LARGEST)
        self._size = window
        return content
