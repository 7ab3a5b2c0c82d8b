"""Reading the headers of a tar in a bucket, where a request takes the longest of it: a window at a time."""

from __future__ import annotations

from .headers import Read

FIRST = 2**14  # bytes of the first window, and of one behind a member that is skipped
LARGEST = 2**20


class Windows:
    """Reads ranges of bytes that mostly ascend, out of windows.

    Where the next range is not far behind a window, the next window is twice as large: small members come many at a
    time. Behind a large member, which is skipped, windows are small again.

    Parameters
    ----------
    read : callable
        ``read(offset, size)`` returns bytes, fewer where the file ends before.
    """

    def __init__(self, read: Read) -> None:
        self._read = read
        self._begin = 0
        self._content = b""
        self._size = FIRST // 2

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer where the file ends before."""
        end = self._begin + len(self._content)
        if not self._begin <= offset <= offset + size <= end:
            near = self._begin <= offset <= end + self._size
            self._size = min(2 * self._size, LARGEST) if near else FIRST
            self._begin, self._content = offset, self._read(offset, max(size, self._size))
        start = offset - self._begin
        return self._content[start : start + size]
