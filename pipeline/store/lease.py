"""The lease of a store: of all runs, one may write to it, and a run that has lost it learns so before its next write.

Leases are numbered, ``progress/lease-<number>``, and the highest holds. To take over from a run that has ended, a run
creates the next number, which of several only one can; then it deletes the lower ones. A run whose number is no longer
the highest, or that could not renew its lease for as long as others wait, has lost it. What it still writes until it
looks the next time are whole chunks that every run with these settings writes alike.
"""

from __future__ import annotations

import math
import re
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from .. import files
from ..errors import BusyError
from .holder import GONE_S, Holder, Life, seconds_since_boot
from .storage import check_links

HEARTBEAT_S = 5
LOOK_S = 1  # between two looks at a run that is silent
CHECK_S = 1  # a look at the own lease is good for it: nobody takes it over within seconds; in a bucket it is a request

_looked_at: dict[Claim, float] = {}  # when this process saw last that a claim holds


@dataclass(frozen=True)
class _Found:
    """The lease that holds in a store: its number, and its document."""

    number: int
    document: bytes

    @property
    def holder(self) -> Holder:
        """The run that holds it."""
        return Holder.read(self.document)


@dataclass(frozen=True)
class Claim:
    """A run's claim to write to a store, as its workers know it.

    Attributes
    ----------
    path : str
        Of the store.
    token : str
        Of the run.
    """

    path: str
    token: str

    @property
    def claim(self) -> Claim:
        """The claim itself, as a lease has one."""
        return self

    def check(self) -> None:
        """Raise BusyError where the run does not hold the store's lease any more; it is looked at once a second."""
        now = seconds_since_boot()
        if now - _looked_at.get(self, -math.inf) < CHECK_S:
            return
        found = _find(self.path)
        if found is None or found.holder.token != self.token:
            raise _lost(self.path)
        _looked_at[self] = now


class Lease:
    """The lease that this process holds; ``claim`` is what its workers are handed."""

    def __init__(self, path: str, number: int, holder: Holder) -> None:
        self.claim = Claim(path, holder.token)
        self._number = number
        self._holder = holder
        self._renewed = holder.beat

    def report(self, stage: str, unit: str, skipped: int, done: int, total: int) -> None:
        """Keep the run's progress, to be written with the next heartbeat."""
        began = self._holder.stage_started if self._holder.stage == stage else time.time()
        progress = {"stage": stage, "unit": unit, "skipped": skipped, "done": done, "total": total}
        self._holder = self._holder.model_copy(update={"stage_started": began, **progress})

    def check(self) -> None:
        """Raise BusyError where this process does not hold the lease any more."""
        if seconds_since_boot() - self._renewed >= GONE_S:  # another run may hold it, or have held it and ended
            self._renewed = -math.inf
            raise _lost(self.claim.path)
        self.claim.check()

    def renew(self) -> None:
        """Write a heartbeat; BusyError where the lease is lost."""
        beat = seconds_since_boot()
        self.check()
        now = self._holder.model_copy(update={"heartbeat": time.time(), "beat": beat})
        files.write(_path(self.claim.path, self._number), now.document())
        self._renewed = beat

    def renew_until(self, released: threading.Event) -> None:
        """Write a heartbeat every few seconds."""
        while not released.wait(HEARTBEAT_S):
            try:
                self.renew()
            except BusyError:
                return  # the next write says it
            except Exception:  # noqa: BLE001 - a disk may be full, a bucket unreachable: the run is alive nevertheless
                continue

    def release(self) -> None:
        """Delete the lease, unless another run has taken it over."""
        found = _find(self.claim.path)
        if found is not None and found.holder.token == self.claim.token:
            _delete_up_to(self.claim.path, found.number)


def find_holder(path: str) -> Holder | None:
    """Return the run that is writing to a store, None if none is."""
    found = _find(path)
    return found.holder if found and found.holder.life() is Life.RUNS else None


def watch_silent(path: str) -> Generator[int, None, bytes | None]:
    """Watch the lease of a run that has been silent, for as long as one can be cut off; yield the seconds so far.

    Returns
    -------
    bytes or None
        What the lease says all the time, for ``hold_lease``; None where there was no need to watch, because no run
        holds it, or it is known whether the run has ended.

    Raises
    ------
    BusyError
        The run shows that it lives.
    """
    found = _find(path)
    if found is None or found.holder.life() is not Life.SILENT:
        return None
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < GONE_S:
        yield int(seconds)
        time.sleep(LOOK_S)
        again = _find(path)
        if again is None:
            return None
        if again != found:
            raise _busy(path, again.holder)
    return found.document


@contextmanager
def hold_lease(path: str, silent: bytes | None = None) -> Iterator[Lease]:
    """Hold a store's lease, from before there is a store.

    Parameters
    ----------
    path : str
        Of the store.
    silent : bytes, optional
        The lease of a run that was watched and counts as ended, see ``watch_silent``.

    Raises
    ------
    BusyError
        Another run holds it. That of a run that has ended is taken over.
    InputError
        A link in the store leads out of it.
    """
    lease = _take(path, silent)
    released = threading.Event()
    renewing = threading.Thread(target=lease.renew_until, args=(released,), name="lease", daemon=True)
    renewing.start()
    try:
        yield lease
    finally:
        released.set()
        renewing.join()
        lease.release()


def _take(path: str, silent: bytes | None) -> Lease:
    check_links(path)
    found = _find(path)
    if found is not None:
        life = found.holder.life()
        if life is Life.RUNS or (life is Life.SILENT and found.document != silent):
            raise _busy(path, found.holder)
    number, holder = (found.number if found else 0) + 1, Holder.here()
    created = _create(path, number, holder)
    newest = _find(path)
    if not created or newest is None or newest.holder.token != holder.token:  # another run was faster
        if created:
            _delete(path, number)
        raise _busy(path, newest.holder if newest else Holder())
    _delete_up_to(path, number - 1)
    return Lease(path, number, holder)


def _lost(path: str) -> BusyError:
    return BusyError(
        f"this run no longer holds {path}: it was paused or cut off from it for {GONE_S} s or more, and another run "
        "may have gone on. What is done is kept; the same command goes on when the other has ended."
    )


def _busy(path: str, holder: Holder) -> BusyError:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(holder.started))
    return BusyError(
        f"a run on {holder.host} (process {holder.pid}) is writing to {path} since {since}: "
        "wait for its end, stop it, or give another STORE."
    )


def _path(store: str, number: int) -> str:
    return f"{store.rstrip('/')}/progress/lease-{number}/zarr.json"


def _create(store: str, number: int, holder: Holder) -> bool:
    try:
        return files.create(_path(store, number), holder.document())
    except FileNotFoundError:  # a run that ended in this moment has deleted the folder
        return False


def _numbers(store: str) -> list[int]:
    """List the numbers of all leases, the highest first."""
    names = files.list_names(f"{store.rstrip('/')}/progress")
    matches = (re.fullmatch(r"lease-(\d{1,9})", name) for name in names)
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def _find(store: str) -> _Found | None:
    """Return the lease that holds, None if there is none."""
    for number in _numbers(store):
        document = files.read(_path(store, number))
        if document is not None:
            return _Found(number, document)
    return None


def _delete_up_to(store: str, number: int) -> None:
    """Delete all leases up to a number, the lowest first: the highest holds until it is gone itself."""
    for lower in reversed(_numbers(store)):
        if lower <= number:
            _delete(store, lower)


def _delete(store: str, number: int) -> None:
    path = _path(store, number)
    files.delete(path)
    if not files.is_url(path):
        with suppress(OSError):  # it is not empty: what a run that was killed left there is deleted later
            Path(path).parent.rmdir()
