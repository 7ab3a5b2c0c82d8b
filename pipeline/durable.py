"""Files that outlast a power cut: written whole, flushed to the disk with the folders that name them, or not there.

Renaming alone gives whole files after a kill, but not after a power cut: file systems write names to the disk seconds
before data.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # how the names of unfinished files end

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of file systems without hard links

_known_folders: set[Path] = set()  # whose names are on the disk, and those of all folders that they lie in


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path``, which replaces it, durably, if no error is raised."""
    _make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _flush(path.parent)


def write(path: Path, content: bytes | bytearray | memoryview) -> None:
    """Write a file, in place of any that is there."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def create(path: Path, content: bytes | bytearray | memoryview) -> bool:
    """Write a file where none is; return False where there is one. Of several processes, one creates it."""
    _make_folder(path.parent)
    temporary = path.with_name(f".{secrets.token_hex(8)}{PARTIAL}")
    try:
        temporary.write_bytes(content)
        _flush(temporary)
        _link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)
    return True


def _link(file: Path, path: Path) -> None:
    """Link a file under a second name, which must not be taken; copy it where the file system has no hard links."""
    try:
        os.link(file, path)  # unlike a rename, this fails where the name is taken
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        with path.open("xb") as copy:  # it can be seen half written, which a file under a new name cannot
            copy.write(file.read_bytes())
        _flush(path)


def _make_folder(folder: Path) -> None:
    """Make a folder and those that it lies in, and flush their names, also of those that another process just made."""
    if folder in _known_folders and folder.is_dir():
        return
    if folder.parent != folder:
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        if os.access(folder.parent, os.R_OK):
            _flush(folder.parent)
    _known_folders.add(folder)


def _flush(path: Path) -> None:
    """Have the disk take a file's content, or the names in a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # of file systems that know no fsync of folders
            raise
    finally:
        os.close(descriptor)
