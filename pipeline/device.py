"""The device that a worker drives, and what makes its arithmetic repeatable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from .errors import InputError


def choose(name: str) -> str:
    """Give the device a user asked for, ``auto`` = cuda where there is one; InputError if it is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name.split(":", maxsplit=1)[0] not in ("cpu", "cuda", "mps"):
        raise InputError(f"device {name!r} cannot be used: it is cpu, cuda, cuda:1, …, mps or auto.")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device {name!r} cannot be used: {str(error).splitlines()[0]}. Try 'cpu' or 'auto'."
        ) from error
    return name


def cores() -> int:
    """Give the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(device: str, threads: int) -> int:
    """Give how many batches a worker computes at once: on a CPU one per thread, each on one thread alone.

    What oneDNN gives depends, in the last bits, on the number of threads of a forward pass (measured: SqueezeNet from
    its second stage on). One thread each makes it the same on every machine of a kind, and takes less processor time.
    """
    return threads if device == "cpu" else 1


@contextmanager
def repeatable() -> Iterator[None]:
    """Choose torch's algorithms by shape alone, on one thread: the same input gives the same bytes."""
    torch.set_num_threads(1)  # of the thread that calls
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
