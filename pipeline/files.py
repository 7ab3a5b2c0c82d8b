"""Files on a disk or behind a URL (``s3://…``, any that fsspec knows): list, describe, read and delete them."""

from __future__ import annotations

import glob
import io
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from . import durable
from .errors import InputError, first_line

EXISTS = (409, 412)  # answers to a request to create what is there, or what another request creates in this moment


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
    system, remote_path = _resolve(path)
    try:
        return _describe_remote(system, system.info(remote_path))
    except FileNotFoundError:
        return None
    except MemoryError:
        raise
    except Exception as error:  # a fault, which may pass: nothing is known of what is there
        raise OSError(f"{path} cannot be reached: {first_line(error)}") from error


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
        system, remote_path = _resolve(folder)
        yield from (_describe_remote(system, info) for info in _list_remote(system, remote_path))


def list_names(folder: str) -> list[str]:
    """List the names of what is directly in a folder, sorted; none where there is no such folder."""
    try:
        if not is_url(folder):
            return sorted(os.listdir(folder))
        system, remote_path = _resolve(folder)
        return sorted(info["name"].rstrip("/").rsplit("/", 1)[-1] for info in _list_remote(system, remote_path))
    except (FileNotFoundError, NotADirectoryError):
        return []


def list_matching(pattern: str) -> list[str]:
    """List the paths that match a pattern with ``*``, ``?`` and ``[…]``, sorted."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern))
    system, remote_pattern = _resolve(pattern)
    with _os_errors(pattern):
        return sorted(system.unstrip_protocol(name) for name in system.glob(remote_pattern))


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
        if not is_url(path):
            return Path(path).read_bytes()
        system, remote_path = _resolve(path)
        with _os_errors(path):
            return cast(bytes, system.cat_file(remote_path))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def write(path: str, content: bytes) -> None:
    """Write a small file in place of any that is there; readers see the old content or the new one."""
    if not is_url(path):
        temporary = f"{path}.{secrets.token_hex(8)}{durable.PARTIAL}"
        Path(temporary).write_bytes(content)
        os.replace(temporary, path)
    else:
        system, remote_path = _resolve(path)
        with _os_errors(path):
            system.pipe_file(remote_path, content)


def create(path: str, content: bytes) -> bool:
    """Write a small file where none is, durably; return False where there is one. Of several calls, one creates it."""
    if not is_url(path):
        return durable.create(Path(path), content)
    system, remote_path = _resolve(path)
    try:
        with _os_errors(path):
            system.pipe_file(remote_path, content, mode="create")
    except FileExistsError:
        return False
    except OSError as error:
        if _http_status(error) in EXISTS:
            return False
        raise
    return True


def delete(path: str) -> None:
    """Delete a file; nothing happens where there is none."""
    try:
        if not is_url(path):
            os.unlink(path)
        else:
            system, remote_path = _resolve(path)
            with _os_errors(path):
                system.rm_file(remote_path)
    except FileNotFoundError:
        return


def list_sizes(folder: str) -> dict[str, int]:
    """List all files in a folder and the folders in it: sizes in bytes by the paths below it; none where it is not."""
    if is_url(folder):
        system, remote_path = _resolve(folder)
        with _os_errors(folder):
            found: dict[str, Any] = system.find(remote_path, detail=True)
        start = len(remote_path.rstrip("/")) + 1
        return {path[start:]: int(info.get("size") or 0) for path, info in found.items()}
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(parent, name)
            with suppress(FileNotFoundError):  # it was renamed a moment ago
                sizes[os.path.relpath(path, folder)] = os.stat(path).st_size
    return sizes


def delete_tree(path: str) -> None:
    """Delete a folder and everything in it; nothing happens where there is no such folder."""
    try:
        if not is_url(path):
            shutil.rmtree(path)
        else:
            system, remote_path = _resolve(path)
            with _os_errors(path):
                system.rm(remote_path, recursive=True)
    except FileNotFoundError:
        return


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
        The file cannot be read, or it is on a disk and has another size by now.
    """

    def __init__(self, path: str, size: int | None = None) -> None:
        self._path = path
        self._system: Any = None
        self._remote_path = ""
        self._descriptor = -1
        if is_url(path):
            self._system, self._remote_path = _resolve(path)
            self.size = self._ask_size() if size is None else size
            return
        self._descriptor = os.open(path, os.O_RDONLY)
        self.size = os.fstat(self._descriptor).st_size
        if size not in (None, self.size):
            self.close()
            raise OSError(f"{printable(path)} has {self.size:,} bytes now, and had {size:,} when it was listed")

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
        data = self._read_local(offset, wanted) if self._system is None else self._fetch(offset, wanted)
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
        with _os_errors(self._path):
            return cast(bytes, self._system.cat_file(self._remote_path, start=offset, end=offset + size))

    def _ask_size(self) -> int:
        with _os_errors(self._path):
            return int(self._system.info(self._remote_path)["size"])

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _http_status(error: OSError) -> int | None:
    """Return the status of a server's answer that an error of s3fs comes from, None where it comes from none."""
    response: Any = getattr(error.__cause__, "response", {})
    status: int | None = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


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


@contextmanager
def _os_errors(path: str) -> Iterator[None]:
    """Raise OSError for whatever a client of an object store raises: botocore's errors are none, for example."""
    try:
        yield
    except (OSError, MemoryError):
        raise
    except Exception as error:
        raise OSError(f"{path} cannot be reached: {type(error).__name__}: {first_line(error)}") from error


def _is_file_or_folder(entry: os.DirEntry[str]) -> bool:
    """Return False for pipes, sockets, devices, and links that lead nowhere or in a circle."""
    try:
        return entry.is_file() or entry.is_dir()
    except OSError:
        return False


def _describe_local(path: str) -> File:
    status = os.stat(path)
    return File(path, status.st_size, status.st_mtime, os.path.isdir(path))


def _resolve(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the path in it; what other processes write is seen at once."""
    import fsspec

    try:
        return cast(tuple[Any, str], fsspec.url_to_fs(url, use_listings_cache=False))
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url} cannot be opened: {error}. s3:// needs the extra: pip install 'topnine[s3]'."
        ) from error


def _list_remote(system: Any, folder: str) -> list[dict[str, Any]]:
    """List what is in a folder, without the folder itself, which object stores list too."""
    with _os_errors(folder):
        return [info for info in system.ls(folder, detail=True) if info["name"].rstrip("/") != folder.rstrip("/")]


def _describe_remote(system: Any, info: dict[str, Any]) -> File:
    modified = info.get("LastModified") or info.get("mtime") or info.get("last_modified") or 0.0
    seconds = modified.timestamp() if hasattr(modified, "timestamp") else float(modified)
    return File(system.unstrip_protocol(info["name"]), int(info.get("size") or 0), seconds, info["type"] == "directory")
