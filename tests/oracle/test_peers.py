"""Projections against the deconvnets of captum and zennit."""

import copy

import pytest
import torch
from torch import nn

from topnine.pipeline.compute.deconvnet import Rules, project
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.tracing.recording import trace

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers' own making

ENDS = {"alexnet": {"conv1": 2, "conv3": 8, "conv5": 12}, "vgg16": {"conv1_2": 4, "conv3_3": 16, "conv5_3": 30}}


@pytest.fixture(params=[(name, layer) for name, layers in ENDS.items() for layer in layers], ids="-".join)
def case(request):
    """The convolutions up to a layer, pixels, the strongest unit, its activation, and what is projected here."""
    name, layer = request.param
    network = load_network(NetworkConfig(name=name, weights="random"))
    module = copy.deepcopy(network.module).double()
    torch.manual_seed(0)
    pixels = torch.randn(1, 3, 128, 128, dtype=torch.float64)
    (found,) = find_layers(trace(module, pixels), network.architecture.layers, layer)
    until = module.features[: ENDS[name][layer]]
    maps = until(pixels)
    unit = tuple(int(i) for i in torch.unravel_index(maps[0].argmax(), maps[0].shape))
    activation, projection = project(module, found.tap, pixels, *(torch.tensor([i]) for i in unit), Rules())
    for part in until.modules():
        if isinstance(part, nn.ReLU):
            part.inplace = False  # both peers hook it
    return until, pixels, unit, activation, projection


def test_captum_gives_the_same(case):
    from captum.attr import NeuronDeconvolution

    until, pixels, unit, activation, projection = case
    found = NeuronDeconvolution(until, until[-1]).attribute(pixels, unit)
    assert (found * activation - projection).abs().max() <= 1e-6 * projection.abs().max()


def test_zennit_gives_the_same(case):
    from zennit.attribution import Gradient
    from zennit.composites import DeconvNet

    until, pixels, unit, activation, projection = case

    def seed(maps):
        one = torch.zeros_like(maps)
        one[(0, *unit)] = activation[0]
        return one

    with Gradient(until, composite=DeconvNet()) as attributor:
        _, found = attributor(pixels.clone().requires_grad_(True), seed)
    assert (found - projection).abs().max() <= 1e-6 * projection.abs().max()
