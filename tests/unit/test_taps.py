import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from pipeline.errors import InputError
from pipeline.graph import trace
from pipeline.layers import convolutions, find_layers
from pipeline.networks import ARCHITECTURES, trace_shapes
from pipeline.taps import find_tap, read_taps, spatial_maximum


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
