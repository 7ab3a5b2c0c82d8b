"""Files on a disk or behind a URL (``s3://…``, any that fsspec knows): list, describe, and read parts of them."""

from __future__ import annotations

import glob
import os
from dataclasses import dataclass
from typing import Any

from ..errors import InputError


@dataclass(frozen=True)
class File:
    """A file or folder: its path or URL, size in bytes (0 for folders), and time of modification in s."""

    path: str
    size: int
    modified: float
    is_folder: bool = False

    @property
    def name(self) -> str:
        """The last part of its path, as text: what is no UTF-8 is written out."""
        return printable(self.path.rstrip("/").rsplit("/", 1)[-1])


def printable(name: str) -> str:
    """Write out the bytes of a name that are no UTF-8, which Python keeps as surrogates."""
    return name.encode("utf-8", errors="surrogateescape").decode("utf-8", errors="backslashreplace")


def is_url(path: str) -> bool:
    """Tell a URL from a path."""
    return "://" in path


def describe(path: str) -> File | None:
    """Describe a file or folder, or None if there is none."""
    if not is_url(path):
        return _local(path) if os.path.isfile(path) or os.path.isdir(path) else None
    system, place = _filesystem(path)
    try:
        return _remote(system, system.info(place))
    except FileNotFoundError:
        return None
    except Exception as error:
        raise InputError(f"{path} cannot be reached: {error}.") from error


def listing(folder: str) -> list[File]:
    """List a folder's files and folders by name; pipes, devices and links that lead nowhere are left out."""
    if not is_url(folder):
        with os.scandir(folder) as entries:
            plain = [_local(entry.path) for entry in entries if _is_plain(entry)]
        return sorted(plain, key=lambda file: file.name)
    system, place = _filesystem(folder)
    found = (
        _remote(system, info) for info in system.ls(place, detail=True) if info["name"].rstrip("/") != place.rstrip("/")
    )
    return sorted(found, key=lambda file: file.name)


def matching(pattern: str) -> list[str]:
    """Give the paths that match a pattern with ``*``, ``?`` and ``[…]``."""
    if not is_url(pattern):
        return sorted(glob.glob(pattern))
    system, place = _filesystem(pattern)
    return sorted(system.unstrip_protocol(name) for name in system.glob(place))


def read_text(path: str) -> str:
    """Read a text file."""
    file = describe(path)
    if file is None or file.is_folder:
        raise InputError(f"there is no file {path}.")
    with OpenFile(path) as content:
        return content.read(0, file.size).decode("utf-8", errors="backslashreplace")


class OpenFile:
    """A file open for reading parts of it; threads may share one. Of a URL only the parts are fetched."""

    def __init__(self, path: str) -> None:
        self._system: Any = None
        self._place = path
        if is_url(path):
            self._system, self._place = _filesystem(path)
        self._descriptor = os.open(path, os.O_RDONLY) if self._system is None else -1

    def read(self, offset: int, size: int) -> bytes:
        """Give the bytes from an offset, fewer where the file ends before."""
        if self._system is None:
            return os.pread(self._descriptor, size, offset)
        try:
            return self._system.cat_file(self._place, start=offset, end=offset + size)
        except OSError as error:
            if "416" in str(error) or "InvalidRange" in str(error) or "not satisfiable" in str(error):
                return b""  # an offset at or past the end
            raise

    def close(self) -> None:
        """Close the file; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> OpenFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _is_plain(entry: os.DirEntry[str]) -> bool:
    """Tell files and folders from pipes, sockets, and links that lead nowhere or in a circle."""
    try:
        return entry.is_file() or entry.is_dir()
    except OSError:
        return False


def _local(path: str) -> File:
    status = os.stat(path)
    return File(path, status.st_size, status.st_mtime, os.path.isdir(path))


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        return fsspec.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise InputError(
            f"{url} cannot be opened: {error}. s3:// needs the extra: pip install 'topnine[s3]'."
        ) from error


def _remote(system: Any, info: dict[str, Any]) -> File:
    modified = info.get("LastModified") or info.get("mtime") or info.get("last_modified") or 0.0
    seconds = modified.timestamp() if hasattr(modified, "timestamp") else float(modified)
    return File(system.unstrip_protocol(info["name"]), int(info.get("size") or 0), seconds, info["type"] == "directory")
