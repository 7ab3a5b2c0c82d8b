"""Files on a disk or behind a URL (``s3://…``, see ``buckets``): list, describe, read, write and delete them."""

from __future__ import annotations

import glob
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import buckets, durable
from .errors import InputError


@dataclass(frozen=True)
class File:
    """A file or folder: its path or URL, size in bytes (0 for folders), and time of modification in s since 1970."""

    path: str
    size: int
    modified: float
    is_folder: bool = False

    @property
    def name(self) -> str:
        """The last part of the path, as printable text."""
        return printable(self.path.rstrip("/").rsplit("/", 1)[-1])


def printable(name: str) -> str:
    r"""Return a file name as text that can be encoded: bytes that are not UTF-8 are written as ``\xff``.

    >>> printable("caf\udce9.png")
    'caf\\xe9.png'
    """
    return name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")


def is_url(path: str) -> bool:
    """Return whether this is a URL rather than a path on a disk."""
    return "://" in path


def describe(path: str) -> File | None:
    """Return the file or folder at a path or URL, None if there is none; OSError if a URL cannot be reached."""
    if not is_url(path):
        return _describe_local(path) if os.path.isfile(path) or os.path.isdir(path) else None
    found = buckets.describe(path)
    return found and File(*found)


def exists(path: str) -> bool:
    """Return whether there is a file or folder at a path or URL; OSError if a URL cannot be reached."""
    return describe(path) is not None


def list_folder(folder: str) -> list[File]:
    """List a folder's files and folders by name; pipes, devices and broken links are left out."""
    return sorted(iterate_folder(folder), key=lambda file: file.name)


def iterate_folder(folder: str) -> Iterator[File]:
    """Yield what ``list_folder`` lists, in no particular order."""
    if not is_url(folder):
        with os.scandir(folder) as entries:
            yield from (_describe_local(entry.path) for entry in entries if _is_file_or_folder(entry))
    else:
        yield from (File(*found) for found in buckets.iterate_folder(folder))


def list_names(folder: str) -> list[str]:
    """List the names of what is directly in a folder, sorted; none where there is no such folder."""
    try:
        if not is_url(folder):
            return sorted(os.listdir(folder))
        return sorted(url.rpartition("/")[2] for url, *_ in buckets.iterate_folder(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_matching(pattern: str) -> list[str]:
    """List the paths that match a pattern with ``*``, ``?`` and ``[…]``, sorted."""
    return sorted(buckets.list_matching(pattern) if is_url(pattern) else glob.glob(pattern))


def read_text(path: str) -> str:
    r"""Return the content of a text file, bytes that are not UTF-8 written as ``\xff``; InputError if there is none."""
    file = describe(path)
    if file is None or file.is_folder:
        raise InputError(f"there is no file {path}.")
    with OpenFile(path, file.size) as content:
        return content.read(0, file.size).decode("utf-8", errors="backslashreplace")


def read(path: str) -> bytes | None:
    """Return the content of a small file that may change at any time; None where there is none."""
    try:
        return buckets.read(path) if is_url(path) else Path(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def write(path: str, content: bytes) -> None:
    """Write a small file in place of any that is there; readers see the old content or the new one."""
    if is_url(path):
        buckets.write(path, content)
        return
    temporary = f"{path}.{secrets.token_hex(8)}{durable.PARTIAL}"
    Path(temporary).write_bytes(content)
    os.replace(temporary, path)


def create(path: str, content: bytes) -> bool:
    """Write a small file where none is, durably; return False where there is one.

    Of several calls with different contents, one creates it.
    """
    return buckets.create(path, content) if is_url(path) else durable.create(Path(path), content)


def delete(path: str) -> None:
    """Delete a file; nothing happens where there is none."""
    with suppress(FileNotFoundError):
        if is_url(path):
            buckets.delete(path)
        else:
            os.unlink(path)


def list_sizes(folder: str) -> dict[str, int]:
    """List all files in a folder and the folders in it: sizes in bytes by the paths below it; none where it is not."""
    if is_url(folder):
        return buckets.list_sizes(folder)
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):  # it was renamed a moment ago
                sizes[os.path.relpath(path, folder)] = os.stat(path).st_size
    return sizes


def delete_tree(path: str) -> None:
    """Delete a folder and everything in it; nothing happens where there is no such folder."""
    with suppress(FileNotFoundError):
        if is_url(path):
            buckets.delete_tree(path)
        else:
            shutil.rmtree(path)


class OpenFile:
    """A file that is open for reading ranges of its bytes; threads may share one. Of a URL only these are fetched.

    Parameters
    ----------
    path : str
    size : int, optional
        In bytes, as a listing gave it. Without it, the file is asked.

    Attributes
    ----------
    size : int

    Raises
    ------
    OSError
        The file cannot be read, or it has another size by now: on a disk when it is opened, else when it is read.
    StopError
        The server of the bucket does not accept the credentials any more.
    """

    def __init__(self, path: str, size: int | None = None) -> None:
        self._path = path
        self._client: Any = None
        self._key = ""
        self._descriptor = -1
        if is_url(path):
            self._client, self._key = buckets.connect(path)
            self.size = self._ask_size() if size is None else size
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        size_now = os.fstat(self._descriptor).st_size
        self.size = size_now if size is None else size
        if size_now != self.size:
            self.close()
            raise self._changed(size_now)

    def read(self, offset: int, size: int) -> bytes:
        """Return ``size`` bytes from an offset on, fewer only where the file ends before.

        Raises
        ------
        OSError
            The file cannot be read, or the answer is shorter than the file: what is missing says nothing of the file.
        """
        wanted = max(0, min(size, self.size - offset))
        if not wanted:
            return b""
        data = self._read_local(offset, wanted) if self._client is None else self._fetch(offset, wanted)
        if len(data) != wanted:
            name = printable(self._path)
            raise OSError(f"{name} gave {len(data):,} of {wanted:,} bytes at {offset:,}, and it has {self.size:,}")
        return data

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _read_local(self, offset: int, size: int) -> bytes:
        data = os.pread(self._descriptor, size, offset)
        while len(data) < size:  # a call may be interrupted, and gives 2 GiB at most
            more = os.pread(self._descriptor, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def _fetch(self, offset: int, size: int) -> bytes:
        data, size_now = buckets.read_range(self._path, self._client, self._key, offset, size)
        if size_now != self.size:
            raise self._changed(size_now)
        return data

    def _ask_size(self) -> int:
        file = describe(self._path)
        if file is None or file.is_folder:
            raise FileNotFoundError(f"there is no file {self._path}")
        return file.size

    def _changed(self, size: int) -> OSError:
        name = printable(self._path)
        return OSError(f"{name} has {size:,} bytes now, and had {self.size:,} when it was listed")

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class FileStream(io.RawIOBase):
    """An open file as a stream that can seek, for libraries that want one; ``close`` closes the file, too.

    Attributes
    ----------
    error : OSError or None
        With which the last read failed. A library may raise another error in its place.
    """

    def __init__(self, file: OpenFile) -> None:
        self._file = file
        self._at = 0
        self.error: OSError | None = None

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position, in bytes."""
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position and return it."""
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._file.size}[whence]
        return self._at

    def read(self, size: int | None = -1) -> bytes:
        """Return the next bytes: at most ``size`` of them, unless it is negative."""
        try:
            data = self._file.read(self._at, self._file.size if size is None or size < 0 else size)
        except OSError as error:
            self.error = error
            raise
        self._at += len(data)
        return data

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._file.close()
        super().close()


def _is_file_or_folder(entry: os.DirEntry[str]) -> bool:
    """Return False for pipes, sockets, devices, and links that lead nowhere or in a circle."""
    try:
        return entry.is_file() or entry.is_dir()
    except OSError:
        return False


def _describe_local(path: str) -> File:
    status = os.stat(path)
    return File(path, status.st_size, status.st_mtime, os.path.isdir(path))
