"""Running a batch: from host arrays to a device and back, in a context of the device's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

HALF_PRECISIONS = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Kind:
    """What batches have in common that run the same operations on arrays of the same shapes."""

    key: Hashable
    precision: str
    shapes: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> int:
        """The number of images, the first dimension of the first array."""
        return self.shapes[0][0]


class Batches(ABC):
    """What all devices share: a batch is uploaded, computed in a context of its own, and copied back."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, key: Hashable, function: Callable[..., Any], *arrays: np.ndarray, precision: str = "float32") -> Any:
        """Compute a batch: see ``Device``."""
        half = HALF_PRECISIONS.get(precision)
        shapes = tuple(array.shape for array in arrays)
        with self._batch(Kind(key, precision, shapes)), torch.autocast(self._kind, half, enabled=half is not None):
            return self._to_host(function(*(self._upload(torch.from_numpy(array)) for array in arrays)))

    @property
    def _kind(self) -> str:
        return self.name.split(":", maxsplit=1)[0]

    def _to_host(self, value: Any) -> Any:
        copies = _map_tensors(self._download, value)
        self._wait()
        return _map_tensors(Tensor.numpy, copies)

    @contextmanager
    def deterministic(self, precision: str = "float32") -> Iterator[None]:
        """Compute every batch on one core: see ``Device``.

        The last bits of oneDNN's results depend on the number of threads of a forward pass (measured: SqueezeNet from
        its second stage on). torch keeps the number for the process and for threads that begin later.
        """
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)

    @abstractmethod
    def _batch(self, kind: Kind) -> Any: ...

    @abstractmethod
    def _upload(self, array: Tensor) -> Tensor: ...

    @abstractmethod
    def _download(self, tensor: Tensor) -> Tensor: ...

    @abstractmethod
    def _wait(self) -> None: ...


def _map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """Return nested tuples, lists and dicts with a function applied to every tensor in them."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple | list):
        return tuple(_map_tensors(function, item) for item in value)
    if isinstance(value, dict):
        return {key: _map_tensors(function, item) for key, item in value.items()}
    return value
