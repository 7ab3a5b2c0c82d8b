"""Near-ties of pooling regions: found where the signal goes through them, broken in double precision."""

from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from topnine.pipeline.compute.deconvnet import Rules, project
from topnine.pipeline.compute.pooling import POOLINGS, Ties, round_to_36_bits
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.tracing.recording import trace

EPS = 2.0**-23
MAXIMA = torch.tensor([[0.9, 0.3], [0.6, 0.5]])


def maps(near: float, second: float) -> torch.Tensor:
    """Four regions of 2×2 values; in the first two are the largest, and one of them is as much smaller as is said."""
    pixels = torch.zeros(1, 1, 4, 4)
    pixels[0, 0, ::2, ::2] = MAXIMA
    pixels[0, 0, 1, 1] = MAXIMA[0, 0] * (1 - near)
    pixels[0, 0, 3, 3] = MAXIMA[1, 1] * (1 - second)
    return pixels


class Functional(nn.Module):
    """A pooling in some form, and a convolution over its four regions."""

    def __init__(self, pool, weight):
        super().__init__()
        self.pool = pool
        self.last = nn.Conv2d(1, 1, 2, bias=False)
        self.last.weight.data = weight.float()[None, None]

    def forward(self, x):
        pooled = self.pool(x)
        return self.last(pooled if isinstance(pooled, torch.Tensor) else pooled[0]).relu()


FORMS = {
    "module": nn.MaxPool2d(2),
    "named": lambda x: F.max_pool2d(input=x, kernel_size=2),
    "indices": lambda x: F.max_pool2d(x, 2, return_indices=True),
    "torch": lambda x: torch.max_pool2d(x, 2),
    "ceil": lambda x: F.max_pool2d(x[:, :, :, :3], 2, ceil_mode=True),
    "adaptive": nn.AdaptiveMaxPool2d(2),
}


def hangs(pixels, pool=FORMS["module"], weight=None, rules=None, breaks=False):
    module = Functional(pool, torch.ones(2, 2) if weight is None else weight).to(pixels.dtype).requires_grad_(False)
    (layer,) = find_layers(trace(module, pixels), {"last": "last"}, "last")
    ties, zero = Ties(breaks), torch.zeros(len(pixels), dtype=torch.long)
    activation, projection = project(module, layer.tap, pixels, zero, zero, zero, rules or Rules(), ties)
    plain = project(module, layer.tap, pixels, zero, zero, zero, rules or Rules())
    assert torch.equal(projection, plain[1]) or breaks
    assert torch.equal(activation, plain[0]) or breaks
    return ties.hits(len(pixels), pixels.device).tolist(), projection


@pytest.mark.parametrize("pooling", ["sum", "overwrite"])
@pytest.mark.parametrize("form", FORMS)
def test_a_projection_hangs_on_two_maxima_that_are_nearer_than_float32_can_tell(form, pooling):
    rules = Rules(pooling=pooling)
    pixels = torch.cat([maps(near, 0.5) for near in (EPS, 1e-3, 0.0)])
    assert hangs(pixels, FORMS[form], rules=rules)[0] == [True, False, True]


def test_it_does_not_where_no_signal_comes_back_through_the_region_or_all_of_it_is_zero():
    without_first = torch.tensor([[0.0, 1.0], [1.0, 1.0]])
    assert hangs(maps(EPS, 0.5), weight=without_first)[0] == [False]
    assert hangs(maps(0.5, EPS), weight=without_first)[0] == [True]
    pixels = maps(0.5, 0.5)
    pixels[0, 0, :2, 2:] = 0
    assert hangs(pixels)[0] == [False]


def test_in_double_precision_the_first_of_values_that_agree_is_the_maximum_and_nothing_hangs():
    pixels = maps(0, 0.5).double()
    for last in (1 - 1e-14, 1, 1 + 1e-14):
        pixels[0, 0, 1, 1] = pixels[0, 0, 0, 0] * last
        found, projection = hangs(pixels, breaks=True)
        assert found == [False]
        assert projection[0, 0, 0, 0] > 0
        assert projection[0, 0, 1, 1] == 0
    pixels[0, 0, 1, 1] = pixels[0, 0, 0, 0] * (1 + 1e-9)
    assert hangs(pixels, breaks=True)[1][0, 0, 0, 0] == 0


def test_doubles_are_rounded_to_36_bits():
    values = torch.from_numpy(np.random.default_rng(0).normal(size=1000)) * 10.0 ** torch.arange(-20, 20).repeat(25)
    rounded = round_to_36_bits(values)
    assert ((rounded - values).abs() <= 2.0**-36 * values.abs()).all()
    mantissa = torch.frexp(rounded).mantissa * 2**36
    assert torch.equal(mantissa, mantissa.round())


@pytest.mark.parametrize("kernel", [2, 3, (3, 2)])
@pytest.mark.parametrize("stride", [None, 1, 2, (2, 3)])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("ceil_mode", [False, True])
def test_the_two_largest_are_those_of_every_region(kernel, stride, padding, dilation, ceil_mode):
    values = torch.randn(2, 3, 11, 12, generator=torch.Generator().manual_seed(0))
    options = (kernel, stride, padding, dilation, ceil_mode)
    pooled = F.max_pool2d(values, *options)
    first, second = POOLINGS["max_pool2d"].two_largest(values, *options, size=pooled.shape[2:])
    assert torch.equal(first, pooled)
    numbers = torch.arange(values[0, 0].numel(), dtype=torch.float32).view(1, 1, 11, 12)
    for row, column in np.ndindex(*pooled.shape[2:]):
        region = [numbers.flatten() == n for n in region_of(row, column, numbers, *options)]
        inside = values.flatten(2)[:, :, torch.stack(region).any(0)]
        expected = inside.topk(2).values[..., 1] if inside.shape[2] > 1 else torch.full((2, 3), -torch.inf)
        assert torch.equal(second[:, :, row, column], expected)


def region_of(row, column, numbers, kernel, stride, padding, dilation, ceil_mode):
    """The numbers of the positions in a region."""
    kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
    stride = kernel if stride is None else (stride, stride) if isinstance(stride, int) else stride
    for dy, dx in np.ndindex(*kernel):
        y, x = row * stride[0] - padding + dy * dilation, column * stride[1] - padding + dx * dilation
        if 0 <= y < numbers.shape[2] and 0 <= x < numbers.shape[3]:
            yield numbers[0, 0, y, x]


def test_regions_of_an_adaptive_pooling_may_overlap():
    values = torch.randn(2, 3, 7, 5)
    first, second = POOLINGS["adaptive_max_pool2d"].two_largest(values, (3, 2), size=(3, 2))
    assert torch.equal(first, F.adaptive_max_pool2d(values, (3, 2)))
    assert torch.equal(second[:, :, 0, 0], values[:, :, :3, :3].flatten(2).topk(2).values[..., 1])
    alone = partial(POOLINGS["adaptive_max_pool2d"].two_largest, values, (7, 5), size=(7, 5))
    assert torch.isinf(alone()[1]).all()


def test_parts_of_images_that_are_pooled_as_images_may_be_of_any_hit():
    def in_halves(x):
        halves = x.unflatten(2, (2, 2)).transpose(1, 2).flatten(0, 1)
        return F.max_pool2d(halves, 2).unflatten(0, (-1, 2)).transpose(1, 2).flatten(2, 3)

    pixels = torch.cat([maps(EPS, 0.5), maps(0.5, 0.5)])
    assert hangs(pixels)[0] == [True, False]
    assert hangs(pixels, in_halves)[0] == [True, True]
