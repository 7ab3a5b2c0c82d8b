"""The run that writes to a store: a process that can be told from every other, and whether it still runs.

The wall clock decides nothing where another sign is there: it is stepped, and differs between hosts. Nor does a process
number of another container, which counts its own.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import BaseModel, ConfigDict, Field, ValidationError

GONE_S = 60  # without a heartbeat, a run that cannot be asked for in any other way may have ended

Text = Annotated[str, Field(max_length=255)]
Count = Annotated[int, Field(ge=0, lt=2**62)]
Seconds = Annotated[float, Field(allow_inf_nan=False, gt=-1e11, lt=1e11)]


class Life(Enum):
    """What is known of a run: it runs, it has ended, or it has shown no sign for a while."""

    RUNS = "runs"
    ENDED = "ended"
    SILENT = "silent"


class Holder(BaseModel):
    """The run that holds a store's lease, and its progress.

    Attributes
    ----------
    token : str
        Differs between any two runs.
    host : str
        Its name, for people.
    boot : str
        The boot of its kernel.
    namespace : str
        Of its process numbers: those of containers differ.
    pid : int
    process : str
        When the process was started, as its kernel counts.
    started, heartbeat, stage_started : float
        By the wall clock of its host, in s since 1970: when it took the lease, when it renewed it last, and when its
        present stage began.
    beat : float
        When it renewed the lease last, in s since its kernel's boot.
    stage, unit : str
        The present stage, and what it counts.
    skipped, done, total : int
        How many units earlier runs did, how many are done by now, and how many there are.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    token: Text = ""
    host: Text = ""
    boot: Text = ""
    namespace: Text = ""
    pid: Count = 0
    process: Text = ""
    started: Seconds = 0
    heartbeat: Seconds = 0
    beat: Seconds = 0
    stage: Text = ""
    unit: Text = ""
    stage_started: Seconds = 0
    skipped: Count = 0
    done: Count = 0
    total: Count = 0

    @classmethod
    def here(cls) -> Holder:
        """Return this process as a run that begins now."""
        pid, now = os.getpid(), time.time()
        return cls(
            token=secrets.token_hex(16),
            host=socket.gethostname()[:255],
            boot=_boot(),
            namespace=_namespace(),
            pid=pid,
            process=_process_start(pid),
            started=now,
            heartbeat=now,
            beat=seconds_since_boot(),
        )

    @classmethod
    def read(cls, document: bytes) -> Holder:
        """Return the run that a document of a lease names; one without a token where the document is none.

        >>> Holder.read(Holder(host="node7", pid=12).document()).host, Holder.read(b"{").token
        ('node7', '')
        """
        try:
            attributes: Any = json.loads(document)["attributes"]
            return cls.model_validate(attributes)
        except (ValidationError, ValueError, LookupError, TypeError, RecursionError):
            return cls()

    def document(self) -> bytes:
        """Return the run as the metadata of a Zarr group, so that a lease is a part of the store like any other."""
        return json.dumps({"zarr_format": 3, "node_type": "group", "attributes": self.model_dump()}).encode()

    @property
    def rate(self) -> float:
        """Units per second in the present stage; 0 as long as it is unknown."""
        seconds = self.heartbeat - self.stage_started
        return (self.done - self.skipped) / seconds if seconds > 0 else 0

    def life(self) -> Life:
        """Return whether the run still runs: by its process where this one can see it, else by its heartbeat."""
        if self.boot and (self.boot, self.namespace) == (_boot(), _namespace()):
            return Life.RUNS if self.process and _process_start(self.pid) == self.process else Life.ENDED
        silent_s = seconds_since_boot() - self.beat if self.boot == _boot() else abs(time.time() - self.heartbeat)
        return Life.RUNS if silent_s < GONE_S else Life.SILENT


def seconds_since_boot() -> float:
    """Return the seconds since the kernel was booted: no step of the clock changes them, and they go on in a pause."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _boot() -> str:
    """Return what differs between any two boots of any two kernels."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else f"{socket.gethostname()} {psutil.boot_time():.0f}"[:255]


def _namespace() -> str:
    namespace = Path("/proc/self/ns/pid")
    return os.readlink(namespace) if namespace.is_symlink() else ""


def _process_start(pid: int) -> str:
    """Return when a process was started, as the kernel counts; empty where there is none that runs."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return ""
        stat = Path(f"/proc/{pid}/stat")
        return stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else f"{process.create_time():.0f}"
    except (psutil.Error, OSError, ValueError, OverflowError):
        return ""
