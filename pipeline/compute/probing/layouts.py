"""Where filters, rows and columns of a layer's map lie in its tensor: channels last, and tokens of a grid, are found.

Where the graph does not tell it, it is where the map changes when half of the image does.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import torch
from torch import Tensor, nn

from ...network.graph import Graph
from ...network.layers import Layer
from ...network.receptive_field import map_geometry
from ...network.taps import Layout, Tap, no_map, read_taps

LOCAL = 0.1  # how much more a map has to change where the image does
MOST_SPARE_TOKENS = 16  # class and register tokens before or behind those on a grid

# By the dimension of the tokens: the orders of dimensions, once rows and columns are two.
TOKEN_ORDERS = {1: ((0, 3, 1, 2), (0, 3, 2, 1)), 2: ((0, 1, 2, 3), (0, 1, 3, 2))}


def place_layer(module: nn.Module, graph: Graph, layer: Layer, pixels: Tensor) -> Layer:
    """Return a layer with the layout of its map, measured where the graph does not tell it.

    Raises
    ------
    InputError
        It has none.
    """
    shape = graph.operations[layer.tap.operation].shape
    known = map_geometry(graph, layer.tap.operation).dimensions is not None and len(shape) == 4
    if known:
        return layer
    layout = _measure_layout(module, graph, layer, pixels)
    if layout is None:
        raise no_map(layer.name, shape)
    return replace(layer, tap=replace(layer.tap, layout=layout, shape=layout.shape(shape)))


def _measure_layout(module: nn.Module, graph: Graph, layer: Layer, pixels: Tensor) -> Layout | None:
    """Find the dimensions along which a value changes where the upper half or the left half of the image does."""
    tap = replace(layer.tap, layout=Layout())
    height, width = pixels.shape[2:]
    halves = [(slice(0, height // 2), slice(None)), (slice(None), slice(0, width // 2))]
    others = [(slice(height // 2, None), slice(None)), (slice(None), slice(width // 2, None))]
    changes = []
    for half, other in zip(halves, others, strict=True):
        variants = [pixels[:1].clone() for _ in range(3)]
        for variant, part in zip(variants[1:], (half, other), strict=True):
            variant[:, :, part[0], part[1]] = pixels[-1:, :, part[0], part[1]]
        with torch.no_grad():
            values = [read_taps(module, v, {"layer": tap}, torch.clone)["layer"].float() for v in variants]
        changes.append([(value - values[0]).abs()[0] for value in values[1:]])

    def locality(layout: Layout) -> float:
        """Return how local the changes are in a layout, along the axis where they are less so."""
        return min(_locality(layout, change, axis) for axis, change in enumerate(changes))

    best = max(_layouts(graph, layer.tap), key=locality, default=None)
    return best if best is not None and locality(best) >= LOCAL else None


def _layouts(graph: Graph, tap: Tap) -> list[Layout]:
    """List the layouts that a value may have."""
    shape = graph.operations[tap.operation].shape
    if shape[0] != graph.input_shape[0]:  # its first dimension is not the image alone, as of windows of an image
        return []
    if len(shape) == len(Layout().order):
        return [Layout((0, *order)) for order in permutations((1, 2, 3))]
    return [
        Layout(order, grid, tokens)
        for tokens, orders in TOKEN_ORDERS.items()
        for grid in _grids(graph, tap, shape[tokens])
        for order in orders
    ]


def _grids(graph: Graph, tap: Tap, tokens: int) -> list[tuple[int, int, int]]:
    """List the grids that tokens may lie on: the first token on it, its rows and columns.

    A grid has the input's proportions, or, where no token is left over, those of a map that came before.
    """
    height, width = graph.input_shape[2:]
    grids = []
    for spare in range(min(MOST_SPARE_TOKENS, tokens - 2) + 1):
        rows = round(((tokens - spare) * height / width) ** 0.5)
        columns = (tokens - spare) // rows
        if rows * columns == tokens - spare and rows * width == columns * height:
            grids += [(first, rows, columns) for first in sorted({0, spare})]
    maps = [s for value in graph.ancestors(tap.value) if value and len(s := graph.operations[value - 1].shape) == 4]
    before = {s[-2:] for s in maps} | {s[1:3] for s in maps}
    others = {(0, rows, columns) for rows, columns in before if rows * columns == tokens}
    return grids + sorted(others - set(grids))


def _locality(layout: Layout, changes: list[Tensor], axis: int) -> float:
    """Return how much more a map changes in the half of its rows (or columns) where the image does, from -1 to 1.

    Two changes are compared, of one half and of the other, so that positions that change more anyway do not count.
    """
    score = 0.0
    for change, sign in zip(changes, (1, -1), strict=True):
        profile = layout.to_map(change[None])[0].mean(dim=0).mean(dim=1 - axis)
        half = len(profile) // 2
        first, second = profile[:half].mean(), profile[len(profile) - half :].mean()
        score += sign * float((first - second) / (first + second + 1e-30)) if half else 0.0
    return abs(score) / 2  # a map may be mirrored
