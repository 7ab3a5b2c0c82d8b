"""The graph of one forward pass: which operations a network runs, in which order, on what.

Everything that must hold for any network (where a layer is tapped, how far its filters see) is read
off this graph, not off a table of architectures. It is recorded by running the network once under a
``TorchFunctionMode``, so in-place and functional forms, reused modules and Python control flow are
seen as they happen, and the network itself is not touched.

Values are numbered: value 0 is the input, value ``i + 1`` is what operation ``i`` returned. An
operation that works in place returns a new value, though it is the same tensor.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


@dataclass(frozen=True)
class Window:
    """How an operation slides along one axis: kernel, stride, padding before, dilation, in its input's pixels."""

    kernel: int
    stride: int
    padding: int
    dilation: int


@dataclass(frozen=True)
class Operation:
    """One torch function that returned a tensor.

    Attributes
    ----------
    name : str
        torch's name of the function without the underscore of in-place forms (``relu``, ``conv2d``, ``cat``).
    inputs : tuple of int
        The values it read; parameters are not values.
    windows : (Window, Window) or None
        For convolutions, pooling and padding: along y and x.
    shape : tuple of int
        Of the tensor it returned; of the first one where it returned several.
    order : tuple of int
        For permutations of dimensions: which dimension of its input each of the result's is.
    """

    name: str
    inputs: tuple[int, ...]
    windows: tuple[Window, Window] | None
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """The operations of one forward pass.

    Attributes
    ----------
    outputs : dict of module path to value
        What each module returned last.
    input_shape : tuple of int
        image, channel, y, x.
    broken_off : str
        Why the pass ended early, where it did: a classifier that wants another input size does not keep its
        convolutions from being mined.
    """

    operations: tuple[Operation, ...]
    outputs: dict[str, int]
    input_shape: tuple[int, ...]
    broken_off: str = ""

    def readers(self, value: int) -> list[int]:
        """Give the indices of the operations that read a value."""
        return [i for i, operation in enumerate(self.operations) if value in operation.inputs]


def trace(module: nn.Module, pixels: Tensor) -> Graph:
    """Run a network once on an input of shape (image, channel, y, x) and give the graph of what it did."""
    recorder = _Recorder(pixels)
    paths = {submodule: path for path, submodule in module.named_modules() if path}
    broken_off = ""
    try:
        with torch.no_grad(), _module_outputs(paths, recorder), recorder:
            module(pixels)
    except RuntimeError as error:
        broken_off = str(error).splitlines()[0]
    return Graph(tuple(recorder.operations), recorder.outputs, tuple(pixels.shape), broken_off)


def tensors_in(arguments: Any) -> Iterator[Tensor]:
    """Give the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from tensors_in(argument)
    elif isinstance(arguments, dict):
        for argument in arguments.values():
            yield from tensors_in(argument)


def is_operation(result: Any) -> bool:
    """Tell whether a torch function's result makes it an operation of the graph: it gave at least one tensor."""
    return next(tensors_in(result), None) is not None


def operation_name(function: Callable[..., Any]) -> str:
    """Give torch's name of a function; in-place forms (``add_``, ``__iadd__``) are named as the others."""
    name = getattr(function, "__name__", str(function))
    if name.startswith("__i") and name.endswith("__"):
        name = name[3:-2]
    return name.strip("_")


class _Recorder(TorchFunctionMode):
    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.operations: list[Operation] = []
        self.outputs: dict[str, int] = {}
        self._values = {id(pixels): 0}
        self._alive: list[Any] = [pixels]  # an id is only unique while its tensor lives

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        if is_operation(result):
            self._record(function, args, kwargs, result)
        return result

    def _record(self, function: Any, args: Any, kwargs: Any, result: Any) -> None:
        read = (self._values.get(id(tensor)) for tensor in tensors_in((args, kwargs)))
        name = operation_name(function)
        shape = tuple(next(tensors_in(result)).shape)
        inputs = tuple(dict.fromkeys(value for value in read if value is not None))
        order = _order(function, args, kwargs) if name in _PERMUTATIONS else ()
        self.operations.append(Operation(name, inputs, _windows(name, args, kwargs), shape, order))
        self._alive.append(result)
        for tensor in tensors_in(result):
            self._values[id(tensor)] = len(self.operations)

    def note_module(self, path: str, result: Any) -> None:
        value = self._values.get(id(next(tensors_in(result), None)))
        if value is not None:
            self.outputs[path] = value


@contextmanager
def _module_outputs(paths: dict[nn.Module, str], recorder: _Recorder) -> Iterator[None]:
    """Tell the recorder what each module returned, by torch's one global hook: no module is changed."""

    def hook(module: nn.Module, _: Any, result: Any) -> None:
        if module in paths:
            recorder.note_module(paths[module], result)

    handle = nn.modules.module.register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


# The arguments of the sliding operations, in torch's order, so that positional and keyword calls read alike.


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


_SLIDING = {"conv2d": _conv2d, "max_pool2d": _max_pool2d, "avg_pool2d": _avg_pool2d, "pad": _pad}


_PERMUTATIONS = ("permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis")


def _order(function: Callable[..., Any], args: Any, kwargs: Any) -> tuple[int, ...]:
    """Find out how a function permutes dimensions, by a tensor whose dimensions have sizes of their own."""
    sizes = tuple(range(2, 2 + args[0].ndim))
    permuted = function(torch.empty(sizes, device="meta"), *args[1:], **kwargs)
    return tuple(sizes.index(size) for size in permuted.shape)


def _windows(name: str, args: Any, kwargs: Any) -> tuple[Window, Window] | None:
    if name not in _SLIDING:
        return None
    bound = inspect.signature(_SLIDING[name]).bind(*args, **kwargs)
    y, x = zip(*(_pair(argument) for argument in _SLIDING[name](*bound.args, **bound.kwargs)), strict=True)
    return Window(*y), Window(*x)


def _pair(argument: Any) -> tuple[int, int]:
    if isinstance(argument, int):
        return argument, argument
    return (int(argument[0]), int(argument[-1]))
