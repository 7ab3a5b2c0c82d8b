"""The device that a worker computes on: it runs one batch at a time in each thread, from host arrays to host arrays.

Streams belong to the process: there are ``STREAMS`` of them a GPU, whichever thread computes. A function that runs on
a device returns tensors to ``Device.run``, which copies them to the host and waits for them; no tensor leaves a batch,
so nothing can be read before it is written.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..network.modules.tensors import converted_copy
from .batches import Batches, Kind
from .doubles import copy_in_double

STREAMS = 3  # batches at once on a GPU: one is computed while another is copied to it and a third is copied back
CUBLAS_WORKSPACE = ":4096:8"  # what cuBLAS needs to choose its algorithms by shape alone
ONEDNN_OPERATIONS = 2**16  # whose code oneDNN keeps; its own default of 1,024 is passed by a deep network

# The compute capability from which a GPU has units for a precision; below it, torch computes it slowly or otherwise.
CAPABILITIES = {"tf32": (8, 0), "bfloat16": (8, 0), "float16": (7, 0)}


class Device(Protocol):
    """What computes batches. ``name`` is torch's: ``cpu``, ``cuda:0`` or ``cuda:1``."""

    name: str

    def forwards(self, threads: int) -> int:
        """Return how many forward passes are computed side by side in a worker with some threads."""

    def backwards(self, threads: int) -> int:
        """Return how many backward passes are computed side by side in a worker with some threads."""

    def check_precision(self, precision: str) -> None:
        """Raise InputError where the device does not compute in a precision."""

    def deterministic(self, precision: str = "float32") -> Any:
        """Return a context in which the same input gives the same bytes; entered outside of the batches' threads."""

    def place(self, module: nn.Module, precision: str = "float32") -> nn.Module:
        """Return a module of the CPU as it is on the device, its constants in float64 where that is the precision.

        It is the same object for the same module and precision.
        """

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array uint8 of some shape for what ``run`` takes, in memory from where the device copies fast."""

    def run(self, key: Hashable, function: Callable[..., Any], *arrays: np.ndarray, precision: str = "float32") -> Any:
        """Compute a batch: ``function`` takes the arrays as tensors; the tensors that it returns come back as arrays.

        Parameters
        ----------
        key : hashable
            What is computed: the same for batches that run the same operations, but for the arrays' shapes.
        function : callable
            Returns a tensor, or tuples, lists and dicts of tensors; other values pass as they are.
        """


def open_device(name: str) -> Device:
    """Return the device of a name, ``auto`` = ``cuda`` where there is one.

    Raises
    ------
    InputError
        This machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return _open_named("cuda:0" if name == "cuda" else name)


@cache  # a device belongs to the process, and with it its streams
def _open_named(name: str) -> Device:
    return KINDS[name.split(":", maxsplit=1)[0]](name)


def close_devices() -> None:
    """Forget the devices of this process, so that the next one is opened anew."""
    _open_named.cache_clear()


def count_gpus() -> int:
    """Return the number of GPUs that this process may use, without making a context on one."""
    return torch.cuda.device_count()


class LastMade:
    """Keeps what was made last of a module; threads that want it wait for one that makes it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: tuple[nn.Module, nn.Module] | None = None

    def get(self, module: nn.Module, make: Callable[[nn.Module], nn.Module]) -> nn.Module:
        """Return what was made of a module, or make it."""
        with self._lock:
            if self._made is None or self._made[0] is not module:
                self._made = None  # its memory is free before the next one is made
                self._made = module, make(module)
            return self._made[1]


class Cpu(Batches):
    """The processor: a batch a core, each on one thread. One batch on all cores takes more processor time.

    oneDNN generates the code for an operation when its shapes first occur, and keeps it. Two threads that have it
    generate the same code at the same time can get code that computes something else: measured for the backward pass
    of a 5×5 convolution with torch 2.14, in 1 or 2 of 100 such meetings, results that differed in the last bits or in
    all. So the first batch of every kind runs while no other first batch of as many images does: operations on other
    numbers of images have other shapes. And oneDNN is told to keep the code of all, so that none is generated again.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = str(ONEDNN_OPERATIONS)  # read when oneDNN is first used
        self._first: dict[int, threading.Lock] = {}  # by the number of images
        self._known: set[Kind] = set()
        self._doubled = LastMade()

    def forwards(self, threads: int) -> int:
        """Return one a thread."""
        return threads

    def backwards(self, threads: int) -> int:
        """Return one a thread."""
        return threads

    def check_precision(self, precision: str) -> None:
        """Raise InputError for ``tf32``, which is a GPU's."""
        if precision == "tf32":
            raise InputError(
                f'mine.precision = "tf32" needs a GPU, and the device is {self.name}: '
                'use "float32" or "bfloat16" there.'
            )

    def place(self, module: nn.Module, precision: str = "float32") -> nn.Module:
        """Return the module itself, in ``float64`` a copy; the copy that was made last is kept."""
        return self._doubled.get(module, copy_in_double) if precision == "float64" else module

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array of numpy's."""
        return np.empty(shape, np.uint8)

    @contextmanager
    def _batch(self, kind: Kind) -> Iterator[None]:
        if kind in self._known:
            yield
            return
        with self._first.setdefault(kind.images, threading.Lock()):
            yield
            self._known.add(kind)

    def _upload(self, array: Tensor) -> Tensor:
        return array

    def _download(self, tensor: Tensor) -> Tensor:
        return tensor.detach()

    def _wait(self) -> None:
        return None


class Cuda(Batches):
    """A GPU. Its streams belong to the process; a batch takes one that is free, and gives it back when it is done."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._check_there()
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", CUBLAS_WORKSPACE)
        self._lock = threading.Lock()
        self._free_streams: SimpleQueue[Any] | None = None
        self._placed = {"float32": LastMade(), "float64": LastMade()}

    def forwards(self, threads: int) -> int:
        """Return one a stream."""
        return STREAMS

    def backwards(self, threads: int) -> int:
        """Return one a stream: torch runs their backward passes in one thread, and all else of them side by side."""
        return STREAMS

    def check_precision(self, precision: str) -> None:
        """Raise InputError where the GPU has no units for a precision."""
        needed = CAPABILITIES.get(precision)
        capability = torch.cuda.get_device_capability(self.name) if needed else None
        if needed and capability and capability < needed:
            raise InputError(
                f'mine.precision = "{precision}" needs a GPU of compute capability {needed[0]}.{needed[1]}, '
                f'{self.name} has {capability[0]}.{capability[1]}: use "float32" there.'
            )

    @contextmanager
    def deterministic(self, precision: str = "float32") -> Iterator[None]:
        """Have cuDNN and cuBLAS choose their algorithms by shape alone; for the whole process, as torch keeps them."""
        matmul, tf32 = torch.backends.cuda.matmul, precision == "tf32"
        allowed, matmul.allow_tf32 = matmul.allow_tf32, tf32
        try:
            with (
                super().deterministic(precision),
                torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32),
            ):
                yield
        finally:
            matmul.allow_tf32 = allowed

    def place(self, module: nn.Module, precision: str = "float32") -> nn.Module:
        """Return a copy of the module on the GPU; the copy that was made last in a precision is kept."""
        if precision == "float64":
            return self._placed[precision].get(module, lambda module: self._copy(copy_in_double(module)))
        return self._placed["float32"].get(module, self._copy)

    @contextmanager
    def _batch(self, kind: Kind) -> Iterator[None]:
        streams = self._streams()
        stream = streams.get()
        try:
            with self._on(stream):
                yield
        finally:
            streams.put(stream)

    def _streams(self) -> SimpleQueue[Any]:
        with self._lock:
            if self._free_streams is None:
                self._free_streams = SimpleQueue()
                for _ in range(STREAMS):
                    self._free_streams.put(self._new_stream())
            return self._free_streams

    # From here on the calls to the driver.

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        """Return an array in pinned memory."""
        return torch.empty(shape, dtype=torch.uint8, pin_memory=True).numpy()

    def _new_stream(self) -> Any:
        return torch.cuda.Stream(self.name)

    @contextmanager
    def _on(self, stream: Any) -> Iterator[None]:
        stream.wait_stream(torch.cuda.default_stream(self.name))  # the weights were copied on it
        with torch.cuda.stream(stream):
            yield

    def _check_there(self) -> None:
        index = int(self.name.partition(":")[2] or 0)
        if not torch.cuda.is_available():
            raise InputError(f"device {self.name!r} cannot be used: torch finds no GPU here. Try 'cpu' or 'auto'.")
        if index >= torch.cuda.device_count():
            gpus = torch.cuda.device_count()
            raise InputError(f"device {self.name!r} cannot be used: this machine has {gpus} GPUs, numbered from 0.")

    def _copy(self, module: nn.Module) -> nn.Module:
        return converted_copy(module, lambda tensor: tensor.to(self.name))  # module.to leaves plain attributes behind

    def _upload(self, array: Tensor) -> Tensor:
        pinned = array if array.is_pinned() else array.pin_memory()
        return pinned.to(self.name, non_blocking=True)

    def _download(self, tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", non_blocking=True)  # into pinned memory

    def _wait(self) -> None:
        torch.cuda.current_stream(self.name).synchronize()


KINDS: dict[str, Callable[[str], Device]] = {"cpu": Cpu, "cuda": Cuda}
