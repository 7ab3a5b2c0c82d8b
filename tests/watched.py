"""A device that keeps account of streams: a GPU's code, run on the processor, fails where it reads without waiting.

``Watched`` is ``Cuda`` with other calls to the driver: its streams only note who wrote a tensor last and who has waited
for whom. Inside ``watch()`` every operation that reads a tensor which another stream has written, and which the reading
stream has not waited for, is noted in ``unsynchronised``.
"""

from __future__ import annotations

import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from topnine.pipeline.compute import devices

PROJECT = Path(devices.__file__).resolve().parent.parent.parent


class Stream:
    """What a stream has done, by a clock of all operations, and up to when it has waited for others."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waited: dict[str, int] = {}


class Account:
    """Who wrote each tensor's storage last, and the reads that did not wait."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.clock = 0
        self.writers: dict[int, tuple[Stream, int]] = {}
        self.kept: list[Tensor] = []  # an address is only unique while its tensor lives
        self.unsynchronised: set[str] = set()
        self.host = Stream("the host")
        self.running = threading.local()

    @property
    def stream(self) -> Stream:
        return getattr(self.running, "stream", self.host)

    def note_read(self, tensor: Tensor, operation: str) -> None:
        writer = self.writers.get(tensor.untyped_storage()._cdata)
        if writer and writer[0] is not self.stream and self.stream.waited.get(writer[0].name, -1) < writer[1]:
            self.unsynchronised.add(f"{operation} on {self.stream.name} reads what {writer[0].name} wrote{_where()}")

    def note_write(self, tensor: Tensor) -> None:
        with self.lock:
            self.clock += 1
            self.writers[tensor.untyped_storage()._cdata] = self.stream, self.clock
            self.kept.append(tensor)

    def wait(self, stream: Stream, other: Stream) -> None:
        stream.waited[other.name] = self.clock


def _where() -> str:
    frames = [frame for frame in traceback.extract_stack() if str(PROJECT) in str(Path(frame.filename).resolve())]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""


class Watch(TorchDispatchMode):
    """Notes reads and writes of every operation of a thread."""

    def __init__(self, account: Account) -> None:
        super().__init__()
        self.account = account

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        for value in tree_flatten((args, kwargs or {}))[0]:
            if isinstance(value, Tensor):
                self.account.note_read(value, function.name())
        result = function(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                self.account.note_write(value)
        return result


class Watched(devices.Cuda):
    """``Cuda`` on the processor: the driver's calls are replaced, everything else is the project's own."""

    account: Account

    def _check_there(self) -> None:
        self.made_streams = 0
        self.copies = 0

    def check_precision(self, precision: str) -> None:
        devices.Cpu("cpu").check_precision(precision)

    @property
    def _kind(self) -> str:
        return "cpu"

    def _new_stream(self) -> Stream:
        self.made_streams += 1
        return Stream(f"stream {self.made_streams}")

    @contextmanager
    def _on(self, stream: Stream) -> Iterator[None]:
        account = self.account
        account.wait(stream, account.host)
        before, account.running.stream = account.stream, stream
        try:
            with Watch(account):
                yield
        finally:
            account.running.stream = before

    def _copy(self, module: nn.Module) -> nn.Module:
        self.copies += 1
        return module

    def empty(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.empty(shape, np.uint8)

    def _upload(self, array: Tensor) -> Tensor:
        return array.clone()

    def _download(self, tensor: Tensor) -> Tensor:
        return tensor.detach().clone()

    def _wait(self) -> None:
        self.account.wait(self.account.host, self.account.stream)


@contextmanager
def watch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Account]:
    """Have every device of this process watched, and every operation of this thread noted."""
    account = Account()
    monkeypatch.setattr(Watched, "account", account, raising=False)
    monkeypatch.setitem(devices.KINDS, "cpu", Watched)
    devices.close_devices()
    try:
        with Watch(account):
            yield account
    finally:
        devices.close_devices()
