import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from tests.unit.test_functions import Calls
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.layers import convolutions, find_layers
from topnine.pipeline.network.loading import trace_shapes
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.taps import find_tap, read_taps, spatial_maximum
from topnine.pipeline.network.tracing.recording import trace


class Odd(nn.Module):
    """Functional and in-place forms, one rectifier used twice, a branch."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.third = nn.Conv2d(4, 4, 1)
        self.dense = nn.Linear(4, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.first(x))
        y = self.relu(self.second(x))
        y += F.relu_(self.third(y))
        return self.dense(y.mean((2, 3)))


@pytest.fixture
def odd():
    torch.manual_seed(0)
    return Odd().eval(), torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("name", ["first", "second", "third"])
def test_the_tap_is_after_the_rectifier_that_belongs_to_it(odd, name):
    network, pixels = odd
    tap = find_tap(trace(network, pixels), name)
    found = read_taps(network, pixels, {"x": tap}, torch.clone)["x"]
    x = F.relu(network.first(pixels))
    y = F.relu(network.second(x))
    expected = {"first": x, "second": y, "third": F.relu(network.third(y))}[name]
    assert tap.follows == "relu"
    assert torch.equal(found, expected)


def test_maps_are_read_before_a_later_operation_changes_them_in_place(odd):
    network, pixels = odd
    graph = trace(network, pixels)
    both = {name: find_tap(graph, name) for name in ("second", "third")}
    together = read_taps(network, pixels, both, torch.clone)
    alone = read_taps(network, pixels, {"second": both["second"]}, torch.clone)
    assert torch.equal(together["second"], alone["second"])


def test_the_network_stops_after_the_deepest_tap(odd):
    network, pixels = odd
    tap = find_tap(trace(network, pixels), "first")
    network.dense.weight = nn.Parameter(torch.empty(0))  # would raise if it ran
    read_taps(network, pixels, {"first": tap}, torch.clone)


def test_a_residual_convolution_is_tapped_before_the_sum():
    network = torchvision.models.resnet18().eval()
    graph = trace(network, torch.zeros(1, 3, 64, 64))
    assert find_tap(graph, "layer1.0.conv1").follows == "relu"
    assert find_tap(graph, "layer1.0.conv2").follows == "batch_norm"
    assert find_tap(graph, "layer1").follows == "relu"


def test_what_is_no_spatial_map_cannot_be_mined():
    graph = trace_shapes("alexnet", 224, 224)
    with pytest.raises(InputError, match="not a spatial map"):
        find_tap(graph, "classifier.1")
    with pytest.raises(InputError, match="does not run a module"):
        find_tap(graph, "nothing")


def test_a_classifier_of_another_size_does_not_hinder_the_convolutions():
    graph = trace_shapes("zfnet", 160, 160)
    assert find_tap(graph, "conv5").shape == (256, 9, 9)
    with pytest.raises(InputError, match="ends early"):
        find_tap(graph, "fc7")


def test_layers_are_named_by_number_name_list_all_and_every():
    layers = ARCHITECTURES["alexnet"].layers
    graph = trace_shapes("alexnet", 224, 224)

    def names(wanted):
        return [layer.name for layer in find_layers(graph, layers, wanted)]

    assert names("5") == ["conv5"]
    assert names("conv5, 1 3") == ["conv1", "conv3", "conv5"]
    assert names("all") == names("every") == ["conv1", "conv2", "conv3", "conv4", "conv5"]
    assert names("features.6") == ["features.6"]
    with pytest.raises(InputError, match="there is no layer '6'"):
        names("6")
    with pytest.raises(InputError, match="no layer is named"):
        names(" ")


def test_every_convolution_of_vgg_is_found():
    graph = trace_shapes("vgg16", 224, 224)
    assert len(convolutions(graph)) == 13
    every = find_layers(graph, ARCHITECTURES["vgg16"].layers, "every")
    assert [layer.number for layer in every if layer.number] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("channels_last", [False, True])
def test_among_equal_maxima_the_first_in_row_major_order_is_taken(channels_last):
    maps = torch.randint(0, 3, (8, 16, 11, 7)).float()
    maps = maps.contiguous(memory_format=torch.channels_last) if channels_last else maps
    activation, row, column = (found.numpy() for found in spatial_maximum(maps))
    flat = maps.numpy().reshape(8, 16, -1)
    assert np.array_equal(activation, flat.max(axis=2))
    assert np.array_equal(row * 7 + column, flat.argmax(axis=2))


def tapped(*modules, layer="0"):
    """The name of the operation behind which a layer of a chain of modules and functions is read."""
    network = nn.Sequential(*(module if isinstance(module, nn.Module) else Calls(module) for module in modules))
    graph = trace(network.eval().requires_grad_(False), torch.randn(1, 3, 12, 12))
    tap = find_tap(graph, layer)
    return tap.follows, graph.operations[tap.operation].module


def normalised(x):
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-5)


NORMS = {
    "none": lambda x: x,
    "batch": nn.BatchNorm2d(8),
    "group": nn.GroupNorm(2, 8),
    "instance": nn.InstanceNorm2d(8),
    "frozen": lambda x: x * torch.linspace(-1, 1, 8).view(1, -1, 1, 1) + 0.5,
    "layer": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
    "by hand": normalised,
    "response": nn.LocalResponseNorm(5),
    "dropout": nn.Dropout(),
    "copy": lambda x: x.clone().contiguous(),
}


@pytest.mark.parametrize("norm", NORMS)
def test_a_layer_is_read_behind_the_activation_function_that_follows_any_norm(norm):
    conv = nn.Conv2d(3, 8, 3)
    assert tapped(conv, NORMS[norm], nn.ReLU(), nn.Conv2d(8, 8, 3)) == ("relu", "2")
    assert tapped(conv, NORMS[norm], nn.SiLU(), nn.Conv2d(8, 8, 3)) == ("silu", "2")


def test_an_activation_function_by_hand_is_read_at_its_end():
    conv, after = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    assert tapped(conv, lambda x: x * F.relu6(x + 3) / 6, after)[0] == "div"
    assert tapped(conv, lambda x: -(-x).clamp(max=0), after)[0] == "neg"
    assert tapped(conv, lambda x: F.relu(x) ** 2, after)[0] == "pow"
    assert tapped(conv, lambda x: F.relu(x) * 2, after)[0] == "relu"


def test_a_layer_is_read_before_another_path_joins():
    conv, after = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    assert tapped(conv, nn.BatchNorm2d(8), lambda x: F.relu(x + x.mean()), after)[0] == "batch_norm"
    assert tapped(conv, lambda x: torch.cat([F.relu(x), x], 1)[:, 4:12], after)[0] == "conv2d"
    assert tapped(conv, after, nn.ReLU())[0] == "conv2d"


def test_the_norm_of_a_block_that_follows_is_not_of_a_sum():
    def doubled(x):
        return x + x.mean((2, 3), keepdim=True)

    conv, after = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
    assert tapped(conv, doubled, nn.GroupNorm(2, 8), after, layer="1")[0] == "add"
    assert tapped(conv, nn.GroupNorm(2, 8), after)[0] == "group_norm"


def test_what_needs_the_usual_order_in_memory_gets_it():
    def rectified(x):
        return F.relu(x.view(len(x), -1)).view(x.shape)

    network = nn.Sequential(nn.Conv2d(3, 8, 3), Calls(rectified), nn.Conv2d(8, 8, 3)).eval().requires_grad_(False)
    pixels = torch.randn(2, 3, 12, 12).to(memory_format=torch.channels_last)
    graph = trace(network, pixels)
    assert graph.broken_off == ""
    assert graph.contiguous
    found = read_taps(network, pixels, {"x": find_tap(graph, "2")}, torch.clone)["x"]
    assert torch.equal(found, network(pixels.contiguous()))
