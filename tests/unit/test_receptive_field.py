import pytest

from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.loading import trace_shapes
from topnine.pipeline.network.receptive_field import Axis, ReceptiveField
from topnine.pipeline.network.registry import ARCHITECTURES

KNOWN = {
    "alexnet": [11, 51, 99, 131, 163],
    "zfnet": [7, 27, 75, 107, 139],
    "squeezenet1_0": [7, 35, 75, 107, 155],
    "tiny_zfnet": [7, 27, 51, 67, 83],
    "vgg16": [5, 14, 40, 92, 196],
    "resnet18": [7, 43, 99, 211, 435],
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_sizes(name):
    layers = find_layers(trace_shapes(name, 224, 224), ARCHITECTURES[name].layers, "all")
    assert [layer.field.attributes()["size"] for layer in layers] == KNOWN[name]


def test_expand_halves_of_squeezenet_see_less_than_the_module():
    graph = trace_shapes("squeezenet1_0", 224, 224)
    numbered = ARCHITECTURES["squeezenet1_0"].layers
    halves = find_layers(graph, numbered, "features.5.expand1x1 features.8.expand1x1")
    assert [layer.field.y.size for layer in halves] == [27, 59]


def test_windows_are_shifted_back_inside():
    axis = Axis(size=11, stride=4, offset=-2)
    field = ReceptiveField(axis, axis)
    assert field.window(0, 0, 224, 224) == (0, 0, 11, 11)
    assert field.window(10, 20, 224, 224) == (38, 78, 49, 89)
    assert field.window(54, 54, 224, 224) == (213, 213, 224, 224)


def test_a_field_larger_than_the_input_is_the_input():
    axis = Axis(size=435, stride=32, offset=-217)
    assert ReceptiveField(axis, axis).window(3, 0, 224, 200) == (0, 0, 224, 200)


def test_attributes_are_a_pair_only_where_the_axes_differ():
    field = ReceptiveField(Axis(7, 2, -3), Axis(9, 2, -4))
    assert field.attributes() == {"size": [7, 9], "stride": 2, "offset": [-3, -4], "source": "graph"}
