"""What the units of a layer see, measured: the support of their gradients, with every rectifier open.

It stands in where the graph does not tell the receptive field, and it is what the graph's is held against.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ...network.receptive_field import Axis, ReceptiveField
from ...network.taps import Tap, read_taps
from ..deconvnet import RuleMode, Rules

MEASURED = 32  # positions along an axis
NEAR = 1e-4  # of a layer's strongest activation: how far pixels outside of a field may take one
SEED = 9

Boxes = list[tuple[int, int, int, int]]


def supports(network: nn.Module, tap: Tap, pixels: Tensor, positions: Sequence[tuple[int, int]]) -> Boxes:
    """Return the smallest boxes around the pixels that reach the units at some positions, over all filters.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, its parameters without gradients.
    pixels : Tensor (1, channel, y, x)
        Its normalised input: noise, so that nothing cancels.
    positions : sequence of (int, int)
        Row and column in the map.

    Returns
    -------
    list of (int, int, int, int)
        Top, left, bottom, right, the last two excluded; zeros where no pixel reaches a unit.
    """
    leaf = pixels.detach().requires_grad_(True)
    with torch.enable_grad():
        source = leaf.clone()
        with RuleMode(Rules(), tap.rectifiers, source, opened=True):
            maps = read_taps(network, source, {"layer": tap}, lambda maps: maps)["layer"]
    generator = torch.Generator().manual_seed(SEED)
    boxes: Boxes = []
    for row, column in positions:
        seed = torch.zeros_like(maps)
        seed[0, :, row, column] = torch.rand(maps.shape[1], generator=generator).to(maps.dtype) + 0.5
        with torch.enable_grad():  # a sum: see deconvnet.project
            (gradient,) = torch.autograd.grad((maps * seed).sum(), leaf, retain_graph=True)
        boxes.append(_box((gradient[0] != 0).any(dim=0)))
    return boxes


def _box(seen: Tensor) -> tuple[int, int, int, int]:
    """Return the smallest box around the true pixels of a mask (y, x)."""
    rows, columns = (seen.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
    return (rows[0], columns[0], rows[-1] + 1, columns[-1] + 1) if rows else (0, 0, 0, 0)


def find_field(network: nn.Module, tap: Tap, believed: ReceptiveField, noise: Tensor) -> ReceptiveField:
    """Return the receptive field of a layer: the graph's where units see nothing outside of it, else a measured one.

    Parameters
    ----------
    believed : ReceptiveField
        The graph's.
    noise : Tensor (image, channel, y, x)
        Of at least two images.

    Returns
    -------
    ReceptiveField
        The whole input where units see more than the measured one, too.
    """
    if believed.source == "graph" and _holds(network, tap, believed, noise):
        return believed
    measured = measure_field(network, tap, noise[:1])
    return measured if _holds(network, tap, measured, noise) else ReceptiveField.whole(*noise.shape[2:])


def some_positions(tap: Tap) -> list[tuple[int, int]]:
    """Return positions in corners, at edges and inside a map."""
    _, rows, columns = tap.shape
    inside = (rows // 2, columns // 2), (max(0, rows // 2 - 1), min(columns - 1, columns // 2 + 1))
    return list(dict.fromkeys([(0, 0), (rows - 1, columns - 1), (rows // 3, 0), *inside]))


def _holds(network: nn.Module, tap: Tap, field: ReceptiveField, noise: Tensor) -> bool:
    """Return whether units see nothing outside of a field: neither by their gradients nor when it is changed."""
    if field.source == "input":
        return True
    positions = some_positions(tap)
    windows = [_window(field, position, noise.shape[2:]) for position in positions]
    seen = supports(network, tap, noise[:1], positions)
    if not all(_within(box, window) for box, window in zip(seen, windows, strict=True)):
        return False
    with torch.no_grad():
        before = read_taps(network, noise[:1], {"layer": tap}, torch.clone)["layer"][0]
        for (row, column), (top, left, bottom, right) in zip(positions, windows, strict=True):
            changed = noise[1:2].clone()
            changed[:, :, top:bottom, left:right] = noise[:1, :, top:bottom, left:right]
            after = read_taps(network, changed, {"layer": tap}, torch.clone)["layer"][0]
            if bool((after - before)[:, row, column].abs().max() > NEAR * before.abs().max()):
                return False
    return True


def _window(field: ReceptiveField, position: tuple[int, int], size: Sequence[int]) -> tuple[int, int, int, int]:
    """Return the pixels that a unit sees, cut off at the borders of an image of a size."""
    (top, left), (height, width) = (field.y.start(position[0]), field.x.start(position[1])), size
    return max(top, 0), max(left, 0), min(top + field.y.size, height), min(left + field.x.size, width)


def _within(box: tuple[int, int, int, int], window: tuple[int, int, int, int]) -> bool:
    empty = box[0] == box[2] or box[1] == box[3]
    return empty or (box[0] >= window[0] and box[1] >= window[1] and box[2] <= window[2] and box[3] <= window[3])


def measure_field(network: nn.Module, tap: Tap, pixels: Tensor) -> ReceptiveField:
    """Measure the receptive field of a layer along the diagonal of its map.

    Returns
    -------
    ReceptiveField
        ``source = "measured"`` where the fields of all units that were tried are of one size and move with the
        position; ``"bound"`` where one that does contains them all; else the whole input.
    """
    _, rows, columns = tap.shape
    height, width = pixels.shape[2:]
    positions = _diagonal(rows, columns)
    (edge,) = supports(network, tap, pixels, [(rows // 2, columns // 2)])
    if edge == (0, 0, height, width):
        return ReceptiveField.whole(height, width)
    boxes = np.array(supports(network, tap, pixels, positions))
    at = np.array(positions)
    y = _fit(at[:, 0], boxes[:, 0], boxes[:, 2], height)
    x = _fit(at[:, 1], boxes[:, 1], boxes[:, 3], width)
    if y is None or x is None:
        return ReceptiveField.whole(height, width)
    return ReceptiveField(y[0], x[0], "measured" if y[1] and x[1] else "bound")


def _diagonal(rows: int, columns: int) -> list[tuple[int, int]]:
    """Return positions along the diagonal of a map: all, or some far apart and some side by side."""
    longest = max(rows, columns)
    steps = np.arange(longest)
    if longest > MEASURED:
        near = np.arange(MEASURED // 2) + longest // 2
        steps = np.unique(np.concatenate([near, np.linspace(0, longest - 1, MEASURED // 2).astype(int)]))
    return [(int(step * rows // longest), int(step * columns // longest)) for step in steps]


def _fit(at: np.ndarray, starts: np.ndarray, stops: np.ndarray, length: int) -> tuple[Axis, bool] | None:
    """Fit a field to what units at some positions of an axis see; return it, and whether it is exact.

    Starts of 0 and stops at the image's end may be cut off there.
    """
    free = [(at[starts > 0], starts[starts > 0]), (at[stops < length], stops[stops < length])]
    if any(len(np.unique(positions)) < 2 for positions, _ in free):
        return None
    strides = {round((ends[-1] - ends[0]) / (positions[-1] - positions[0])) for positions, ends in free}
    if len(strides) != 1 or 0 in strides:
        return None
    (stride,) = strides
    firsts, lasts = (ends - stride * positions for positions, ends in free)
    offset, size = int(firsts.min()), int(lasts.max() - firsts.min())
    fitted = offset + stride * at
    exact = np.array_equal(starts, np.maximum(fitted, 0)) and np.array_equal(stops, np.minimum(fitted + size, length))
    contains = (np.maximum(fitted, 0) <= starts).all() and (np.minimum(fitted + size, length) >= stops).all()
    return (Axis(size, stride, offset), exact) if contains and size < length else None
