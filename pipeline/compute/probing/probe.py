"""The probe: what the project believes of a network, held against what the network does, before anything is mined.

| belief | held against |
|---|---|
| the network gives the same twice, and alone as in a batch | two passes; a batch of one and of many |
| it runs the same operations for every image | the operations of another image |
| the map is (image, filter, row, column) | where the map changes when half of the image does |
| the receptive field | the gradient's support; the pixels outside of it changed |
| a crop gives what the whole image gives | units in corners, at edges and inside |

Which operations rectify, and where a layer is tapped, are found by trying the operations: see
``network.tracing.functions``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError, check_memory
from ...network.architecture import Architecture
from ...network.graph import Graph
from ...network.layers import Layer
from ...network.modules.preparation import describe
from ...network.receptive_field import ReceptiveField
from ...network.taps import Tap, read_taps
from ...network.tracing.recording import Recording, record
from ...network.tracing.tape import Tape
from ..deconvnet import Rules, project
from ..normalise import normalisation_rows, normalise
from .fields import find_field, some_positions
from .layouts import place_layer
from .references import reference_images

SEED = 9
SAMPLED_IMAGES = 2  # of the data
NEAR = 1e-4  # of a layer's strongest activation: how far other batches may take an activation
PROJECTED_NEAR = 1e-3  # of a projection's maximum: how far a crop may take it
TRIES = 3  # images of noise on which a crop has to differ; a near-tie of a pooling region makes it differ on one
FINITENESS = frozenset(("isnan", "isinf", "isfinite"))


def probe(module: nn.Module, recording: Recording, layers: Sequence[Layer], pixels: Tensor) -> tuple[Layer, ...]:
    """Check what is believed of some layers of a network, and complete what the graph does not tell of them.

    Parameters
    ----------
    module : nn.Module
        In evaluation mode, on the CPU, its parameters without gradients.
    recording : Recording
        Of the first image.
    layers : sequence of Layer
        As ``find_layers`` returns them.
    pixels : Tensor (image, channel, y, x)
        Normalised inputs: see ``probe_pixels``.

    Returns
    -------
    tuple of Layer
        With their layout, receptive field, and whether crops suffice to project them.

    Raises
    ------
    InputError
        What a run would record would not be what the network computes on an image.
    """
    taps = {layer.name: layer.tap for layer in layers}
    other, together = (record(module, images, studied=False) for images in (pixels[-1:], pixels))
    _check_read_out(module, recording.graph, layers)
    _check_paths(module, recording.tape, other.tape, taps, "another image")
    _check_paths(module, recording.tape, together.tape, taps, f"a batch of {len(pixels)}")
    _check_repeatable(module, taps, pixels)
    hidden = [*recording.graph.lost, *_hidden_ways(recording.tape, other.tape)]
    layers = [_mark_hidden(module, recording.graph, layer, hidden) for layer in layers]
    placed = [place_layer(module, recording.graph, layer, pixels) for layer in layers]
    noise = torch.randn((TRIES, *pixels.shape[1:]), generator=torch.Generator().manual_seed(SEED), dtype=torch.float32)
    return tuple(_measure(module, layer, noise) for layer in placed)


def probe_pixels(images: np.ndarray, architecture: Architecture, shape: tuple[int, int, int]) -> Tensor:
    """Return the inputs (image, channel, y, x) of the probe: images (image, y, x, channel) of the data, then noise."""
    rows = normalisation_rows(architecture, *shape[1:])
    images = np.concatenate([images[:SAMPLED_IMAGES], reference_images(shape)])[: SAMPLED_IMAGES + 1]
    return normalise(*(torch.from_numpy(array) for array in (images, *rows)))


# -- the same twice, and for every image -------------------------------------------------------------------------------


def _check_read_out(module: nn.Module, graph: Graph, layers: Sequence[Layer]) -> None:
    """Raise InputError where a number is read out of a tensor on the way to a layer: it may decide about anything."""
    deepest = max(layer.tap.value for layer in layers)
    for value, how in graph.read_out:
        before = graph.ancestors(value)
        if 0 in before and value <= deepest and not _is_check(graph, before):
            operation = graph.operations[value - 1] if value else None
            where = _in_module(module, operation.module) if operation else ""
            raise InputError(
                f"the network takes a number out of a tensor ({how}{where}) that depends on the images: what it does "
                "for one may depend on the others of its batch, and be something else for another. It cannot be mined: "
                "write it with torch's functions of whole tensors, such as torch.where."
            )


def _is_check(graph: Graph, before: set[int]) -> bool:
    """Return whether a number is read out only to see whether all are finite."""
    return any(graph.operations[value - 1].name in FINITENESS for value in before if value)


def _check_paths(module: nn.Module, first: Tape, other: Tape, taps: dict[str, Tap], what: str) -> None:
    """Raise InputError where another input takes another way through the network, up to the deepest layer."""
    deepest = max(tap.operation for tap in taps.values()) + 1
    for one, two in zip(first.operations[:deepest], other.operations[:deepest], strict=False):
        if one.name != two.name:
            raise InputError(
                f"the network runs {two.name} for {what} where it runs {one.name} for one image"
                f"{_in_module(module, one.module)}: one whose way depends on the images cannot be mined."
            )
    if len(other.operations) < deepest:
        raise InputError(f"the network runs up to the layers for one image and not for {what}: it cannot be mined.")


def _hidden_ways(first: Tape, other: Tape) -> list[tuple[int, str]]:
    """List the operations that read what was computed from the pixels outside of torch's functions, and what it is.

    These are numbers and tensors that no operation made and that another image has otherwise.
    """
    found = []
    for i, (one, two) in enumerate(zip(first.steps, other.steps, strict=False)):
        if len(one.unknown) != len(two.unknown) or not all(map(_equal, one.unknown, two.unknown)):
            found.append((i, "reads a tensor that torch did not compute"))
        elif _numbers(one.args, one.kwargs) != _numbers(two.args, two.kwargs):
            found.append((i, "reads a number that was taken out of a tensor"))
    return found


def _mark_hidden(module: nn.Module, graph: Graph, layer: Layer, hidden: list[tuple[int, str]]) -> Layer:
    """Return a layer with the reason why it cannot be projected, where something up to it was computed unseen."""
    before = graph.ancestors(layer.tap.value)
    for i, what in hidden:
        if i + 1 in before:
            operation = graph.operations[i]
            where = _in_module(module, operation.module) or " in the network"
            return replace(layer, unprojectable=f"{operation.name}{where} {what}, so that no true gradient comes back")
    return layer


def _equal(one: Tensor, two: Tensor) -> bool:
    return one.shape == two.shape and torch.equal(one, two)


def _numbers(*arguments: Any) -> list[float]:
    """List the numbers in nested arguments."""
    found: list[float] = []
    for argument in arguments:
        if isinstance(argument, int | float):
            found.append(argument)
        elif isinstance(argument, tuple | list):
            found += _numbers(*argument)
        elif isinstance(argument, dict):
            found += _numbers(*argument.values())
    return found


def _check_repeatable(module: nn.Module, taps: dict[str, Tap], pixels: Tensor) -> None:
    """Raise InputError where a network gives something else a second time, or in a batch."""
    together, again = (_maxima(module, taps, pixels) for _ in range(2))
    alone = [_maxima(module, taps, image[None]) for image in pixels]
    for name in taps:
        near = NEAR * together[name].abs().max()
        if not torch.isfinite(together[name]).all():
            raise InputError(f"layer {name} gives values that are not finite: the network's weights are damaged.")
        if bool((together[name] - again[name]).abs().max() > near):
            culprit = _first_difference(module, pixels, pixels)
            raise InputError(
                f"layer {name} gives something else each time the same images are run{culprit}: it draws random "
                "numbers, so no activation can be recorded. Make the network deterministic in evaluation mode."
            )
        if bool((together[name] - torch.cat([result[name] for result in alone])).abs().max() > near):
            culprit = _first_difference(module, pixels, pixels[:1])
            raise InputError(
                f"layer {name} gives an image something else alone than in a batch of {len(pixels)}{culprit}: it "
                "depends on the other images, as the batch statistics of a batch norm do. Give it running statistics."
            )


def _maxima(module: nn.Module, taps: dict[str, Tap], pixels: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        return read_taps(module, pixels, taps, lambda value: value.flatten(2).amax(2) if value.dim() > 2 else value)


def _first_difference(module: nn.Module, one: Tensor, two: Tensor) -> str:
    """Name the first operation whose result for the first image differs between two batches."""
    tapes = [record(module, pixels, studied=False).tape for pixels in (one, two)]
    for value in range(1, 1 + min(len(tape.steps) for tape in tapes)):
        a, b = (_first(tape.tensor(value)) for tape in tapes)
        if a.shape == b.shape and a.is_floating_point() and bool((a - b).abs().max() > NEAR * a.abs().max()):
            operation = tapes[0].operations[value - 1]
            return f", from {operation.name} on{_in_module(module, operation.module)}"
    return ""


def _first(tensor: Tensor) -> Tensor:
    return tensor.detach()[:1] if tensor.dim() else tensor.detach()


def _in_module(module: nn.Module, path: str) -> str:
    return f" in module {path!r} ({type(module.get_submodule(path)).__name__})" if path else ""


# -- receptive fields and crops ----------------------------------------------------------------------------------------


def _measure(module: nn.Module, layer: Layer, noise: Tensor) -> Layer:
    """Return a layer with a receptive field that holds, and with whether crops suffice to project it."""
    whole = replace(layer, field=ReceptiveField.whole(*noise.shape[2:]), whole_image=True)
    if layer.unprojectable:
        return whole
    rule = Rules("gradient") if layer.unrectified or layer.unseen else Rules()
    try:
        field = find_field(module, layer.tap, layer.field, noise)
        layer = replace(layer, field=field)
        may_crop = field.source == "graph" and not layer.tap.settles
        on_whole = not (may_crop and _crops_suffice(module, layer, rule, noise))
    except Exception as error:  # noqa: BLE001 - a network that cannot be run back may raise anything
        check_memory(error)
        unseen = f", behind {', '.join(layer.unseen)}, which the trace does not see" if layer.unseen else ""
        return replace(whole, unprojectable=f"its gradient cannot be computed ({describe(error)}){unseen}")
    return replace(layer, whole_image=on_whole)


def _crops_suffice(module: nn.Module, layer: Layer, rule: Rules, noise: Tensor) -> bool:
    """Return whether units are computed and projected from crops as from the whole image.

    A position where a crop gives something else is tried on other noise: a near-tie of a pooling region decides by
    chance. No image of the data is tried, because a crop may be as good as the image where that is of one colour.
    """
    height, width = noise.shape[2:]
    left = [p for p in some_positions(layer.tap) if layer.field.crop(*p, height, width) != (0, 0, height, width)]
    for image in noise:
        if left:
            with torch.no_grad():
                maps = read_taps(module, image[None], {"layer": layer.tap}, torch.clone)["layer"]
            left = [position for position in left if not _crop_agrees(module, layer, rule, image[None], maps, position)]
    return not left


def _crop_agrees(
    module: nn.Module, layer: Layer, rule: Rules, image: Tensor, maps: Tensor, position: tuple[int, int]
) -> bool:
    row, column = position
    top, left, bottom, right = layer.field.crop(row, column, *image.shape[2:])
    filter = maps[0, :, row, column].argmax()[None]
    whole = project(module, layer.tap, image, filter, *_index(row, column), rule)
    at = row - top // max(1, layer.field.y.stride), column - left // max(1, layer.field.x.stride)
    try:
        part = project(module, layer.tap, image[:, :, top:bottom, left:right], filter, *_index(*at), rule)
    except Exception as error:  # noqa: BLE001 - a network that takes no crop of this size may raise anything
        check_memory(error)
        return False
    inside, scale = whole[1][:, :, top:bottom, left:right], whole[1].abs().max()
    outside = whole[1].abs().sum() - inside.abs().sum()
    return bool(
        (part[0] - whole[0]).abs().max() <= NEAR * maps.abs().max()
        and part[1].shape == inside.shape
        and (part[1] - inside).abs().max() <= PROJECTED_NEAR * scale
        and outside <= PROJECTED_NEAR * scale
    )


def _index(row: int, column: int) -> tuple[Tensor, Tensor]:
    return torch.tensor([row]), torch.tensor([column])
