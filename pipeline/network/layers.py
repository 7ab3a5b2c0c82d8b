"""The layers of a network that can be mined, and how a user names them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any

import numpy as np
from torch import nn

from ..errors import InputError
from .graph import Graph
from .modules.preparation import first_channels
from .receptive_field import ReceptiveField, map_geometry
from .taps import Layout, Tap, find_tap


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
        The activation functions up to the layer that are no rectifiers: the deconvnet is not defined for them.
    unseen : tuple of str
        What runs up to the layer and is not seen by the trace: whether it rectifies is not known.
    passing : tuple of str
        The operations up to the layer that are neither affine nor rectifiers nor max-pooling, such as gates and
        normalisations: they pass their derivative back.
    digest : str
        Of the operations up to the layer: their names, shapes and ways.
    whole_image : bool
        It is projected on whole images, because crops do not give what these give.
    unprojectable : str
        Why it cannot be projected by any rule, where that is so.
    """

    name: str
    number: int | None
    module: str
    tap: Tap
    field: ReceptiveField
    unrectified: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    passing: tuple[str, ...] = ()
    digest: str = ""
    whole_image: bool = False
    unprojectable: str = ""

    @property
    def title(self) -> str:
        """Its title in file names and pictures: ``5`` for layer 5, the name where it has no number."""
        return str(self.number) if self.number else self.name

    @property
    def filters(self) -> int:
        """How many filters it has."""
        return self.tap.shape[0]

    def attributes(self) -> dict[str, Any]:
        """Return the layer's description as the store records it."""
        filters, height, width = self.tap.shape
        return {
            "number": self.number,
            "depth": self.tap.operation,
            "module": self.module,
            "filters": filters,
            "map": {"height": height, "width": width},
            "receptive_field": self.field.attributes(),
            "tap": self.tap.follows,
            "probe": {
                "layout": self.tap.layout.attributes(),
                "rectifiers": dict(Counter(rectifier.name for rectifier in self.tap.rectifiers)),
                "unrectified": list(self.unrectified),
                "unseen": list(self.unseen),
                "passing": list(self.passing),
                "projected_on": "image" if self.whole_image else "crop",
                "unprojectable": self.unprojectable,
            },
        }

    @classmethod
    def described(cls, name: str, attributes: Mapping[str, Any], digest: str) -> Layer:
        """Return a layer from the attributes that a store recorded of it alone: it can be drawn, and not be run.

        LookupError names what they lack.
        """
        size = attributes["map"]
        shape = attributes["filters"], size["height"], size["width"]
        tap = Tap(attributes["depth"], attributes["tap"], shape)
        field = ReceptiveField.from_attributes(attributes["receptive_field"])
        return cls(name, attributes["number"], attributes["module"], tap, field, digest=digest)

    def restored(self, attributes: Mapping[str, Any]) -> Layer:
        """Return the layer as the probe completed it, from the attributes that a store recorded of it."""
        probe, size = attributes["probe"], attributes["map"]
        tap = replace(
            self.tap,
            layout=Layout.from_attributes(probe["layout"]),
            shape=(attributes["filters"], size["height"], size["width"]),
        )
        return replace(
            self,
            tap=tap,
            field=ReceptiveField.from_attributes(attributes["receptive_field"]),
            unseen=tuple(probe["unseen"]),
            whole_image=probe["projected_on"] == "image",
            unprojectable=probe["unprojectable"],
        )

    @property
    def crops(self) -> ReceptiveField:
        """The field by whose crops it is projected: without a stride, and so the whole input, where none suffice."""
        if not self.whole_image:
            return self.field
        return ReceptiveField(replace(self.field.y, stride=0), replace(self.field.x, stride=0))


def find_layers(
    graph: Graph, numbered: Mapping[str, str], wanted: str, unwrapped: Callable[[str], str] = str
) -> list[Layer]:
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
    unwrapped : callable
        Returns the path of a module in the network from the one in the wrapper that it came in.

    Raises
    ------
    InputError
        No such layer, or one that is not a spatial map.
    """
    if graph.broken_off and not graph.outputs:
        channels, height, width = graph.input_shape[1:]
        raise InputError(
            f"the network does not run on an image of {channels} channels and {height}×{width} pixels, so no layer of "
            f"it can be mined: {graph.broken_off}."
        )
    words = wanted.replace(",", " ").split()
    if not words:
        raise InputError("no layer is named: LAYER is a number, a name, a list of these, 'all' or 'every'.")
    chosen: dict[str, None] = {}
    for word in words:
        known = word in numbered or word in graph.outputs
        chosen.update(dict.fromkeys(_names_of(graph, numbered, word if known else unwrapped(word))))
    layers = [_layer(graph, numbered, name) for name in chosen]
    return sorted(layers, key=lambda layer: layer.tap.operation)


def _names_of(graph: Graph, numbered: Mapping[str, str], word: str) -> list[str]:
    """List the names of the layers that a word of the user stands for."""
    names = list(numbered)
    if word == "all" and not names:
        raise InputError(
            "'all' means the numbered layers, and this network has none: name some in [network] layers, or give "
            "module paths or 'every' as LAYER."
        )
    if word == "all":
        return names
    if word == "every":
        by_module = {module: name for name, module in numbered.items()}
        found = [by_module.get(module, module) for module in convolutions(graph)]
        if not found:
            raise InputError(f"the network runs no convolution, so 'every' names no layer{_early_end(graph)}.")
        return found
    if word.isdecimal() and 1 <= int(word) <= len(names):
        return [names[int(word) - 1]]
    if word in numbered or word in graph.outputs:
        return [word]
    raise InputError(f"there is no layer {word!r}{_early_end(graph)}: LAYER is {_describe_names(graph, names, word)}.")


def _describe_names(graph: Graph, names: list[str], word: str) -> str:
    """Return what LAYER can be."""
    numbers = [f"{n} = {name}" for n, name in enumerate(names, 1)]
    similar = get_close_matches(word, graph.outputs, 3) or list(graph.outputs)[:3]
    paths = f"a module path that it runs, such as {', '.join(similar)}" if similar else "a module path that it runs"
    return ", ".join([*numbers, *(["all"] if names else []), "every"]) + f", or {paths}"


def _early_end(graph: Graph) -> str:
    """Return why the network ended early, as a part of a sentence."""
    return f" (the network ends early on this input: {graph.broken_off})" if graph.broken_off else ""


def _layer(graph: Graph, numbered: Mapping[str, str], name: str) -> Layer:
    module = numbered.get(name, name)
    tap = find_tap(graph, module)
    number = list(numbered).index(name) + 1 if name in numbered else None
    before = graph.ancestors(tap.value)
    unrectified = {bend.name for bend in graph.bends if bend.value in before}
    unseen = {name for operation, name in graph.unseen if operation <= tap.operation}
    passing = {name for value, name in graph.passing.items() if value in before}
    geometry = map_geometry(graph, tap.operation)
    if geometry.dimensions is not None and len(tap.shape) == 3:
        layout = Layout(_map_order(geometry.dimensions))
        tap = replace(tap, layout=layout, shape=layout.shape((1, *tap.shape)))
    sets = [tuple(sorted(names)) for names in (unrectified, unseen, passing)]
    return Layer(name, number, module, tap, geometry.field, sets[0], sets[1], sets[2], graph.digest(tap.value))


def _map_order(dimensions: tuple[int, int]) -> tuple[int, ...]:
    """Return the dimensions that are image, filter, row and column, of which the last two are known from the end."""
    y, x = (4 + dimension for dimension in dimensions)
    (filter,) = {1, 2, 3} - {y, x}
    return 0, filter, y, x


def convolutions(graph: Graph) -> list[str]:
    """List the module paths of every convolution, in the order in which the network runs them."""
    paths = {value: path for path, value in graph.outputs.items() if graph.operations[value - 1].name == "conv2d"}
    return [paths[value] for value in sorted(paths)]


def pixel_weights(network: nn.Module, layer: Layer) -> np.ndarray | None:
    """Return the weights (filter, channel, y, x) of a convolution of the pixels; None for any other layer."""
    module = network.get_submodule(layer.module)
    if not isinstance(module, nn.Conv2d) or module.in_channels != first_channels(network) or module.groups != 1:
        return None
    seen = [each * (side - 1) + 1 for each, side in zip(module.dilation, module.kernel_size, strict=True)]
    if seen != [layer.field.y.size, layer.field.x.size]:
        return None
    return module.weight.detach().float().cpu().numpy()


def first_convolution(graph: Graph, numbered: Mapping[str, str]) -> Layer:
    """Return the first convolution of a network as a layer; InputError if it has none."""
    layers = find_layers(graph, numbered, "every") if convolutions(graph) else []
    if not layers:
        raise InputError("the network has no convolution: there is no first layer to draw.")
    return layers[0]
