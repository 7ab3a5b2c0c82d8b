"""The graph of one forward pass: which operations a network runs, in which order, on what, and what they do.

It is the only view of a network that the other modules use: where a layer is tapped, how far its filters see and which
operations rectify come from this graph, not from a table of architectures. See ``tracing`` for how it is recorded.

Values are numbered: value 0 is the input, value ``i + 1`` is what operation ``i`` returned. An
operation that works in place returns a new value, though it is the same tensor.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

OWN_NAMESPACES = ("", "aten", "prims", "torchvision")  # of operations; what is no registered operation has none


@dataclass(frozen=True)
class Window:
    """How an operation slides along one axis: kernel, stride, padding before, dilation, in input positions."""

    kernel: int
    stride: int
    padding: int
    dilation: int


@dataclass(frozen=True)
class Operation:
    """One torch function that returned a tensor, or changed one.

    Attributes
    ----------
    name : str
        torch's name of the function without the underscore of in-place forms (``relu``, ``conv2d``, ``cat``).
    inputs : tuple of int
        The values it read; parameters are not values.
    windows : (Window, Window) or None
        For convolutions, pooling and padding: along y and x.
    shape : tuple of int
        Of the tensor that it returned; of the first where it returned several.
    order : tuple of int
        For permutations of dimensions: which dimension of its input each of the result's is.
    keeps : tuple of int
        Dimensions, from the end, along which a position of the result depends on that of the inputs alone.
    module : str
        Path of the innermost module that ran it; empty for the network itself.
    """

    name: str
    inputs: tuple[int, ...]
    windows: tuple[Window, Window] | None
    shape: tuple[int, ...]
    order: tuple[int, ...] = ()
    keeps: tuple[int, ...] = ()
    module: str = ""


@dataclass(frozen=True)
class Rectifier:
    """An operation whose result is max(0, x), or that with a ceiling, of an earlier value x.

    Attributes
    ----------
    operation : int
        The operation that returns the result. Several may stand between it and x, as in ``x * (x > 0)``.
    name : str
        Its name.
    input : int
        The value x.
    ceiling : float or None
    direct : bool
        The one operation does it all, and reads nothing else that depends on the pixels.
    in_place : bool
        The result is a tensor that the operation changed.
    changed : bool
        The tensor x is changed before the result is there.
    """

    operation: int
    name: str
    input: int
    ceiling: float | None
    direct: bool
    in_place: bool
    changed: bool


@dataclass(frozen=True)
class Bend:
    """An elementwise function of one value that is neither affine nor a rectifier: ``silu``, ``tanh``, ``abs``.

    ``name`` is that of its operations, ``value`` its result.
    """

    name: str
    value: int


@dataclass(frozen=True)
class Following:
    """What follows a value where nothing else reads it and no other path joins.

    Attributes
    ----------
    value : int
    kind : {"rectifies", "bends", "affine", "scales", "copies", "normalises"}
        What the operations between the two do; "scales" is affine by the same two numbers everywhere.
    """

    value: int
    kind: str


@dataclass(frozen=True)
class Graph:
    """The operations of one forward pass, and what they do: see ``functions``.

    Attributes
    ----------
    outputs : dict of module path to value
        What each module returned last.
    input_shape : tuple of int
        image, channel, y, x.
    broken_off : str
        Why the pass ended early, where it did: a classifier that wants another input size does not keep its
        convolutions from being mined.
    contiguous : bool
        Its input has to lie in memory as image, channel, y, x; else channels may come last, which is faster.
    settles : bool
        Its first pass runs other operations than the others: it computes constants that it keeps.
    rectifiers : tuple of Rectifier
        In the order of their operations.
    bends : tuple of Bend
        Without those that only scale another map, and those inside of a normalisation.
    bent : set of int
        The results of all functions that bend, those that only scale another map among them.
    following : dict of value to Following
    passing : dict of value to name
        Operations that are neither affine nor rectifiers nor max-pooling, and pass their derivative back: gates, and
        normalisations.
    unseen : tuple of (int, str)
        What ran between recorded operations and was not seen: the first operation that read its result, and its name.
        And operations of which it is not known what they do, with their names.
    lost : tuple of (int, str)
        Operations that changed a value so that its derivative does not show it, and what they are.
    read_out : tuple of (int, str)
        Values that were read out of tensors as numbers, and how.
    """

    operations: tuple[Operation, ...]
    outputs: dict[str, int]
    input_shape: tuple[int, ...]
    broken_off: str = ""
    contiguous: bool = False
    settles: bool = False
    rectifiers: tuple[Rectifier, ...] = ()
    bends: tuple[Bend, ...] = ()
    bent: frozenset[int] = frozenset()
    following: Mapping[int, Following] = field(default_factory=dict)
    passing: Mapping[int, str] = field(default_factory=dict)
    unseen: tuple[tuple[int, str], ...] = ()
    lost: tuple[tuple[int, str], ...] = ()
    read_out: tuple[tuple[int, str], ...] = ()

    def readers(self, value: int) -> list[int]:
        """List the indices of the operations that read a value."""
        return [i for i, operation in enumerate(self.operations) if value in operation.inputs]

    def digest(self, value: int) -> str:
        """Return a digest of the operations that compute a value: their names, shapes, windows and ways."""
        before = sorted(self.ancestors(value) - {0})
        number = {0: 0} | {v: i for i, v in enumerate(before, 1)}
        lines = [
            f"{o.name} {[number[i] for i in o.inputs]} {o.windows} {o.shape} {o.order}"
            for o in (self.operations[v - 1] for v in before)
        ]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    def ancestors(self, value: int) -> set[int]:
        """Return the values that a value is computed from, and itself."""
        found, waiting = {value}, [value]
        while waiting:
            at = waiting.pop()
            inputs = set(self.operations[at - 1].inputs) - found if at else set()
            found |= inputs
            waiting += inputs
        return found


def tensors_in(arguments: Any) -> Iterator[Tensor]:
    """Yield the tensors in nested tuples, lists and dicts, in order."""
    if isinstance(arguments, Tensor):
        yield arguments
    elif isinstance(arguments, tuple | list):
        for argument in arguments:
            yield from tensors_in(argument)
    elif isinstance(arguments, dict):
        for argument in arguments.values():
            yield from tensors_in(argument)


def outcome(function: Callable[..., Any], args: Any, result: Any) -> Any:
    """Return what a torch function returned; for an assignment to an index, the tensor that it changed."""
    return args[0] if result is None and operation_name(function) == "setitem" else result


def is_operation(result: Any) -> bool:
    """Return whether a torch function's outcome makes it an operation of the graph: it has at least one tensor."""
    return next(tensors_in(result), None) is not None


def is_foreign(function: Callable[..., Any]) -> bool:
    """Return whether a function is an operation of an extension: registered with torch by another than its own."""
    packet = str(getattr(function, "_qualified_op_name", "")).partition("::")[0]
    return (getattr(function, "namespace", "") or packet) not in OWN_NAMESPACES


def operation_name(function: Callable[..., Any]) -> str:
    """Return torch's name of a function; in-place forms (``add_``, ``__iadd__``) have the same name as the others."""
    name = getattr(function, "__name__", str(function))
    if name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__init__"):
        name = name[3:-2]
    return name.strip("_")
