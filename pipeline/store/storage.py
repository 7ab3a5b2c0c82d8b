"""Where zarr keeps a store: files that outlast a power cut, or a bucket; and reading it without trusting in chunks."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.buffer import Buffer, BufferPrototype
from zarr.abc.store import ByteRequest, Store
from zarr.storage import LocalStore, ObjectStore, WrapperStore

from .. import buckets, durable
from ..errors import InputError
from ..files import is_url

REQUESTS = 64  # that zarr has under way at once in a bucket
DOCUMENT = "zarr.json"  # the metadata of a group or an array; every other key is a chunk


class MissingChunkError(Exception):
    """A chunk that is read is not there, or has no bytes; its message is the chunk's key."""


class DurableStore(LocalStore):
    """Zarr's store of local files, but what is written outlasts a power cut once the call is done."""

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        self._check_writable()
        await asyncio.to_thread(durable.write, self.root / key, value.as_buffer_like())

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key that is not there."""
        self._check_writable()
        await asyncio.to_thread(durable.create, self.root / key, value.as_buffer_like())

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a key."""
        self._check_writable()
        durable.write(self.root / key, value.as_buffer_like())


class BucketStore(ObjectStore[Any]):
    """Zarr's store of a bucket, of which every error is an OSError or a StopError: zarr takes no other for damage."""

    def __init__(self, store: Any, *, read_only: bool = False, url: str = "") -> None:
        super().__init__(store, read_only=read_only)
        self.url = url

    def with_read_only(self, read_only: bool = False) -> BucketStore:
        """Return the same store for reading alone, or for writing."""
        return BucketStore(self.store, read_only=read_only, url=self.url)

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of a key, None where there is none."""
        with buckets.os_errors(f"{self.url}/{key}"):
            return await super().get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        """Return whether there is a key."""
        with buckets.os_errors(f"{self.url}/{key}"):
            return await super().exists(key)

    async def set(self, key: str, value: Buffer) -> None:
        """Write a key."""
        with buckets.os_errors(f"{self.url}/{key}"):
            await super().set(key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Write a key that is not there."""
        with buckets.os_errors(f"{self.url}/{key}"):
            await super().set_if_not_exists(key, value)

    async def delete(self, key: str) -> None:
        """Delete a key."""
        with buckets.os_errors(f"{self.url}/{key}"):
            await super().delete(key)

    async def list_dir(self, prefix: str) -> AsyncGenerator[str, None]:
        """Yield what is directly below a prefix."""
        with buckets.os_errors(f"{self.url}/{prefix}"):
            async for name in super().list_dir(prefix):
                yield name


class CompleteStore(WrapperStore[Store]):
    """A store of which only chunks that are there can be read: zarr takes a missing or empty one for fill values."""

    async def get(self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None) -> Buffer | None:
        """Return the bytes of a key; MissingChunkError where it is a chunk without any."""
        value = await self._store.get(key, prototype, byte_range)
        if (value is None or not len(value)) and not key.endswith(DOCUMENT):
            raise MissingChunkError(key)
        return value


def open_storage(path: str, write: bool) -> Store:
    """Open what holds a store, at a path or a URL, for zarr."""
    if is_url(path):
        zarr.config.set({"async.concurrency": REQUESTS})
        return BucketStore(buckets.connect_folder(path, write), read_only=not write, url=path.rstrip("/"))
    return DurableStore(Path(path), read_only=not write)


def check_links(path: str) -> None:
    """Raise InputError where a link in a store leads out of it or in a circle: its files would be written elsewhere."""
    if is_url(path):
        return
    root = Path(os.path.realpath(path))
    for link in _links(root):
        target = Path(os.path.realpath(link))  # unlike Path.resolve, it raises no error at links in a circle
        if target.is_symlink() or not target.is_relative_to(root):
            raise InputError(
                f"the store {path} is not written to: {link.relative_to(root)} in it is a link to {target}, which is "
                "outside or leads nowhere. Put a copy of what it leads to in its place, or delete it."
            )


def _links(folder: Path) -> Iterator[Path]:
    try:
        with os.scandir(folder) as listing:
            entries = list(listing)
    except FileNotFoundError:  # there is no store yet, or another run has just deleted the folder
        return
    for entry in entries:
        if entry.is_symlink():
            yield folder / entry.name
        elif entry.is_dir():
            yield from _links(folder / entry.name)
