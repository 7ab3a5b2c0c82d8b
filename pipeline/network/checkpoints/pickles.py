"""Files of ``torch.save``: their tensors and plain values, without running any code that they name.

torch's own restricted unpickler (``weights_only``) reads them. It refuses whatever class or function it does not know,
such as the ``argparse.Namespace`` of a training script. So the pickle is first gone through without executing it, for
the names that it calls. torch is then handed an inert stand-in for each of them: a call of one returns nothing but an
empty object. torch's own classes come first, so no stand-in takes the place of a tensor.
"""

from __future__ import annotations

import pickle
import warnings
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from pickletools import OpcodeInfo, genops, markobject
from typing import IO, Any
from zipfile import ZIP_STORED, ZipFile, is_zipfile

import torch

LEGACY_HEADERS = 3  # pickles before that of the object, in files from before torch 1.6
TORCHSCRIPT_ENTRY = "constants.pkl"  # only scripted modules have it
_FILLS = {"SETITEM": "dict", "SETITEMS": "dict", "APPEND": "list", "APPENDS": "list"}
_MARK = "a mark on the stack"


class StandIn:
    """What takes the place of an object whose class is not run: it keeps the class's name alone."""

    name = ""

    def __new__(cls, *_: Any) -> StandIn:
        """Return an object without anything of what a pickle gives it."""
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


def read_pickled(path: Path) -> Any:
    """Read a file of ``torch.save``, of today's form or of that before torch 1.6.

    Returns
    -------
    object
        As it was saved, with a ``StandIn`` in the place of every object that is neither a tensor nor a plain value;
        what a pickle fills as a dict or a list is one, whatever its class.

    Raises
    ------
    ValueError
        It is no such file, or holds what cannot be read without running code; the message says what to do.
    Exception
        Of several kinds, where the file is damaged.
    """
    if is_zipfile(path):
        _check_archive(path)
    globals_and_fills = _survey_file(path)
    stand_ins: list[Any] = [(_stand_in(name, fills), name) for name, fills in globals_and_fills.items()]
    with torch.serialization.safe_globals(stand_ins), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a pickle's protocol, of tensors of old kinds
        try:
            return torch.load(path, "cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            raise ValueError(
                "it holds more than tensors and plain values, in a form that cannot be read without running code. "
                "Load it in Python, and save its state dict alone: torch.save(state_dict, 'weights.pth')."
            ) from error


def survey(pickled: IO[bytes]) -> dict[str, str]:
    """Return the classes and functions that a pickle names, without executing it.

    Returns
    -------
    dict of name to str
        Full names, as in ``argparse.Namespace``, and what a pickle fills an instance as: "dict", "list", or an empty
        text where it only calls it.

    >>> import io
    >>> survey(io.BytesIO(pickle.dumps({"epoch": 3, "time": range(3)}, protocol=2)))
    {'builtins.range': ''}
    """
    return _Survey().of(pickled)


class _Survey:
    """A pickle's stack machine that notes for every object only which class made it: an empty text for plain ones."""

    def __init__(self) -> None:
        self._fills: dict[str, str] = {}
        self._stack: list[str] = []
        self._memo: dict[int, str] = {}

    def of(self, pickled: IO[bytes]) -> dict[str, str]:
        """Go through a pickle up to its end."""
        for operation, argument, _ in genops(pickled):
            self._step(operation, argument)
        return self._fills

    def _step(self, operation: OpcodeInfo, argument: Any) -> None:
        name = operation.name
        if name == "GLOBAL":
            self._stack.append(_full_name(*str(argument).split(" ", 1)))
            self._fills.setdefault(self._stack[-1], "")
        elif name in ("REDUCE", "NEWOBJ"):  # the result is of the class that is called
            self._stack.pop()
        elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
            self._memo[int(argument)] = self._stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self._stack.append(self._memo[int(argument)])
        else:
            self._move(operation)

    def _move(self, operation: OpcodeInfo) -> None:
        """Take from the stack what an operation takes, and push a plain value for each that it returns."""
        changes = operation.name in _FILLS or operation.name == "BUILD"
        if markobject in operation.stack_before:
            while self._stack.pop() != _MARK:
                pass
        else:
            for _ in operation.stack_before[int(changes) :]:
                self._stack.pop()
        if operation.name in _FILLS and self._stack[-1]:
            self._fills[self._stack[-1]] = _FILLS[operation.name]
        if not changes:
            self._stack += [_MARK if kind is markobject else "" for kind in operation.stack_after]


def _survey_file(path: Path) -> dict[str, str]:
    if is_zipfile(path):
        with ZipFile(path) as archive:
            (entry,) = (name for name in archive.namelist() if name.partition("/")[2] == "data.pkl")
            with archive.open(entry) as pickled:
                return survey(pickled)
    with path.open("rb") as file:
        for _ in range(LEGACY_HEADERS):
            survey(file)
        return survey(file)


def _check_archive(path: Path) -> None:
    """Raise ValueError where a zip archive is none of ``torch.save``."""
    with ZipFile(path) as archive:
        entries = {entry.filename.partition("/")[2]: entry.compress_type for entry in archive.infolist()}
    if TORCHSCRIPT_ENTRY in entries:
        raise ValueError(
            "it is a TorchScript archive, which is code. Save the state dict of the module: "
            "torch.save(torch.jit.load(path).state_dict(), 'weights.pth')."
        )
    if "data.pkl" not in entries:
        raise ValueError("it is a zip archive, but none that torch.save wrote. Unpack it, if weights are inside.")
    if any(kind != ZIP_STORED for kind in entries.values()):
        raise ValueError("it is compressed, which torch.save never does. Unpack it and save it again with torch.save.")


def _full_name(module: str, name: str) -> str:
    """Return a global's full name, of Python 2 as in Python 3, which is as torch's unpickler knows it."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return f"{IMPORT_MAPPING.get(module, module)}.{name}"


def _stand_in(name: str, fills: str) -> Callable[..., Any]:
    """Return a class whose instances are inert, whatever it is called with."""
    kinds: dict[str, Any] = {"dict": OrderedDict, "list": list}
    members: dict[str, Any] = {"name": name}
    if fills:
        members["__new__"] = lambda *_: kinds[fills]()
    return type("StandIn", (StandIn,), members)
