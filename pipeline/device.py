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


@contextmanager
def repeatable(threads: int) -> Iterator[None]:
    """Run torch with some threads, choosing algorithms by shape alone: the same input gives the same bytes."""
    torch.set_num_threads(threads)
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        yield
