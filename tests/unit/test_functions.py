"""What operations do, found by trying them: rectifiers, functions that bend, gates and normalisations of any form."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from topnine.pipeline.network.graph import Graph
from topnine.pipeline.network.tracing.recording import trace


class Calls(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def zero_negatives(x):
    x[x < 0] = 0
    return x


def half_in_place(x):
    x[:, :4].relu_()
    return x


def traced(function, padding=1) -> Graph:
    """The graph of a convolution, a function of its map, and another convolution."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=padding), Calls(function), nn.Conv2d(8, 8, 3))
    return trace(network.eval().requires_grad_(False), torch.randn(1, 3, 12, 12))


RECTIFIERS = {
    "relu": torch.relu,
    "relu_": torch.relu_,
    "method": lambda x: x.relu(),
    "clamp": lambda x: x.clamp(min=0),
    "clamp_": lambda x: x.clamp_(min=0),
    "clip": lambda x: x.clip(0),
    "threshold": nn.Threshold(0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "fmax": lambda x: torch.fmax(torch.tensor(0.0), x),
    "mask": lambda x: x * (x > 0),
    "float mask": lambda x: x * (x >= 0).float(),
    "mask in place": lambda x: x.mul_(x > 0),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
    "assignment": zero_negatives,
    "half of x and |x|": lambda x: (x + x.abs()) / 2,
    "difference": lambda x: x - x.clamp(max=0),
    "minimum": lambda x: -torch.minimum(-x, torch.tensor(0.0)),
    "heaviside": lambda x: torch.heaviside(x, torch.zeros(())) * x,
    "stack": lambda x: torch.stack([x, torch.zeros_like(x)]).max(0).values,
    "flattened": lambda x: F.relu(x.flatten(1)).view_as(x),
    "scaled": lambda x: F.relu(x) * 1.7,
    "shifted": lambda x: F.relu(2 * x - 1),
}


@pytest.mark.parametrize("form", RECTIFIERS)
def test_a_rectifier_is_one_in_any_form(form):
    graph = traced(RECTIFIERS[form])
    assert len(graph.rectifiers) >= 1
    assert graph.rectifiers[-1].ceiling is None
    assert graph.bends == ()


@pytest.mark.parametrize(
    ("function", "ceiling"),
    [(F.relu6, 6.0), (lambda x: F.hardtanh(x, 0, 4), 4.0), (lambda x: x.clamp(0, 2.5), 2.5)],
)
def test_a_rectifier_may_have_a_ceiling(function, ceiling):
    (rectifier,) = traced(function).rectifiers
    assert rectifier.ceiling == ceiling


def test_a_part_of_a_map_may_be_rectified_in_place():
    graph = traced(half_in_place)
    (rectifier,) = graph.rectifiers
    assert rectifier.in_place
    assert rectifier.direct
    assert graph.operations[-1].inputs == (rectifier.operation + 1,)  # the map's other name is known to have changed


BENDING = {
    "silu": F.silu,
    "gelu": F.gelu,
    "tanh approximation": lambda x: F.gelu(x, approximate="tanh"),
    "leaky": F.leaky_relu,
    "nearly linear": lambda x: F.leaky_relu(x, 0.99),
    "elu": F.elu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "prelu": nn.PReLU(8),
    "square": lambda x: x**2,
    "abs": torch.abs,
    "sin": torch.sin,
    "round": torch.round,
    "silu by hand": lambda x: x * torch.sigmoid(x),
    "mish by hand": lambda x: x * torch.tanh(F.softplus(x)),
    "hardswish by hand": lambda x: x * F.relu6(x + 3) / 6,
    "above a threshold": nn.Threshold(0.1, 0.0),
    "soft": lambda x: F.relu(x) + 0.1 * torch.tanh(x),
    "behind a norm": lambda x: F.silu(F.group_norm(x, 2)),
}


@pytest.mark.parametrize("form", BENDING)
def test_a_function_that_bends_and_is_no_rectifier_is_found(form):
    graph = traced(BENDING[form])
    assert len(graph.bends) == 1


def test_a_function_that_bends_is_named_by_its_operations():
    assert [bend.name for bend in traced(F.silu).bends] == ["silu"]
    assert [bend.name for bend in traced(lambda x: x * torch.sigmoid(x)).bends] == ["sigmoid and mul"]


def by_hand(x):
    centred = x - x.mean(1, keepdim=True)
    return centred / torch.sqrt(centred.pow(2).mean(1, keepdim=True) + 1e-5)


PASSING = {
    "squeeze and excitation": lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)),
    "hard gate": lambda x: x * F.hardsigmoid(x.mean((2, 3), keepdim=True)),
    "spatial attention": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "gated linear unit": lambda x: torch.cat([x[:, :4] * torch.sigmoid(x[:, 4:])] * 2, 1),
    "softmax": lambda x: x * x.flatten(2).softmax(-1).view_as(x),
    "layer norm by hand": by_hand,
    "root mean square": lambda x: x * torch.rsqrt((x * x).mean(1, keepdim=True) + 1e-6),
    "response norm by hand": lambda x: x / (1 + F.avg_pool2d(x**2, 3, 1, 1)) ** 0.75,
    "group norm": lambda x: F.group_norm(x, 2),
    "response norm": lambda x: F.local_response_norm(x, 5),
}


@pytest.mark.parametrize("form", PASSING)
def test_gates_and_normalisations_pass_and_are_named(form):
    graph = traced(PASSING[form])
    assert graph.bends == ()
    assert graph.rectifiers == ()
    assert graph.passing


def test_what_is_affine_neither_rectifies_nor_bends_nor_is_named():
    for function in (nn.BatchNorm2d(8).eval(), lambda x: 2 * x + 1, torch.clone, nn.Dropout().eval(), nn.AvgPool2d(2)):
        graph = traced(function)
        assert (graph.rectifiers, graph.bends, graph.passing) == ((), (), {})


def test_a_rectifier_in_a_branch_beside_its_input_is_found():
    graph = traced(lambda x: torch.cat([F.relu(x), F.relu(-x)], 1)[:, 4:12])
    assert len(graph.rectifiers) == 2


def test_constants_that_are_computed_from_no_pixel_are_no_functions_of_the_map():
    graph = traced(lambda x: x + torch.tanh(torch.linspace(-1, 1, 12)))
    assert graph.bends == ()


def test_positions_are_kept_by_what_it_does():
    def kept(function):
        return traced(function).operations[1].keeps

    assert kept(torch.relu) == (-3, -2, -1)
    assert kept(lambda x: F.layer_norm(x, (12,))) == (-3, -2)
    assert kept(lambda x: torch.roll(x, 2, 2)) == (-3, -1)
    assert kept(lambda x: x.flip(3)) == (-3, -2)
    assert kept(lambda x: x.mean((2, 3), keepdim=True)) == (-3,)
    assert kept(lambda x: F.group_norm(x, 2)) == ()


LIBRARY = torch.library.Library("topnine_fused", "FRAGMENT")
LIBRARY.define("rectified(Tensor x, Tensor weight) -> Tensor")
LIBRARY.define("convolved(Tensor x, Tensor weight) -> Tensor")
LIBRARY.impl("rectified", lambda x, weight: F.conv2d(x, weight).relu(), "CompositeImplicitAutograd")
LIBRARY.impl("convolved", F.conv2d, "CompositeImplicitAutograd")


def test_an_extensions_operation_that_is_not_affine_is_unseen():
    weight = torch.randn(8, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    fused = traced(lambda x: torch.ops.topnine_fused.rectified(x, weight))
    assert [name for _, name in fused.unseen] == ["rectified"]
    assert "rectified" not in fused.passing.values()
    plain = traced(lambda x: torch.ops.topnine_fused.convolved(x, weight))
    assert plain.unseen == ()


def test_an_operation_that_takes_no_other_numbers_is_unseen():
    def checked(x):
        y = torch.linalg.cholesky(x.flatten(2) @ x.flatten(2).transpose(1, 2) + 10 * torch.eye(8))
        return x + y.sum()

    assert [name for _, name in traced(checked).unseen] == ["linalg_cholesky"]


def test_an_input_counts_although_neither_its_size_nor_its_sign_does():
    graph = traced(lambda x: x + torch.corrcoef(x[0].flatten(1)).sum())
    names = [operation.name for operation in graph.operations]
    assert graph.operations[names.index("corrcoef")].inputs


def test_results_of_several_tensors_are_named_too():
    assert "var_mean" in traced(lambda x: x - torch.var_mean(x, 1, keepdim=True)[0]).passing.values()
