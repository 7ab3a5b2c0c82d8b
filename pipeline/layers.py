"""The layers of a network that can be mined, and how a user names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from torch import nn

from .errors import InputError
from .graph import Graph
from .receptive_field import ReceptiveField, receptive_field
from .taps import Tap, find_tap

NOT_RECTIFIERS = frozenset("silu gelu hardswish mish elu selu celu softplus leaky_relu prelu rrelu tanh".split())  # noqa: SIM905


@dataclass(frozen=True)
class Layer:
    """A tapped place in a network.

    Attributes
    ----------
    name : str
        As the registry names it, or the module path.
    number : int or None
        1, 2, 3, … for the numbered layers.
    module : str
        Path of the module it follows.
    unrectified : tuple of str
        The activation functions up to it that are no rectifiers: there is no deconvnet for them.
    """

    name: str
    number: int | None
    module: str
    tap: Tap
    field: ReceptiveField
    unrectified: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What files and pictures call it: ``5`` for layer 5, the name where there is no number."""
        return str(self.number) if self.number else self.name

    @property
    def filters(self) -> int:
        """How many filters it has."""
        return self.tap.shape[0]


def find_layers(graph: Graph, numbered: Mapping[str, str], wanted: str) -> list[Layer]:
    """Find the layers a user asked for, in the order in which the network runs them.

    Parameters
    ----------
    graph : Graph
        The network's.
    numbered : mapping of name to module path
        Its numbered layers, 1, 2, 3, … in this order.
    wanted : str
        Numbers, names or module paths, separated by spaces or commas; ``all`` = the numbered layers, ``every`` =
        every convolution.

    Raises
    ------
    InputError
        No such layer, or one that is not a spatial map.
    """
    names = list(numbered)
    words = wanted.replace(",", " ").split()
    if not words:
        raise InputError("no layer is named: LAYER is a number, a name, a list of these, 'all' or 'every'.")
    chosen: dict[str, None] = {}
    for word in words:
        chosen.update(dict.fromkeys(_named(graph, numbered, names, word)))
    layers = [_layer(graph, numbered, names, name) for name in chosen]
    return sorted(layers, key=lambda layer: layer.tap.operation)


def _named(graph: Graph, numbered: Mapping[str, str], names: list[str], word: str) -> list[str]:
    if word == "all":
        return names
    if word == "every":
        by_module = {module: name for name, module in numbered.items()}
        return [by_module.get(module, module) for module in convolutions(graph)]
    if word.isdigit() and 1 <= int(word) <= len(names):
        return [names[int(word) - 1]]
    if word in numbered or word in graph.outputs:
        return [word]
    numbers = ", ".join(f"{n} = {name}" for n, name in enumerate(names, 1))
    raise InputError(f"there is no layer {word!r}: {numbers}, all, every; `topnine networks` lists module paths.")


def _layer(graph: Graph, numbered: Mapping[str, str], names: list[str], name: str) -> Layer:
    module = numbered.get(name, name)
    tap = find_tap(graph, module)
    number = names.index(name) + 1 if name in numbered else None
    before = {step.name for step in graph.operations[: tap.operation + 1]}
    field = receptive_field(graph, tap.operation)
    return Layer(name, number, module, tap, field, tuple(sorted(before & NOT_RECTIFIERS)))


def convolutions(graph: Graph) -> list[str]:
    """Give the module paths of every convolution, in the order in which the network runs them."""
    found = {value: path for path, value in graph.outputs.items() if graph.operations[value - 1].name == "conv2d"}
    return [found[value] for value in sorted(found)]


def pixel_weights(network: nn.Module, layer: Layer) -> np.ndarray | None:
    """Give the weights (filter, rgb, y, x) of a convolution that works on the image itself; None of any other layer."""
    module = network.get_submodule(layer.module)
    if not isinstance(module, nn.Conv2d) or module.in_channels != 3 or module.groups != 1:
        return None
    return module.weight.detach().float().cpu().numpy()


def first_convolution(graph: Graph, numbered: Mapping[str, str]) -> Layer:
    """Give the first convolution of a network as a layer; InputError if it has none."""
    layers = find_layers(graph, numbered, "every") if convolutions(graph) else []
    if not layers:
        raise InputError("the network has no convolution: there is no first layer to draw.")
    return layers[0]
