"""The device that a worker drives, and what makes its arithmetic repeatable."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor

from .errors import InputError

STREAMS = 3  # batches at once on a GPU: one is computed while another is copied there and a third is collected

HALVES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


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


def check_precision(device: str, precision: str) -> None:
    """Raise InputError where a device does not compute in a precision."""
    if precision == "tf32" and not device.startswith("cuda"):
        raise InputError(
            f'mine.precision = "tf32" needs a GPU, and the device is {device}: use "float32" or "bfloat16" there.'
        )


def cores() -> int:
    """Give the number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def side_by_side(device: str, threads: int) -> int:
    """Give how many batches a worker computes at once: on a CPU one per thread, each alone; on a GPU one per stream.

    What oneDNN gives depends, in the last bits, on the number of threads of a forward pass (measured: SqueezeNet from
    its second stage on). One thread each makes it the same on every machine of a kind, and takes less processor time.
    """
    if device.startswith("cuda"):
        return STREAMS
    return threads if device == "cpu" else 1


@contextmanager
def repeatable(precision: str = "float32") -> Iterator[None]:
    """Choose the algorithms of this process by shape alone: the same input gives the same bytes.

    Entered around threads, not in them: torch keeps these choices for the whole process.
    """
    matmul = torch.backends.cuda.matmul
    allowed, matmul.allow_tf32 = matmul.allow_tf32, precision == "tf32"
    try:
        with torch.backends.cudnn.flags(
            enabled=True, benchmark=False, deterministic=True, allow_tf32=precision == "tf32"
        ):
            yield
    finally:
        matmul.allow_tf32 = allowed


@contextmanager
def one_batch(device: str, precision: str = "float32") -> Iterator[None]:
    """Compute a batch in the thread that calls: on one core of a CPU, on a stream of its own on a GPU."""
    torch.set_num_threads(1)  # of this thread
    half = HALVES.get(precision)
    with _stream(device), torch.autocast(device.split(":", maxsplit=1)[0], half, enabled=half is not None):
        yield


def upload(array: Tensor, device: str) -> Tensor:
    """Copy a tensor to the device; to a GPU from pinned memory, without waiting for it."""
    if not device.startswith("cuda"):
        return array.to(device)
    return array.pin_memory().to(device, non_blocking=True)


_own = threading.local()


def _stream(device: str) -> AbstractContextManager[object]:
    if not device.startswith("cuda"):
        return nullcontext()
    if not hasattr(_own, "stream"):
        _own.stream = torch.cuda.Stream(device)
    _own.stream.wait_stream(torch.cuda.default_stream(device))  # what others put there may be read
    return torch.cuda.stream(_own.stream)
