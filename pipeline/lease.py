"""A courtesy lease: who is writing to a store, noted on it with a heartbeat.

It is no lock. Two runs that take it in the same moment write the same bytes; it spares them the double work.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace

import psutil

from .errors import BusyError
from .store import Store

BEAT_S = 5
GONE_S = 60  # without a heartbeat


@dataclass(frozen=True)
class Holder:
    """A run that writes to a store, and what it is at. Times are seconds since 1970."""

    host: str = field(default_factory=socket.gethostname)
    pid: int = field(default_factory=os.getpid)
    process_started: float = field(default_factory=lambda: psutil.Process().create_time())
    started: float = field(default_factory=time.time)
    heartbeat: float = field(default_factory=time.time)
    stage: str = ""
    unit: str = ""
    stage_started: float = 0
    skipped: int = 0
    done: int = 0
    total: int = 0

    @property
    def name(self) -> tuple[str, int, float]:
        """What tells one run from another."""
        return self.host, self.pid, self.process_started

    @property
    def rate(self) -> float:
        """Units a second in the stage it is at; 0 where nothing is known yet."""
        seconds = self.heartbeat - self.stage_started
        return (self.done - self.skipped) / seconds if seconds > 0 else 0

    def alive(self) -> bool:
        """Tell whether it still runs: on this host by its process, elsewhere by its heartbeat."""
        if self.host != socket.gethostname():
            return abs(time.time() - self.heartbeat) < GONE_S
        try:
            process = psutil.Process(self.pid)
            same = abs(process.create_time() - self.process_started) < 1  # else its number was given away again
            return same and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


Note = Callable[[str, str, int, int, int], None]


def find_holder(store: Store) -> Holder | None:
    """Give the run that is writing to a store, if one is."""
    noted = store.lease()
    holder = Holder(**noted) if noted else None
    return holder if holder and holder.alive() else None


@contextmanager
def hold(store: Store) -> Iterator[Note]:
    """Hold a store's lease; gives a function that notes stage, unit, skipped, done and total for its readers.

    Raises
    ------
    BusyError
        Another run that is alive holds it. One that is gone is taken over.
    """
    other = find_holder(store)
    if other:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(other.started))
        raise BusyError(
            f"a run on {other.host} (process {other.pid}) is writing to {store.path} since {since}: "
            "wait for its end, stop it, or give another STORE."
        )
    mine = Holder()
    store.set_lease(asdict(mine))
    ended = threading.Event()

    def note(stage: str, unit: str, skipped: int, done: int, total: int) -> None:
        nonlocal mine
        began = mine.stage_started if mine.stage == stage else time.time()
        mine = replace(mine, stage=stage, unit=unit, stage_started=began, skipped=skipped, done=done, total=total)

    def beat() -> None:
        while not ended.wait(BEAT_S):
            try:
                if _holds(store, mine):
                    store.set_lease(asdict(replace(mine, heartbeat=time.time())))
            except OSError:  # a full disk ends the run where it writes; until then it is alive
                continue

    heart = threading.Thread(target=beat, name="lease", daemon=True)
    heart.start()
    try:
        yield note
    finally:
        ended.set()
        heart.join()
        if _holds(store, mine):
            store.set_lease(None)


def _holds(store: Store, run: Holder) -> bool:
    noted = store.lease()
    return noted is None or Holder(**noted).name == run.name
