"""Where a layer is read in a network, and each filter's spatial maximum there.

A layer is read behind the activation function that follows its module, also where normalisations, affine functions,
dropout at rest or copies stand between, as long as each result has one reader and no other path joins. Where no
activation function follows so, it is read behind the affine functions that follow the module (such as batch
normalisation), and behind the normalisation of a convolution's own result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from threading import Lock
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from .graph import Graph, Rectifier, is_operation, operation_name, outcome, tensors_in

MAP_DIMENSIONS = (3, 4)  # of a batch of maps: tokens in a row, or rows and columns

T = TypeVar("T")

_SETTLED: WeakKeyDictionary[nn.Module, set[Any]] = WeakKeyDictionary()  # on which inputs networks were run
_SETTLING = Lock()


@dataclass(frozen=True)
class Layout:
    """How a tensor becomes a map (image, filter, row, column).

    Attributes
    ----------
    order : tuple of int
        The tensor's dimensions that are image, filter, row and column, the tokens of a grid counted as two.
    grid : (int, int, int) or None
        Of tokens: the first one that is on the grid, and the grid's rows and columns.
    tokens : int
        The dimension of the tokens.
    """

    order: tuple[int, ...] = (0, 1, 2, 3)
    grid: tuple[int, int, int] | None = None
    tokens: int = 1

    def to_map(self, tensor: Tensor) -> Tensor:
        """Return a tensor as a map: a view of it."""
        if self.grid is not None:
            first, rows, columns = self.grid
            grid = tensor.narrow(self.tokens, first, rows * columns)
            tensor = grid.reshape((*grid.shape[: self.tokens], rows, columns, *grid.shape[self.tokens + 1 :]))
        return tensor if self.order == (0, 1, 2, 3) else tensor.permute(self.order)

    def shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return filter, row and column of the map of a tensor of a shape (image, ...)."""
        if self.grid is not None:
            shape = (*shape[: self.tokens], *self.grid[1:], *shape[self.tokens + 1 :])
        return tuple(shape[dimension] for dimension in self.order[1:])

    def attributes(self) -> dict[str, Any]:
        """Return what the store records."""
        return {"order": list(self.order), "grid": list(self.grid) if self.grid else None, "tokens": self.tokens}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> Layout:
        """Return the layout that ``attributes`` recorded."""
        grid = attributes["grid"]
        return cls(tuple(attributes["order"]), tuple(grid) if grid else None, attributes["tokens"])

    def __str__(self) -> str:
        if self.grid is not None:
            return f"tokens of a grid of {self.grid[1]}×{self.grid[2]}"
        names = {0: "image", 1: "filter", 2: "row", 3: "column"}
        return ", ".join(names[self.order.index(dimension)] for dimension in range(4))


@dataclass(frozen=True)
class Tap:
    """The place in the graph where a layer is read.

    Attributes
    ----------
    operation : int
        Index of the operation whose result is the map.
    follows : str
        Name of that operation: ``relu``, ``cat`` of rectified maps, or ``batch_norm`` where no activation function
        comes before the next sum.
    shape : tuple of int
        filter, row, column. Of a value that is no map: its shape without the first dimension, the image.
    rectifiers : tuple of Rectifier
        Those on the ways from the pixels to the map.
    layout : Layout
    contiguous : bool
        The network's input has to lie in memory as image, channel, y, x.
    settles : bool
        The network's first pass runs other operations than the others.
    """

    operation: int
    follows: str
    shape: tuple[int, ...]
    rectifiers: tuple[Rectifier, ...] = ()
    layout: Layout = Layout()
    contiguous: bool = False
    settles: bool = False

    @property
    def value(self) -> int:
        """The map's number among the values of the graph."""
        return self.operation + 1


def find_tap(graph: Graph, module: str) -> Tap:
    """Find where a module is tapped: see the first lines of this file.

    Raises
    ------
    InputError
        The graph has no such module, or what it gives cannot be a map.
    """
    if module not in graph.outputs:
        why = f" (for this input it ends early: {graph.broken_off})" if graph.broken_off else ""
        raise InputError(f"the network does not run a module {module!r}, so it cannot be mined as a layer{why}.")
    value = _tapped_value(graph, graph.outputs[module])
    operation = graph.operations[value - 1]
    if len(operation.shape) not in MAP_DIMENSIONS:
        raise no_map(module, operation.shape)
    return tap_value(graph, value)


def tap_value(graph: Graph, value: int) -> Tap:
    """Return the tap of a value of a graph."""
    operation, rectifiers = graph.operations[value - 1], rectifiers_before(graph, value)
    tap = Tap(value - 1, operation.name, operation.shape[1:], rectifiers)
    return replace(tap, contiguous=graph.contiguous, settles=graph.settles)


def no_map(layer: str, shape: tuple[int, ...]) -> InputError:
    """Return the error that says that a layer gives no spatial map."""
    return InputError(
        f"layer {layer!r} gives {len(shape)} dimensions {shape}, not a spatial map (image, filter, row, column) nor "
        "tokens on a grid: it cannot be mined. `topnine networks` lists the layers that can."
    )


def rectifiers_before(graph: Graph, value: int) -> tuple[Rectifier, ...]:
    """List the rectifiers on the ways from the pixels to a value."""
    before = graph.ancestors(value)
    return tuple(rectifier for rectifier in graph.rectifiers if rectifier.operation + 1 in before)


def _tapped_value(graph: Graph, value: int) -> int:
    activations = {r.operation + 1 for r in graph.rectifiers} | graph.bent
    tapped, at = value, value
    passed = {"affine", "scales", "copies"}
    if graph.operations[value - 1].name.startswith("conv"):
        passed.add("normalises")
    order: tuple[int, ...] | None = tuple(range(len(graph.operations[value - 1].shape)))  # of the dimensions
    unmoved = order
    while at not in activations and at in graph.following:
        following = graph.following[at]
        if following.kind in ("rectifies", "bends"):
            return _end_of_activation(graph, at)
        at = following.value
        if following.kind == "copies":
            moved = graph.operations[at - 1].order
            order = tuple(order[d] for d in moved) if order and len(moved) == len(order) else None
        if following.kind not in passed:
            passed = set()  # only an activation function is looked for
        elif order == unmoved:
            tapped = at
    return tapped


def _end_of_activation(graph: Graph, at: int) -> int:
    """Return the result of the activation function that follows a value: of all of it, where it is written by hand.

    It goes on as long as functions that bend follow; behind several operations that bend together, what scales belongs
    to it, too.
    """
    following = graph.following[at]
    end, by_hand = following.value, following.kind == "bends" and following.value > at + 1
    while following.value in graph.following:
        following = graph.following[following.value]
        by_hand |= following.kind == "bends"
        if following.kind not in ("scales", "bends"):
            break
        if by_hand:
            end = following.value
    return end


def read_taps(network: nn.Module, pixels: Tensor, taps: Mapping[str, Tap], read: Callable[[Tensor], T]) -> dict[str, T]:
    """Run a network and read the maps at some taps; the forward pass stops after the deepest.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; it is not changed.
    pixels : Tensor (image, channel, y, x)
        Its normalised input.
    taps : mapping of name to Tap
    read : callable
        Takes what is wanted of a map (image, filter, row, column); of a value that is no map, of the tensor. It is
        called at once, because a later operation may
        overwrite the map in place.

    Returns
    -------
    dict of name to what ``read`` returned
    """
    if any(tap.contiguous for tap in taps.values()) and not pixels.is_contiguous():
        pixels = pixels.contiguous()
    if any(tap.settles for tap in taps.values()):
        _settle(network, pixels)
    reader = _Reader(taps, read)
    try:
        with reader:
            network(pixels)
    except _DeepestReached:
        return reader.results
    raise RuntimeError(f"the network ended before its taps {sorted(taps)}: it runs differently than when traced")


def _settle(network: nn.Module, pixels: Tensor) -> None:
    """Run a network once on an input of a size, unseen by every mode, so that it has computed what it keeps."""
    kind = pixels.shape[2:], pixels.device, pixels.dtype
    with _SETTLING:
        kinds = _SETTLED.setdefault(network, set())
        if kind not in kinds:
            unseen, derivable = torch._C.DisableTorchFunction(), torch.inference_mode(mode=False)
            with unseen, derivable, torch.no_grad(), suppress(Exception):  # whatever a head raises
                network(pixels.clone())
            kinds.add(kind)


def spatial_maximum(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return each filter's largest value over an image and where it is.

    Parameters
    ----------
    maps : Tensor (image, filter, row, column)

    Returns
    -------
    activation : Tensor (image, filter), of the maps' dtype
    row, column : Tensor (image, filter) int64
        Of the first position in row-major order, where several hold the maximum.
    """
    maps = maps.permute(0, 2, 3, 1)
    # Rows first and then columns takes half the time of one maximum over both. torch returns the first of equals.
    activation, row = maps.amax(dim=2).max(dim=1)
    its_row = maps.gather(1, row[:, None, None, :].expand(-1, -1, maps.shape[2], -1))[:, 0]
    return activation, row, its_row.max(dim=1).indices


class _DeepestReached(Exception):  # noqa: N818
    """Ends the forward pass; no error."""


class _Reader(TorchFunctionMode, Generic[T]):
    """Counts operations as the trace did, and reads the tapped ones."""

    def __init__(self, taps: Mapping[str, Tap], read: Callable[[Tensor], T]) -> None:
        super().__init__()
        self.results: dict[str, T] = {}
        self._taps = taps
        self._read = read
        self._deepest = max(tap.operation for tap in taps.values())
        self._operation = -1

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function(*args, **(kwargs or {}))
        result = outcome(function, args, returned)
        if is_operation(result):
            self._operation += 1
            self._visit(function, next(tensors_in(result)))
        return returned

    def _visit(self, function: Any, result: Tensor) -> None:
        for name, tap in self._taps.items():
            if tap.operation == self._operation:
                if operation_name(function) != tap.follows:
                    raise RuntimeError(f"layer {name}: {operation_name(function)} ran where {tap.follows} was traced")
                self.results[name] = self._read(tap.layout.to_map(result))
        if self._operation == self._deepest:
            raise _DeepestReached
