"""Receptive fields against the support of the gradient.

In float64, with weights 1/fan-in, normalisation and activation functions the identity and max-pooling replaced by
average pooling, every pixel that can reach a unit does so with a positive weight.
"""

import copy
from functools import cache

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from tests.families import FAMILIES
from topnine.pipeline.network.graph import Graph, operation_name
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.taps import read_taps
from topnine.pipeline.network.tracing.recording import trace

# Those that have a module for every function.
PLAIN = ["zfnet", "tiny_zfnet", "alexnet", "vgg16", "squeezenet1_0", "resnet18"]
EVERY_LAYER = [(name, layer) for name in PLAIN for layer in ARCHITECTURES[name].layers]


@cache  # the tests of a network's layers follow each other
def traced(name: str, size: int) -> tuple[nn.Module, Graph]:
    """A network with random weights, and its graph for an input size."""
    module = ARCHITECTURES[name].build().eval()
    return module, trace(module, torch.zeros(1, 3, size, size))


def linear(module: nn.Module) -> nn.Module:
    """The network with every filter seeing all it can see."""
    for name, child in module.named_children():
        if isinstance(child, nn.ReLU | nn.BatchNorm2d | nn.LocalResponseNorm | nn.Dropout):
            setattr(module, name, nn.Identity())
        elif isinstance(child, nn.MaxPool2d):
            setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding, child.ceil_mode))
        else:
            if isinstance(child, nn.Conv2d):
                nn.init.constant_(child.weight, 1 / child.weight[0].numel())
                if child.bias is not None:
                    nn.init.zeros_(child.bias)
            linear(child)
    return module


class _Stop(Exception):
    pass


def maps_of(module, path, pixels):
    seen = []

    def hook(_module, _inputs, output):
        seen.append(output)
        raise _Stop

    handle = module.get_submodule(path).register_forward_hook(hook)
    try:
        module(pixels)
    except _Stop:
        return seen[0]
    finally:
        handle.remove()


@pytest.mark.parametrize(("name", "layer"), EVERY_LAYER)
def test_the_field_is_the_support_of_the_gradient(name, layer):
    architecture = ARCHITECTURES[name]
    size = {"resnet18": 512, "vgg16": 256}.get(name, 224)
    pixels = torch.zeros(1, 3, size, size)
    module, graph = traced(name, size)
    (found,) = find_layers(graph, architecture.layers, layer)
    exact = linear(copy.deepcopy(module)).double()
    variable = pixels.double().requires_grad_(True)
    maps = maps_of(exact, found.module, variable)
    height, width = maps.shape[2:]
    for row, column in ((height // 2, width // 2), (0, width - 1)):
        (gradient,) = torch.autograd.grad(maps[0, :, row, column].sum(), variable, retain_graph=True)
        support = gradient[0].abs().sum(dim=0) > 0
        rows, columns = (torch.nonzero(support.any(dim=axis)).flatten() for axis in (1, 0))
        top, left = found.field.y.start(row), found.field.x.start(column)
        bottom, right = top + found.field.y.size - 1, left + found.field.x.size - 1
        assert (rows[0], columns[0]) == (max(top, 0), max(left, 0))
        # No window of a layer without padding may reach the last pixels of the image: clipping there is by the image.
        for last, end in ((rows[-1], bottom), (columns[-1], right)):
            assert last == end or (end >= size and size - 2 <= last < size)


class _Linear(TorchFunctionMode):
    """Runs any network with every function in it passing on all it sees, with a positive weight."""

    PASSED = frozenset(
        "relu hardtanh silu gelu hardswish hardsigmoid sigmoid batch_norm layer_norm dropout".split()  # noqa: SIM905
    )

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        name = operation_name(function)
        if name in self.PASSED:
            return args[0] * 1.0
        if name == "max_pool2d":
            kwargs.pop("dilation", None), kwargs.pop("return_indices", None)
            return nn.functional.avg_pool2d(*args, **kwargs)
        if name == "mul" and all(isinstance(argument, torch.Tensor) for argument in args):
            return args[0] + args[1]  # a gate and what it gates are both seen
        return function(*args, **kwargs)


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_the_fields_of_every_family_are_the_support_of_the_gradient(name):
    size = 192
    unseen = 4 if name == "inception_v3" else 2  # it has seven layers without padding before Mixed_5d
    architecture = ARCHITECTURES[name]
    module = architecture.build().eval()
    layers = find_layers(trace(module, torch.zeros(1, 3, size, size)), architecture.layers, "all")
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.Linear):
            nn.init.constant_(part.weight, 1 / part.weight[0].numel())
            if part.bias is not None:
                nn.init.zeros_(part.bias)
    module.double()
    for layer in layers:
        variable = torch.zeros(1, 3, size, size, dtype=torch.float64, requires_grad=True)
        with _Linear():
            maps = read_taps(module, variable, {"layer": layer.tap}, lambda maps: maps)["layer"]
        row, column = maps.shape[2] // 2, maps.shape[3] - 1
        (gradient,) = torch.autograd.grad(maps[0, :, row, column].sum(), variable)
        support = gradient[0].abs().sum(dim=0) > 0
        for axis, position, dim in ((layer.field.y, row, 1), (layer.field.x, column, 0)):
            seen = torch.nonzero(support.any(dim=dim)).flatten()
            first, last = axis.start(position), axis.start(position) + axis.size - 1
            assert seen[0] == max(first, 0), layer.name
            assert seen[-1] == last or (last >= size and size - unseen <= seen[-1] < size), layer.name  # as above
