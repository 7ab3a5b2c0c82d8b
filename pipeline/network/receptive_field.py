"""Size, stride and offset of a layer's receptive field, computed from the graph.

Pixel coordinates are whole numbers, 0 is the first row or column of the network's input. The unit at
position ``p`` of a map sees the pixels from ``offset + stride * p`` to ``offset + stride * p + size - 1``,
both included; those outside the input are padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np

from .graph import Graph, Operation, Window

Position = TypeVar("Position", int, np.ndarray)


@dataclass(frozen=True)
class Axis:
    """A receptive field along one axis, in pixels of the network's input."""

    size: int
    stride: int
    offset: int

    def start(self, position: int) -> int:
        """Return the first pixel that the unit at a position of the map sees; it can lie in the padding.

        >>> Axis(size=7, stride=2, offset=-3).start(10)
        17
        """
        return self.offset + self.stride * position

    def window(self, position: Position, length: int) -> tuple[Position, Position]:
        """Return start and stop of the patches of units at some positions: of the field's size, or the input's.

        A patch that would leave the input of a length in pixels is shifted back inside.

        Parameters
        ----------
        position : int or ndarray of int64

        Examples
        --------
        >>> Axis(size=7, stride=2, offset=-3).window(0, 96)
        (0, 7)
        >>> Axis(size=7, stride=2, offset=-3).window(np.array([10, 47]), 96)
        (array([17, 89]), array([24, 96]))
        """
        size = min(self.size, length)
        first = self.offset + self.stride * position
        start = np.clip(first, 0, length - size) if isinstance(first, np.ndarray) else min(max(first, 0), length - size)
        return start, start + size

    def crop(self, position: int, length: int) -> tuple[int, int]:
        """Return start and stop of a crop of the input from which a unit is computed exactly as from the whole.

        The start is a multiple of the stride, so the unit is at ``position - start // stride`` of the crop's own map.
        The crop contains the whole receptive field, so its padding cannot influence the unit. At a border of the
        image the crop ends at the same border, so the image's own padding is reproduced.

        >>> Axis(size=7, stride=2, offset=-3).crop(10, 96)
        (16, 24)
        >>> Axis(size=7, stride=2, offset=-3).crop(0, 96), Axis(size=7, stride=2, offset=-3).crop(47, 96)
        ((0, 8), (88, 96))
        """
        if self.stride == 0:
            return 0, length
        inside = max(0, -(self.offset // self.stride))  # the first position that sees no padding
        size = self.start(inside) + self.size
        start = max(0, self.stride * (position - inside))
        if start + size <= length:
            return start, start + size
        return max(0, (length - size) // self.stride * self.stride), length


@dataclass(frozen=True)
class ReceptiveField:
    """The pixels that the units of a layer see, along y and x.

    For a layer behind a global operation (squeeze-excitation, global pooling) it is the whole input.

    Attributes
    ----------
    source : {"graph", "measured", "bound", "input"}
        Where it comes from: computed from the graph, or measured, both exact; measured, and containing what the units
        see, whose fields differ from position to position; or the whole input, because nothing smaller holds.
    """

    y: Axis
    x: Axis
    source: str = "graph"

    def window(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the patch of a unit: top, left, bottom, right in input pixels, the last two excluded.

        The window has the receptive field's size, or the input's where that is smaller, and is shifted back
        inside where it would leave the input.

        >>> ReceptiveField(Axis(7, 2, -3), Axis(7, 2, -3)).window(0, 10, 96, 96)
        (0, 17, 7, 24)
        """
        top, bottom = self.y.window(row, height)
        left, right = self.x.window(column, width)
        return top, left, bottom, right

    def crop(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return top, left, bottom, right of the crop of the input that a unit is computed from: see ``Axis.crop``."""
        top, bottom = self.y.crop(row, height)
        left, right = self.x.crop(column, width)
        return top, left, bottom, right

    def attributes(self) -> dict[str, int | list[int] | str]:
        """Return what the store records: size, stride and offset, as one number or [y, x] where the axes differ."""
        pairs = {name: [getattr(self.y, name), getattr(self.x, name)] for name in ("size", "stride", "offset")}
        return {name: pair[0] if pair[0] == pair[1] else pair for name, pair in pairs.items()} | {"source": self.source}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, Any]) -> ReceptiveField:
        """Return the receptive field that ``attributes`` recorded."""
        pairs = [np.broadcast_to(attributes[name], 2).tolist() for name in ("size", "stride", "offset")]
        y, x = (Axis(*numbers) for numbers in zip(*pairs, strict=True))
        return cls(y, x, attributes.get("source", "graph"))

    @classmethod
    def whole(cls, height: int, width: int, source: str = "input") -> ReceptiveField:
        """Return the field that is the whole input, of a height and width in pixels."""
        return cls(Axis(height, 0, 0), Axis(width, 0, 0), source)


@dataclass(frozen=True)
class Geometry:
    """What the graph tells of the places of a map.

    Attributes
    ----------
    field : ReceptiveField
        The whole input, ``source = "input"``, where the graph tells no smaller one.
    dimensions : (int, int) or None
        Those along which the input's y and x run, from the end; None where the graph does not tell.
    """

    field: ReceptiveField
    dimensions: tuple[int, int] | None


def map_geometry(graph: Graph, operation: int) -> Geometry:
    """Compute the receptive field of the map that an operation of the graph returned, and how it lies in the tensor.

    Where several paths lead to the map (branches, sums), the field is the smallest window that contains the pixels that
    any of them sees: a layer's field is the largest of its filters'.
    """
    y, x = (_reach(graph, operation, axis) for axis in (0, 1))
    whole = ReceptiveField.whole(graph.input_shape[2], graph.input_shape[3])
    if y is None or x is None or y.dim is None or x.dim is None:
        return Geometry(whole, None)
    if math.isinf(y.low) or math.isinf(x.low):
        return Geometry(whole, (y.dim, x.dim))
    rows, columns = (Axis(int(reach.high - reach.low) + 1, reach.stride, int(reach.low)) for reach in (y, x))
    return Geometry(ReceptiveField(rows, columns), (y.dim, x.dim))


@dataclass(frozen=True)
class _Reach:
    """The unit at position p of a value sees low + stride * p to high + stride * p; infinite: it may see everything.

    ``dim`` is the dimension along which positions count, from the end; None where the graph does not tell.
    """

    stride: int
    low: float
    high: float
    dim: int | None


def _reach(graph: Graph, operation: int, axis: int) -> _Reach | None:
    reaches: list[_Reach | None] = [_Reach(1, 0, 0, axis - 2)]
    shapes = [graph.input_shape, *(step.shape for step in graph.operations)]
    for step in graph.operations[: operation + 1]:
        inputs = [_repeated(reach, shapes[i], step.shape) for i in step.inputs if (reach := reaches[i]) is not None]
        reaches.append(_step(step, inputs, axis))
    return reaches[operation + 1]


def _repeated(reach: _Reach, shape: tuple[int, ...], result: tuple[int, ...]) -> _Reach:
    """Return the reach of an input; where an operation repeats it along the axis, all positions see what it sees."""
    dim = reach.dim
    if dim is None or -dim > min(len(shape), len(result)) or shape[dim] != 1 or result[dim] == 1:
        return reach
    return replace(reach, low=-math.inf, high=math.inf)


def _step(step: Operation, reaches: list[_Reach], axis: int) -> _Reach | None:
    if not reaches:
        return None  # computed from parameters alone: it sees no pixel
    dimensions = {reach.dim for reach in reaches if reach.dim is not None}
    if len(dimensions) == 1:
        (dim,) = dimensions
        low, high = min(r.low for r in reaches), max(r.high for r in reaches)
        union = _Reach(max(r.stride for r in reaches), low, high, dim)
        if step.windows and dim == axis - 2:
            return _slide(union, step.windows[axis])
        if step.order:
            return replace(union, dim=step.order.index(len(step.order) + dim) - len(step.order))
        if dim in step.keeps:
            return union
    return _Reach(1, -math.inf, math.inf, None)


def _slide(reach: _Reach, window: Window) -> _Reach:
    first = -window.padding
    last = first + window.dilation * (window.kernel - 1)
    low, high = reach.low + reach.stride * first, reach.high + reach.stride * last
    return _Reach(reach.stride * window.stride, low, high, reach.dim)
