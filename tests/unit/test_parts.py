"""What operations do with parts of tensors, repeated tensors and offsets, and with constants that a network keeps."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.unit.test_functions import traced
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.receptive_field import map_geometry
from topnine.pipeline.network.taps import read_taps
from topnine.pipeline.network.tracing.recording import record


def on_views(function):
    """Change one view of a map in place, then read another that was made before."""

    def apply(x):
        a, b = x[:, :4], x[:, 4:]
        a.relu_()
        return torch.cat([a, function(b)], 1)

    return apply


SPLITS = {
    "chunk": lambda x: x.chunk(2, 1),
    "split": lambda x: x.split(4, 1),
    "uneven split": lambda x: x.split([3, 5], 1),
    "unbind": lambda x: x.unflatten(1, (2, 4)).unbind(1),
}


@pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)
@pytest.mark.parametrize("part", [0, 1])
def test_a_part_of_several_is_rectified_or_bent_like_a_map(split, part):
    def others(x, function):
        """Apply a function to one part; the other is weighted, so that the two are no function of one map."""
        parts = list(split(x))
        parts[part] = function(parts[part])
        parts[1 - part] = F.avg_pool2d(parts[1 - part], 3, 1, 1)
        return torch.cat(parts, 1)[:, :8]

    rectified = traced(lambda x: others(x, F.relu))
    assert [rectifier.name for rectifier in rectified.rectifiers] == ["relu"]
    assert rectified.bends == ()
    assert [bend.name for bend in traced(lambda x: others(x, F.silu)).bends] == ["silu"]


def test_a_gate_of_two_parts_bends():
    graph = traced(lambda x: torch.cat([F.silu(x.chunk(2, 1)[0]) * x.chunk(2, 1)[1]] * 2, 1))
    assert [bend.name for bend in graph.bends] == ["silu"]


def test_several_operations_that_rectify_a_later_part_have_no_deconvnet():
    def masked(x):
        a, b = x.chunk(2, 1)
        return torch.cat([F.avg_pool2d(a, 3, 1, 1), b * (b > 0)], 1)

    graph = traced(masked)
    assert graph.rectifiers == ()
    assert [bend.value for bend in graph.bends]


def test_a_view_that_was_made_before_another_was_changed_is_seen():
    assert len(traced(on_views(F.relu)).rectifiers) == 2
    assert any("silu" in bend.name for bend in traced(on_views(F.silu)).bends)


def test_a_normalisation_whose_offset_cancels_the_rest_is_affine():
    norm = nn.BatchNorm2d(8).eval()
    with torch.no_grad():
        for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
            tensor.uniform_(0.5, 1.5, generator=torch.Generator().manual_seed(1))
    assert traced(nn.Sequential(nn.ReLU(), *[norm] * 3)).bends == ()


@pytest.mark.parametrize("function", [lambda x: 1 / x, lambda x: 1 / (x * x + 1e-9), torch.abs])
def test_a_function_with_a_pole_or_a_spike_at_zero_bends(function):
    assert traced(function).bends


def test_the_dimensions_of_a_map_are_known_behind_a_gate():
    graph = traced(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid())
    geometry = map_geometry(graph, len(graph.operations) - 1)
    assert geometry.dimensions == (-2, -1)
    assert geometry.field.source == "input"


class Keeping(nn.Module):
    """A network that computes a constant in its first pass and keeps it."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.bias = nn.Parameter(torch.rand(2))
        self.kept = None

    def forward(self, x):
        if self.kept is None:
            self.kept = (self.bias[torch.tensor([0, 1, 1, 0])] * 2).reshape(1, 4, 1, 1)
        return self.b(self.a(x).relu() + self.kept).relu()


def test_what_a_network_computes_once_is_computed_before_its_operations_are_counted():
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 12, 12)
    network = Keeping().eval().requires_grad_(False)
    graph = record(network, pixels).graph
    assert graph.settles
    (layer,) = find_layers(graph, {}, "b")
    fresh = Keeping().eval().requires_grad_(False)  # as a worker has it
    fresh.load_state_dict(network.state_dict())
    with torch.inference_mode():
        found = read_taps(fresh, pixels, {"b": layer.tap}, torch.clone)["b"]
    assert torch.equal(found, network(pixels))
    assert not fresh.kept.is_inference()
    assert not record(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), pixels).graph.settles
