"""Size, stride and offset of a layer's receptive field, read off the graph.

Pixel coordinates are whole numbers, 0 is the first row or column of the network's input. The unit at
position ``p`` of a map sees the pixels from ``offset + stride * p`` to ``offset + stride * p + size - 1``,
both included; those outside the input are padding.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from .errors import InputError
from .graph import Graph, Operation, Window

# Operations whose output at a place depends on their inputs at this place alone.
POINTWISE = frozenset(
    """
    relu relu6 hardtanh leaky_relu prelu rrelu elu selu celu silu gelu mish softplus hardswish hardsigmoid sigmoid tanh
    clamp clamp_min clamp_max threshold pow sqrt neg exp abs
    batch_norm local_response_norm dropout dropout2d feature_dropout
    add sub rsub mul div truediv cat chunk split contiguous clone detach to float half type_as
    """.split()  # noqa: SIM905
)

# Operations that leave rows and columns as they are where they leave their numbers as they are, as channel shuffles do.
RESHAPING = frozenset("view reshape flatten unflatten getitem squeeze unsqueeze".split())  # noqa: SIM905


@dataclass(frozen=True)
class Axis:
    """A receptive field along one axis, in pixels of the network's input."""

    size: int
    stride: int
    offset: int

    def start(self, position: int) -> int:
        """Give the first pixel that the unit at a position of the map sees; it can lie in the padding.

        >>> Axis(size=7, stride=2, offset=-3).start(10)
        17
        """
        return self.offset + self.stride * position

    def crop(self, position: int, length: int) -> tuple[int, int]:
        """Give start and stop of a part of the input from which a unit is computed exactly as from the whole.

        The start is a multiple of the stride, so the part is at ``position - start // stride`` of its own map. What
        the unit sees lies inside, so that no padding of the part reaches it; at the input's true edges, where the
        input's own padding does, the part ends there too.

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
    """What the units of a layer see, along y and x.

    For a layer behind a global operation (squeeze-excitation, global pooling) it is the whole input.
    """

    y: Axis
    x: Axis

    def window(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Give the patch of a unit: top, left, bottom, right in input pixels, the last two excluded.

        The window has the receptive field's size, or the input's where that is smaller, and is shifted back
        inside where it would leave the input.

        >>> ReceptiveField(Axis(7, 2, -3), Axis(7, 2, -3)).window(0, 10, 96, 96)
        (0, 17, 7, 24)
        """
        top, bottom = _inside(self.y, row, height)
        left, right = _inside(self.x, column, width)
        return top, left, bottom, right

    def crop(self, row: int, column: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Give top, left, bottom, right of the part of the input that a unit is computed from: see ``Axis.crop``."""
        top, bottom = self.y.crop(row, height)
        left, right = self.x.crop(column, width)
        return top, left, bottom, right

    def attributes(self) -> dict[str, int | list[int]]:
        """Give size, stride and offset as the store records them: one number, or [y, x] where they differ."""
        pairs = {name: [getattr(self.y, name), getattr(self.x, name)] for name in ("size", "stride", "offset")}
        return {name: pair[0] if pair[0] == pair[1] else pair for name, pair in pairs.items()}

    @classmethod
    def from_attributes(cls, attributes: Mapping[str, int | list[int]]) -> ReceptiveField:
        """Give what ``attributes`` recorded."""
        pairs = [np.broadcast_to(attributes[name], 2).tolist() for name in ("size", "stride", "offset")]
        return cls(*(Axis(*numbers) for numbers in zip(*pairs, strict=True)))


def receptive_field(graph: Graph, operation: int) -> ReceptiveField:
    """Give the receptive field of the map that an operation of the graph returned.

    Where several paths lead to the map (branches, sums), it is the smallest window that holds what any of
    them sees: a layer's field is the largest of its filters'.
    """
    y, x = (_axis(graph, operation, axis) for axis in (0, 1))
    return ReceptiveField(y, x)


@dataclass(frozen=True)
class _Reach:
    """The unit at p of a value sees low + stride * p to high + stride * p; infinite where it sees everything.

    ``dim`` is the dimension along which p counts, from the end.
    """

    stride: int
    low: float
    high: float
    dim: int


def _axis(graph: Graph, operation: int, axis: int) -> Axis:
    reaches: list[_Reach | None] = [_Reach(1, 0, 0, axis - 2)]
    shapes = [graph.input_shape, *(step.shape for step in graph.operations)]
    for step in graph.operations[: operation + 1]:
        inputs = [(reach, shapes[i]) for i in step.inputs if (reach := reaches[i]) is not None]
        reaches.append(_step(step, inputs, axis))
    reach = reaches[operation + 1]
    if reach is not None and reach.dim != axis - 2:
        name = graph.operations[operation].name
        raise InputError(f"the result of {name} is not (image, filter, row, column): it cannot be mined as a layer.")
    if reach is None or math.isinf(reach.low):
        return Axis(size=graph.input_shape[2 + axis], stride=0, offset=0)
    return Axis(size=int(reach.high - reach.low) + 1, stride=reach.stride, offset=int(reach.low))


def _step(step: Operation, inputs: list[tuple[_Reach, tuple[int, ...]]], axis: int) -> _Reach | None:
    if not inputs:
        return None  # computed from parameters alone: it sees nothing of the image
    reaches = [reach for reach, _ in inputs]
    low, high = min(r.low for r in reaches), max(r.high for r in reaches)
    union = _Reach(max(r.stride for r in reaches), low, high, reaches[0].dim)
    if len({reach.dim for reach in reaches}) == 1:
        if step.windows and union.dim == axis - 2:
            return _slide(union, step.windows[axis])
        if step.order:
            return replace(union, dim=step.order.index(len(step.order) + union.dim) - len(step.order))
        if _keeps_places(step, union.dim, inputs[0][1]):
            return union
    return _Reach(1, -math.inf, math.inf, axis - 2)


def _keeps_places(step: Operation, dim: int, shape: tuple[int, ...]) -> bool:
    """Tell whether the result at a place along a dimension depends on the inputs at this place alone."""
    if step.name in RESHAPING:
        return dim in (-2, -1) and step.shape[-2:] == shape[-2:]
    if step.name in ("linear", "layer_norm"):  # of the last dimension
        return dim != -1
    if step.name in ("cat", "chunk", "split"):
        return step.shape[dim] == shape[dim]
    return step.name in POINTWISE


def _slide(reach: _Reach, window: Window) -> _Reach:
    first = -window.padding
    last = first + window.dilation * (window.kernel - 1)
    low, high = reach.low + reach.stride * first, reach.high + reach.stride * last
    return _Reach(reach.stride * window.stride, low, high, reach.dim)


def _inside(axis: Axis, position: int, length: int) -> tuple[int, int]:
    size = min(axis.size, length)
    start = min(max(axis.start(position), 0), length - size)
    return start, start + size
