"""Projections against networks run up and down by hand."""

import copy
from functools import cache

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.families import CHAINS, FAMILIES, SMOOTH
from tests.oracle.chains import run_up
from topnine.pipeline.compute.deconvnet import Rules, project
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.taps import read_taps
from topnine.pipeline.network.tracing.recording import trace

torch.manual_seed(0)

EVERY_LAYER = [(name, layer) for name in CHAINS for layer in ARCHITECTURES[name].layers]


def double(name):
    network = load_network(NetworkConfig(name=name, weights="bundled" if name == "tiny_zfnet" else "random"))
    return copy.deepcopy(network.module).double()


@cache  # the tests of a network's layers follow each other
def traced(name, images, size):
    """A network in float64, an input, and its graph."""
    module = double(name)
    pixels = torch.randn(images, 3, size, size, dtype=torch.float64)
    return module, pixels, trace(module, pixels[:1])


def some_hits(maps, count):
    """The strongest places of one of the stronger filters of each image."""
    filters = maps.amax((2, 3)).argsort(dim=1, descending=True)[
        torch.arange(count), torch.arange(count) % maps.shape[1]
    ]
    flat = maps[torch.arange(count), filters].flatten(1).argmax(dim=1)
    return filters, flat // maps.shape[3], flat % maps.shape[3]


@pytest.mark.parametrize(("name", "layer"), EVERY_LAYER)
def test_projections_are_those_of_the_chain_run_down_by_hand(name, layer):
    module, pixels, graph = traced(name, 3, 64 if name == "vgg16" else 96)
    (found,) = find_layers(graph, ARCHITECTURES[name].layers, layer)
    maps, down = run_up(name, module, layer, pixels)
    filters, row, column = some_hits(maps, 3)
    activation, projection = project(module, found.tap, pixels, filters, row, column, Rules())
    hit = torch.arange(3)
    seed = torch.zeros_like(maps)
    seed[hit, filters, row, column] = maps[hit, filters, row, column]
    expected = down(seed)
    assert torch.allclose(activation, maps[hit, filters, row, column], rtol=1e-10, atol=0)
    assert (projection - expected).abs().max() <= 1e-10 * expected.abs().max()
    assert expected.abs().max() > 0


OTHERS = [
    pytest.param(name, layer, marks=pytest.mark.slow)
    for name in FAMILIES
    if name not in CHAINS
    for layer in ARCHITECTURES[name].layers
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "layer"), EVERY_LAYER + OTHERS)
def test_parts_of_the_image_give_what_the_whole_gives(name, layer):
    rules = Rules("gradient" if name in SMOOTH else "deconvnet")
    size = {"vgg16": 112}.get(
        name, 225 if name in CHAINS and name != "resnet18" else 160
    )  # 225: no multiple of a stride
    module, pixels, graph = traced(name, 1, size)
    (found,) = find_layers(graph, ARCHITECTURES[name].layers, layer)
    maps = read_taps(module, pixels, {"x": found.tap}, torch.clone)["x"]
    height, width = maps.shape[2:]
    for row, column in ((0, 0), (height // 2, width // 2), (height - 1, 1), (height - 2, width - 1)):
        filter = maps[0, :, row, column].argmax()[None]
        places = [torch.tensor([row]), torch.tensor([column])]
        activation, whole = project(module, found.tap, pixels, filter, *places, rules)
        top, left, bottom, right = found.field.crop(row, column, size, size)
        places = [
            torch.tensor([row - top // max(1, found.field.y.stride)]),
            torch.tensor([column - left // max(1, found.field.x.stride)]),
        ]
        again, part = project(module, found.tap, pixels[..., top:bottom, left:right], filter, *places, rules)
        expected = whole[..., top:bottom, left:right]
        assert torch.allclose(again, activation, rtol=1e-12)
        assert (part - expected).abs().max() <= 1e-12 * whole.abs().max()
        assert expected.abs().sum() == pytest.approx(whole.abs().sum().item(), rel=1e-12)


def small(*modules):
    torch.manual_seed(3)
    return torch.nn.Sequential(*modules).double().eval()


def project_last(module, pixels, rules):
    graph = trace(module, pixels)
    (layer,) = find_layers(graph, {"last": str(len(module) - 1)}, "last")
    maps = module(pixels)
    f, y, x = some_hits(maps, len(pixels))
    activation, projection = project(module, layer.tap, pixels, f, y, x, rules)
    return maps, (f, y, x), activation, projection


@pytest.mark.parametrize("inplace", [False, True])
def test_gradient_is_autograds_and_guided_is_both_clamps(inplace):
    module = small(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(inplace), torch.nn.Conv2d(6, 6, 3), torch.nn.ReLU(inplace))
    pixels = torch.randn(4, 3, 12, 12, dtype=torch.float64)
    _, (f, y, x), activation, gradient = project_last(module, pixels, Rules("gradient"))
    variable = pixels.clone().requires_grad_(True)
    picked = module(variable)[torch.arange(4), f, y, x]
    (expected,) = torch.autograd.grad((picked**2 / 2).sum(), variable)
    assert torch.allclose(gradient, expected, rtol=1e-12)
    guided = project_last(module, pixels, Rules("guided"))[3]
    low = module[0](pixels)
    top = torch.zeros_like(module(pixels))
    top[torch.arange(4), f, y, x] = activation
    from_above = F.conv_transpose2d(top, module[2].weight).clamp(min=0) * (low > 0)
    assert torch.allclose(guided, F.conv_transpose2d(from_above, module[0].weight), rtol=1e-12)
    deconvnet = project_last(module, pixels, Rules())[3]
    assert not torch.allclose(deconvnet, guided)
    assert not torch.allclose(deconvnet, gradient)


def test_overwrite_keeps_the_last_region_that_chose_a_position():
    module = small(torch.nn.MaxPool2d(3, 1, 1), torch.nn.Conv2d(1, 1, 5, padding=2), torch.nn.ReLU())
    pixels = torch.randn(1, 1, 7, 7, dtype=torch.float64)
    _, (_, y, x), activation, found = project_last(module, pixels, Rules(pooling="overwrite"))
    _, switches = F.max_pool2d(pixels, 3, 1, 1, return_indices=True)
    top = torch.zeros(1, 1, 7, 7, dtype=torch.float64)
    top[0, 0, y, x] = activation
    pooled = F.conv_transpose2d(top, module[1].weight, padding=2)
    expected = np.zeros(49)
    for region in range(49):  # row-major: later regions overwrite earlier ones
        expected[switches.flatten()[region]] = pooled.detach().flatten()[region]
    assert np.allclose(found.flatten().numpy(), expected, rtol=1e-12, atol=0)
    assert not np.allclose(found.numpy(), project_last(module, pixels, Rules())[3].numpy())


class WithSwitches(torch.nn.Module):
    """A pooling that also gives its switches, which nobody reads."""

    def __init__(self, pool):
        super().__init__()
        self.pool = pool

    def forward(self, x):
        return self.pool(x)[0]


@pytest.mark.parametrize("pooling", ["sum", "overwrite"])
@pytest.mark.parametrize(
    ("plain", "with_switches"),
    [
        (torch.nn.MaxPool2d(3, 2), torch.nn.MaxPool2d(3, 2, return_indices=True)),
        (torch.nn.AdaptiveMaxPool2d(6), torch.nn.AdaptiveMaxPool2d(6, return_indices=True)),
    ],
)
def test_a_pooling_that_gives_its_switches_is_one_like_any_other(plain, with_switches, pooling):
    first, second = torch.nn.Conv2d(3, 4, 3), torch.nn.Conv2d(4, 4, 3)
    pixels, found = torch.randn(2, 3, 15, 15, dtype=torch.float64), {}
    for name, pool in (("plain", plain), ("with switches", WithSwitches(with_switches))):
        module = small(first, torch.nn.ReLU(), pool, second, torch.nn.ReLU())
        found[name] = {rule: project_last(module, pixels, Rules(pooling=rule))[3] for rule in ("sum", "overwrite")}
    assert torch.equal(found["plain"][pooling], found["with switches"][pooling])
    assert not torch.equal(found["plain"]["sum"], found["plain"]["overwrite"])


def test_lrn_passes_back_unchanged_by_identity_and_by_its_derivative_else():
    module = small(
        torch.nn.Conv2d(3, 6, 3), torch.nn.LocalResponseNorm(5, 1.0), torch.nn.Conv2d(6, 2, 3), torch.nn.ReLU()
    )
    pixels = torch.randn(2, 3, 9, 9, dtype=torch.float64)
    maps, (f, y, x), _, identity = project_last(module, pixels, Rules(lrn="identity"))
    top = torch.zeros_like(maps)
    top[torch.arange(2), f, y, x] = maps[torch.arange(2), f, y, x]
    expected = F.conv_transpose2d(F.conv_transpose2d(top, module[2].weight), module[0].weight)
    assert torch.allclose(identity, expected, rtol=1e-12)
    assert not torch.allclose(project_last(module, pixels, Rules())[3], expected)


@pytest.mark.parametrize("precision", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "size"),
    [
        (11, 4, 2, 1, (99, 51)),  # AlexNet's, on crops
        (11, 4, 2, 1, (15, 12)),
        (4, 4, 0, 1, (16, 19)),  # patches; three columns are in none
        ((7, 5), (4, 5), (3, 0), 1, (31, 28)),
        (3, 5, 1, 1, (17, 16)),  # pixels between the windows are in none
        (5, 4, 4, 1, (13, 9)),
        (3, 4, 0, 2, (21, 21)),
        (7, (2, 4), 3, 1, (20, 24)),
        (3, 1, 1, 1, (8, 9)),
    ],
)
def test_the_first_convolution_is_taken_back_as_it_is_transposed(kernel, stride, padding, dilation, size, precision):
    first = torch.nn.Conv2d(3, 8, kernel, stride, padding, dilation)
    module = small(first, torch.nn.ReLU()).requires_grad_(False)
    pixels = torch.randn(4, 3, *size, dtype=torch.float64)
    maps, (f, y, x), _, _ = project_last(module, pixels, Rules())
    expected = project_by_autograd(module[0], pixels, maps, (f, y, x))
    (layer,) = find_layers(trace(module.to(precision), pixels[:1].to(precision)), {"last": "0"}, "last")
    _, found = project(module, layer.tap, pixels.to(precision), f, y, x, Rules())
    assert found.shape == pixels.shape
    assert (found - expected).abs().max() <= (1e-5 if precision == torch.float32 else 1e-12) * expected.abs().max()


def project_by_autograd(convolution, pixels, maps, hits):
    """The transposed convolution of maps that are zero but for a hit each."""
    seed, image = torch.zeros_like(maps), torch.arange(len(maps))
    seed[image, *hits] = maps[image, *hits]
    variable = pixels.clone().requires_grad_(True)
    return torch.autograd.grad(convolution(variable), variable, seed)[0]


def test_the_users_network_is_not_changed():
    network = load_network(NetworkConfig(name="resnet18", weights="random", seed=0))
    before = {name: (id(module), type(module)) for name, module in network.module.named_modules()}
    pixels = torch.randn(2, 3, 64, 64)
    expected = network.module(pixels)
    (layer,) = find_layers(trace(network.module, pixels), network.architecture.layers, "5")
    zeros = torch.zeros(2, dtype=torch.long)
    project(network.module, layer.tap, pixels, zeros, zeros, zeros, Rules())
    assert {name: (id(module), type(module)) for name, module in network.module.named_modules()} == before
    assert all(not module._forward_hooks and not module._backward_hooks for module in network.module.modules())
    assert all(parameter.grad is None for parameter in network.module.parameters())
    assert torch.equal(network.module(pixels), expected)
