"""The probe: networks that are not what is believed of them are refused, or completed with what is true."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.unit.test_functions import Calls
from topnine.pipeline.compute.probing.probe import probe, probe_pixels
from topnine.pipeline.compute.probing.references import find_difference, reference_images
from topnine.pipeline.errors import InputError, WorkError
from topnine.pipeline.network.layers import find_layers
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.tracing.recording import record

SIDE = 32
SHAPE = (SIDE, SIDE, 3)
GREEN = ARCHITECTURES["alexnet"]


def probed(*modules, layer="last"):
    torch.manual_seed(0)
    network = nn.Sequential(*(module if isinstance(module, nn.Module) else Calls(module) for module in modules))
    network = network.eval().requires_grad_(False)
    pixels = probe_pixels(reference_images(SHAPE)[:1], GREEN, SHAPE)
    recording = record(network, pixels[:1])
    layers = find_layers(recording.graph, {"last": str(len(modules) - 1)}, layer)
    return probe(network, recording, layers, pixels)[0]


def conv(inputs=3, outputs=8, size=3, **options):
    torch.manual_seed(inputs + outputs)
    return nn.Conv2d(inputs, outputs, size, **{"padding": size // 2, **options})


def test_a_plain_network_is_projected_on_crops_of_the_graphs_field():
    layer = probed(conv(), nn.ReLU(), nn.MaxPool2d(2), conv(8), nn.ReLU())
    assert layer.field.source == "graph"
    assert layer.field.attributes()["size"] == 8
    assert not layer.whole_image
    assert layer.attributes()["probe"]["projected_on"] == "crop"


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (F.dropout, "something else each time .* from dropout on"),
        (lambda x: x + 0.1 * torch.randn_like(x), "random numbers"),
        (nn.BatchNorm2d(8, track_running_stats=False), "alone than in a batch of 3, from batch_norm on in module '1'"),
        (lambda x: x - x.mean(0, keepdim=True), "depends on the other images"),
        (lambda x: x if x.mean() > 0 else -x, "takes a number out of a tensor .bool"),
        (lambda x: x * x.max().item(), "takes a number out of a tensor .item"),
        (lambda x: torch.stack([F.relu(image) for image in x]), "a batch of 3"),
        (lambda x: torch.from_numpy(x.detach().numpy() * 2), "takes a number out of a tensor .numpy"),
        (lambda x: x / 0.0, "not finite"),
    ],
)
def test_what_depends_on_chance_or_on_other_images_is_refused(module, words):
    with pytest.raises(InputError, match=words):
        probed(conv(), module, conv(8), nn.ReLU())


def test_a_look_whether_all_is_finite_hinders_nothing():
    def looked_at(x):
        assert not torch.isnan(x).any()
        return x

    assert probed(conv(), looked_at, nn.ReLU()).field.source == "graph"


def coordinates(x):
    return torch.cat([x, torch.linspace(-1, 1, x.shape[-1]).expand(len(x), 1, *x.shape[2:])], 1)


@pytest.mark.parametrize(
    "modules",
    [
        (conv(padding_mode="circular"), nn.ReLU()),
        (coordinates, conv(4), nn.ReLU()),
        (conv(), lambda x: x * torch.sigmoid(x.mean((2, 3), keepdim=True)), nn.ReLU()),
        (conv(), lambda x: F.layer_norm(x, x.shape[1:]), nn.ReLU()),
        (lambda x: F.pad(x, (0, -x.shape[3] % 32, 0, -x.shape[2] % 32), value=1.0), conv(stride=2, size=5), nn.ReLU()),
    ],
    ids=["circular", "coordinates", "global gate", "norm over the map", "padded to a multiple"],
)
def test_where_a_crop_does_not_give_what_the_image_gives_whole_images_are_projected(modules):
    assert probed(*modules).whole_image


@pytest.mark.parametrize(
    ("modules", "source", "size"),
    [
        ((nn.PixelUnshuffle(2), conv(12), nn.ReLU()), "measured", 6),
        ((conv(stride=4), nn.Upsample(scale_factor=2), conv(8), nn.ReLU()), "bound", 9),
        ((conv(), lambda x: torch.roll(x, 2, 2), nn.ReLU()), "input", SIDE),
        ((conv(), nn.GroupNorm(2, 8), nn.ReLU()), "input", SIDE),
        ((conv(), lambda x: x[..., torch.arange(SIDE - 1, -1, -1)], nn.ReLU()), "measured", 3),
    ],
    ids=["pixel unshuffle", "upsampled", "rolled", "group norm", "mirrored"],
)
def test_fields_are_measured_where_the_graph_does_not_tell_them(modules, source, size):
    layer = probed(*modules)
    assert (layer.field.source, layer.field.y.size) == (source, size)
    assert layer.whole_image


def to_tokens(x):
    return x.flatten(2).transpose(1, 2)


def with_class_token(x):
    return torch.cat([torch.zeros(len(x), 1, x.shape[2]), x], 1)


@pytest.mark.parametrize(
    ("modules", "order", "grid"),
    [
        ((conv(), lambda x: x.permute(0, 2, 3, 1), nn.Linear(8, 6), nn.ReLU()), (0, 3, 1, 2), None),
        ((conv(), lambda x: x.transpose(2, 3), nn.ReLU()), (0, 1, 3, 2), None),
        ((conv(stride=4), to_tokens, nn.Linear(8, 6), nn.ReLU()), (0, 3, 1, 2), (0, 8, 8)),
        ((conv(stride=4), to_tokens, with_class_token, nn.Linear(8, 6), nn.ReLU()), (0, 3, 1, 2), (1, 8, 8)),
        ((conv(stride=4), lambda x: x.flatten(2), nn.ReLU()), (0, 1, 2, 3), (0, 8, 8)),
    ],
    ids=["channels last", "axes swapped", "tokens", "class token", "flat map"],
)
def test_filters_rows_and_columns_are_found(modules, order, grid):
    layer = probed(*modules)
    assert (layer.tap.layout.order, layer.tap.layout.grid) == (order, grid)
    assert layer.tap.shape[0] in (6, 8)


def test_what_has_no_place_in_the_image_is_no_map():
    torch.manual_seed(0)
    mixed = torch.randn(SIDE * SIDE, SIDE * SIDE)
    with pytest.raises(InputError, match="not a spatial map"):
        probed(conv(outputs=SIDE), lambda x: (x.flatten(2) @ mixed).view_as(x), nn.ReLU())


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clamp(min=0)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def test_what_the_trace_does_not_see_is_named():
    layer = probed(conv(), Straight.apply, conv(8), nn.ReLU())
    assert layer.unseen == ("Straight",)
    assert layer.tap.rectifiers[-1].name == "relu"
    assert len(layer.tap.rectifiers) == 1


def changed_behind_its_back(x):
    x.data.clamp_(min=0)
    return x


def test_what_no_gradient_comes_back_through_can_be_mined_but_not_projected():
    layer = probed(conv(), changed_behind_its_back, conv(8), nn.ReLU())
    assert "in place without a derivative" in layer.unprojectable
    assert layer.field.source == "input"


def test_a_layer_is_restored_from_what_a_store_recorded_of_it():
    layer = probed(conv(stride=4), to_tokens, with_class_token, nn.Linear(8, 6), nn.ReLU())
    plain = replace(layer, tap=replace(layer.tap, layout=type(layer.tap.layout)()), whole_image=False)
    assert plain.restored(layer.attributes()) == layer


def test_a_network_is_known_again_by_what_it_gives_on_a_fixed_input():
    assert np.array_equal(reference_images((20, 30, 3)), reference_images((20, 30, 3)))
    recorded = {"a": tuple(np.random.default_rng(0).random(200).tolist())}
    assert find_difference(recorded, recorded, "float32") == ""
    changed = {"a": (recorded["a"][0] + 0.001, *recorded["a"][1:])}
    assert "layer a gives" in find_difference(recorded, changed, "float32")
    assert find_difference(recorded, changed, "float16") == ""
    assert "other filters" in find_difference(recorded, {"a": (1.0,)}, "float32")


def test_a_crop_is_held_against_the_whole_image_where_the_image_is_of_one_colour_too():
    torch.manual_seed(0)
    network = nn.Sequential(conv(padding_mode="circular"), nn.ReLU()).eval().requires_grad_(False)
    pixels = torch.full((3, 3, SIDE, SIDE), 0.5)
    pixels[:, :, 8:24, 8:24] = torch.randn(3, 3, 16, 16)
    recording = record(network, pixels[:1])
    (layer,) = probe(network, recording, find_layers(recording.graph, {}, "0"), pixels)
    assert layer.whole_image


def test_pixels_of_every_channel_are_changed_outside_of_a_field():
    reach = conv(size=1, padding=0)
    reach.weight.data[:, [0, 2]] = 0  # it sees green alone

    def shifted(x):  # by a way that no gradient shows
        return x + torch.roll(x, SIDE // 2, 2).detach()

    layer = probed(reach, shifted, nn.ReLU())
    assert layer.field.source == "input"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: 9 bytes")])
def test_memory_that_runs_out_is_no_property_of_a_network(error):
    calls = []

    def runs_out(x):
        calls.append(len(x))
        if len(calls) > 4 and x.requires_grad:
            raise error
        return x

    with pytest.raises(WorkError, match="memory ran out"):
        probed(conv(), runs_out, nn.ReLU())
