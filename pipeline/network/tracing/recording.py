"""Record the graph of a network: run it once under a ``TorchFunctionMode`` and note every torch function that it calls.

In-place and functional forms, reused modules and Python control flow are seen as they happen. The network itself is
not changed. What runs without torch's functions in Python (a scripted function, the body of an ``autograd.Function``,
a way through numpy) is seen to be unseen: its result comes out of nowhere, or changes from image to image.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.autograd.function import BackwardCFunction
from torch.overrides import TorchFunctionMode

from ...errors import check_memory, first_line
from ..graph import Graph, Operation, Window, is_operation, operation_name, outcome, tensors_in
from ..modules import constants
from .functions import study
from .tape import Step, Tape

_SETTLES: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()  # of the networks that were recorded


def trace(module: nn.Module, pixels: Tensor) -> Graph:
    """Run a network once on an input (image, channel, y, x) and return the graph of its operations.

    The pass may end in an error of any kind: what was run before it can be mined.
    """
    return record(module, pixels).graph


@dataclass(frozen=True)
class Recording:
    """The graph of one forward pass, and the tape of its operations with their tensors."""

    graph: Graph
    tape: Tape


def record(module: nn.Module, pixels: Tensor, studied: bool = True) -> Recording:
    """Run a network once and return its graph and its tape; ``studied`` = with what its operations do.

    The first time that it is run, it is run twice: it may compute constants then that it keeps.
    """
    if module not in _SETTLES:
        first, second = (_run(module, pixels, torch.enable_grad())[0].operations for _ in range(2))
        _SETTLES[module] = [operation.name for operation in first] != [operation.name for operation in second]
    recorder, broken_off = _run(module, pixels, torch.enable_grad())
    contiguous = False
    if broken_off:  # it may be the order of the dimensions in memory that it does not bear, as a view of several does
        other, again = _run(module, pixels.contiguous(), torch.enable_grad())
        if len(other.operations) > len(recorder.operations):
            recorder, broken_off, contiguous = other, again, True
            pixels = pixels.contiguous()
    if broken_off:  # or the gradient, as in-place changes of parts of a split
        other, again = _run(module, pixels, torch.no_grad())
        if len(other.operations) > len(recorder.operations):
            recorder, broken_off = other, again
    tape = Tape(recorder.source, recorder.steps, tuple(recorder.operations))
    tape = tape.pruned() if studied else tape
    effects = study(tape) if studied else {"keeps": {}, "unknown": ()}
    keeps, unknown = effects.pop("keeps"), effects.pop("unknown")
    graph = Graph(
        tuple(replace(operation, keeps=keeps.get(i, ())) for i, operation in enumerate(tape.operations, 1)),
        recorder.outputs,
        tuple(pixels.shape),
        broken_off,
        contiguous=contiguous,
        settles=_SETTLES[module],
        unseen=(*recorder.unseen.items(), *unknown),
        lost=tuple(recorder.lost.items()),
        read_out=tuple(recorder.read_out),
        **effects,
    )
    return Recording(graph, tape)


def _run(module: nn.Module, pixels: Tensor, gradient: Any) -> tuple[_Recorder, str]:
    paths = {submodule: path for path, submodule in module.named_modules()}
    with gradient:
        leaf = pixels.detach().clone().requires_grad_(torch.is_grad_enabled())
        source = leaf.clone()  # an operation in place may come first
        held = list(constants(module))  # an id is only unique while its tensor lives
        recorder = _Recorder(source, {id(tensor) for tensor in held})
        try:
            with _module_calls(paths, recorder), recorder:
                module(source)
        except Exception as error:  # noqa: BLE001 - whatever a head raises, the layers before it were run
            check_memory(error)
            return recorder, f"{type(error).__name__}: {first_line(error)}"
    return recorder, ""


class _Recorder(TorchFunctionMode):
    def __init__(self, source: Tensor, constants: set[int]) -> None:
        super().__init__()
        self.source = source
        self.operations: list[Operation] = []
        self.steps: list[Step] = []
        self.outputs: dict[str, int] = {}
        self.unseen: dict[int, str] = {}
        self.lost: dict[int, str] = {}
        self.read_out: list[tuple[int, str]] = []
        self.modules: list[str] = [""]
        self._values = {id(source): 0}
        self._aliases: dict[int, list[Tensor]] = {_storage(source): [source]}
        self._constants = constants

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        read = list(tensors_in((args, kwargs)))
        versions = [tensor._version for tensor in read]
        returned = function(*args, **kwargs)
        result = outcome(function, args, returned)
        if is_operation(result):
            changed = [t for t, version in zip(read, versions, strict=True) if t._version != version]
            self._record(function, args, kwargs, result, changed)
        elif operation_name(function) in _READING_OUT:
            known = [self._values[id(tensor)] for tensor in read if id(tensor) in self._values]
            self.read_out += [(value, operation_name(function)) for value in known]
        return returned

    def _record(self, function: Any, args: Any, kwargs: Any, result: Any, changed: list[Tensor]) -> None:
        read = list(tensors_in((args, kwargs)))
        values = [self._value(tensor) for tensor in read]
        name = operation_name(function)
        shape = tuple(next(tensors_in(result)).shape)
        inputs = tuple(dict.fromkeys(value for value in values if value is not None))
        order = _order(function, args, kwargs) if name in _PERMUTATIONS else ()
        windows = _windows(name, args, kwargs)
        self.operations.append(Operation(name, inputs, windows, shape, order, module=self.modules[-1]))
        value = len(self.operations)
        is_derived = any(tensor.requires_grad for tensor in tensors_in(result))
        for tensor in changed:
            for alias in self._aliases.get(_storage(tensor), [tensor]):
                self._values[id(alias)] = value
                if alias.requires_grad and not is_derived:
                    self.lost.setdefault(value - 1, "changes a tensor in place without a derivative")
        unknown = tuple(t for t, v in zip(read, values, strict=True) if v is None and id(t) not in self._constants)
        self.steps.append(Step(function, args, kwargs, result, tuple(changed), unknown, is_derived))
        for tensor in tensors_in(result):
            self._values[id(tensor)] = value
            self._aliases.setdefault(_storage(tensor), []).append(tensor)

    def _value(self, tensor: Tensor) -> int | None:
        """Return the number of a tensor's value; note where it came from what was not seen."""
        value = self._values.get(id(tensor))
        if value is None and tensor.grad_fn is None:
            return None  # a parameter, or a constant
        if value is None or isinstance(tensor.grad_fn, BackwardCFunction):
            self.unseen.setdefault(len(self.operations), _source_name(tensor))
        return len(self.operations) if value is None else value

    def record_module(self, path: str, result: Any) -> None:
        """Note which value a module returned."""
        tensor = next(tensors_in(result), None)
        if tensor is None:
            return
        value = self._values.get(id(tensor))
        if value is not None:
            self.outputs[path] = value
        if (value is None and tensor.grad_fn is not None) or isinstance(tensor.grad_fn, BackwardCFunction):
            self.unseen.setdefault(max(0, len(self.operations) - 1), _source_name(tensor))


# Methods that take numbers out of a tensor: what becomes of these is not seen.
_READING_OUT = frozenset("item tolist numpy bool float int index complex array contains equal allclose".split())  # noqa: SIM905


def _source_name(tensor: Tensor) -> str:
    name = type(tensor.grad_fn).__name__
    return name.removesuffix("0").removesuffix("Backward")


def _storage(tensor: Tensor) -> int:
    try:
        return tensor.untyped_storage().data_ptr() or id(tensor)
    except (NotImplementedError, RuntimeError):  # sparse tensors and others without one
        return id(tensor)


@contextmanager
def _module_calls(paths: dict[nn.Module, str], recorder: _Recorder) -> Iterator[None]:
    """Report to the recorder which module runs and what it returned, by torch's global hooks: none is changed."""

    def enter(module: nn.Module, _: Any) -> None:
        """Note that a module of this network begins."""
        if module in paths:
            recorder.modules.append(paths[module])

    def leave(module: nn.Module, _: Any, result: Any) -> None:
        """Report what a module of this network returned."""
        if module in paths:
            recorder.modules.pop()
            recorder.record_module(paths[module], result)

    hooks = nn.modules.module
    handles = [hooks.register_module_forward_pre_hook(enter), hooks.register_module_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


# The signatures of the sliding operations, in torch's order: positional and keyword calls are bound alike.


def _conv2d(input, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):  # type: ignore[no-untyped-def]
    kernel = weight.shape[2:]
    if padding == "same":
        padding = tuple(d * (k - 1) // 2 for d, k in zip(_pair(dilation), kernel, strict=True))
    return kernel, stride, 0 if padding == "valid" else padding, dilation


def _max_pool2d(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):  # type: ignore[no-untyped-def]
    return kernel_size, stride or kernel_size, padding, dilation


def _avg_pool2d(  # type: ignore[no-untyped-def]
    input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
):
    return kernel_size, stride or kernel_size, padding, 1


def _pad(input, pad, mode="constant", value=None):  # type: ignore[no-untyped-def]
    left, _, top, _ = (*pad, 0, 0, 0, 0)[:4]
    return 1, 1, (top, left), 1


_SLIDING: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "max_pool2d": _max_pool2d,
    "max_pool2d_with_indices": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "pad": _pad,
}


_PERMUTATIONS = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")


def _order(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[int, ...]:
    """Return how a function permutes dimensions, found with a tensor whose dimensions all have different sizes."""
    sizes = tuple(range(2, 2 + args[0].ndim))
    permuted = function(torch.empty(sizes, device="meta"), *args[1:], **kwargs)
    return tuple(sizes.index(size) for size in permuted.shape)


def _windows(name: str, args: Any, kwargs: Any) -> tuple[Window, Window] | None:
    if name not in _SLIDING:
        return None
    try:
        bound = inspect.signature(_SLIDING[name]).bind(*args, **kwargs)
        y, x = zip(*(_pair(argument) for argument in _SLIDING[name](*bound.args, **bound.kwargs)), strict=True)
    except (TypeError, ValueError, IndexError):  # called in a way of its own: the field is measured
        return None
    return Window(*y), Window(*x)


def _pair(argument: Any) -> tuple[int, int]:
    if isinstance(argument, int):
        return argument, argument
    return (int(argument[0]), int(argument[-1]))
