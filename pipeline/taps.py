"""Run a network up to its deepest tapped layer, and take each filter's spatial maximum and where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .errors import InputError
from .graph import Graph, is_operation, operation_name

ACTIVATION_FUNCTIONS = frozenset(
    "relu relu6 hardtanh leaky_relu elu silu gelu hardswish hardsigmoid sigmoid tanh".split()  # noqa: SIM905
)

T = TypeVar("T")


@dataclass(frozen=True)
class Tap:
    """The place in the graph where a layer is read.

    Attributes
    ----------
    operation : int
        Index of the operation whose result is the map.
    follows : str
        Name of that operation: ``relu``, ``cat`` of rectified maps, ``batch_norm`` where no activation function
        comes before the next sum.
    shape : tuple of int
        filter, row, column; of what is no map, whatever it is without the image.
    """

    operation: int
    follows: str
    shape: tuple[int, ...]


def find_tap(graph: Graph, module: str) -> Tap:
    """Find where a module is tapped: after its batch normalisation and activation function, where these follow it.

    Raises
    ------
    InputError
        The graph has no such module, or it does not give a spatial map (image, filter, row, column).
    """
    if module not in graph.outputs:
        why = f" (for this input size it ends early: {graph.broken_off})" if graph.broken_off else ""
        raise InputError(f"the network does not run a module {module!r}, so it cannot be mined as a layer{why}.")
    operation = graph.outputs[module] - 1
    for followers in ({"batch_norm"}, ACTIVATION_FUNCTIONS):
        readers = graph.readers(operation + 1)
        if graph.operations[operation].name in ACTIVATION_FUNCTIONS or len(readers) != 1:
            break
        if graph.operations[readers[0]].name in followers:
            operation = readers[0]
    shape = graph.operations[operation].shape
    if len(shape) != 4:
        raise InputError(
            f"layer {module!r} gives {len(shape)} dimensions {shape}, not a spatial map (image, filter, row, column): "
            "it cannot be mined. `topnine networks` lists the layers that can."
        )
    return Tap(operation, graph.operations[operation].name, shape[1:])


def read_taps(network: nn.Module, pixels: Tensor, taps: Mapping[str, Tap], read: Callable[[Tensor], T]) -> dict[str, T]:
    """Run a network and read the maps at some taps; it stops after the deepest.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; it is not changed.
    pixels : Tensor (image, channel, y, x)
        Its normalised input.
    taps : mapping of name to Tap
    read : callable
        What to take from a map (image, filter, row, column), called at once: a later operation may work in place.
    """
    reader = _Reader(taps, read)
    try:
        with reader:
            network(pixels)
    except _DeepestReached:
        return reader.found
    raise RuntimeError(f"the network ended before its taps {sorted(taps)}: it runs differently than when traced")


def spatial_maximum(maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give each filter's largest value over an image and where it is.

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
    # In two steps, the first without positions: half the time of one. torch gives the first index among equals.
    activation, row = maps.amax(dim=2).max(dim=1)
    its_row = maps.gather(1, row[:, None, None, :].expand(-1, -1, maps.shape[2], -1))[:, 0]
    return activation, row, its_row.max(dim=1).indices


class _DeepestReached(Exception):  # noqa: N818
    """Ends the forward pass; no error."""


class _Reader(TorchFunctionMode, Generic[T]):
    """Counts operations as the trace did, and reads the tapped ones."""

    def __init__(self, taps: Mapping[str, Tap], read: Callable[[Tensor], T]) -> None:
        super().__init__()
        self.found: dict[str, T] = {}
        self._taps = taps
        self._read = read
        self._deepest = max(tap.operation for tap in taps.values())
        self._operation = -1

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if is_operation(result):
            self._operation += 1
            self._visit(function, result)
        return result

    def _visit(self, function: Any, result: Tensor) -> None:
        for name, tap in self._taps.items():
            if tap.operation == self._operation:
                if operation_name(function) != tap.follows:
                    found = operation_name(function)
                    raise RuntimeError(f"layer {name}: {found} ran where {tap.follows} was traced")
                self.found[name] = self._read(result)
        if self._operation == self._deepest:
            raise _DeepestReached
