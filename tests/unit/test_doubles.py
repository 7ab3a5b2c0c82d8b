"""Networks in double precision: the copy, and what cannot be run so."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.conftest import plan_run, run_stages, write_tar
from tests.watched import Watched, watch
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.compute.doubles import check_double, copy_in_double
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.store import Store
from topnine.stages.work import find_stale


class Plain(nn.Module):
    """Constants of every kind: a parameter, a buffer, plain attributes, and those of the class."""

    of_class = torch.ones(3)
    lists = ([torch.ones(2), 1],)

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.register_buffer("scale", torch.ones(4, 1, 1))
        self.register_buffer("count", torch.ones(1, dtype=torch.int64))
        self.kernels = {"second": torch.ones(2, 4, 3, 3)}
        self.eval().requires_grad_(False)

    def forward(self, x):
        return F.conv2d(self.first(x * self.of_class[:, None, None]) * self.scale, self.kernels["second"]).relu()


def test_a_copy_has_all_constants_in_double_precision_and_the_module_stays_as_it_is():
    module = Plain()
    copied = copy_in_double(module)
    for each, dtype in ((module, torch.float32), (copied, torch.float64)):
        floating = [each.first.weight, each.first.bias, each.scale, each.kernels["second"], each.of_class]
        assert {tensor.dtype for tensor in [*floating, each.lists[0][0]]} == {dtype}
        assert each.count.dtype == torch.int64
    assert Plain.lists[0][0].dtype == torch.float32
    pixels = torch.randn(1, 3, 8, 8)
    assert torch.allclose(copied(pixels.double()).float(), module(pixels), atol=1e-4)


def test_devices_keep_the_copy_they_made_last_in_each_precision(monkeypatch):
    first, second = Plain(), Plain()
    cpu = open_device("cpu")
    assert cpu.place(first) is first
    assert cpu.place(first, "float64") is cpu.place(first, "float64") is not first
    with watch(monkeypatch):
        device = open_device("cpu")
        assert isinstance(device, Watched)
        double = device.place(first, "float64")
        assert device.place(first) is first
        assert device.place(first, "float64") is double
        assert double.first.weight.dtype == torch.float64
        device.place(second, "float64")
        assert device.copies == 3


class Casts(nn.Module):
    """Computes in float32 whatever it is given: openly, or only between two layers."""

    def __init__(self, hidden=False):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        self.hidden = hidden

    def forward(self, x):
        x = self.first(x)
        x = x.float().to(x.dtype) if self.hidden else x.float()
        return self.second(x).relu()


def casts_in_the_open():
    return Casts()


def casts_between():
    return Casts(hidden=True)


@pytest.fixture
def shard(some_photos, tmp_path):
    return write_tar(tmp_path / "a.tar", some_photos[:6])


@pytest.mark.parametrize("name", ["casts_in_the_open", "casts_between"])
def test_a_network_that_casts_inside_is_refused_by_name(planned, shard, name):
    plan = planned(
        network__name=f"{__name__}:{name}", network__weights="random", network__layers={"last": "second"},
        mine__layers="1", data__path=shard, decode__resize=32, decode__crop=32, mine__block=8,
        deconvolve__precision="float64",
    )  # fmt: skip
    with pytest.raises(InputError, match=rf'{name} cannot be run in float64 .*deconvolve.precision = "float32"'):
        check_double(plan.network, plan.layers, (32, 32, 3))
    if name == "casts_in_the_open":
        with pytest.raises(InputError, match=rf"{name} cannot be run in float64"):
            run_stages(plan, "index", "mine", "rank", "deconvolve")


def test_another_precision_has_only_deconvolve_done_again(tmp_path, shard):
    settings = {"data__path": shard, "mine__layers": "1 2", "mine__block": 8}
    plan = plan_run(tmp_path, **settings)
    run_stages(plan, "index", "mine", "rank", "statistics", "deconvolve")
    store = Store.open(plan.config.store)
    before = {layer.name: store.layer(layer.name).read("projection") for layer in plan.layers}
    again = plan_run(tmp_path, **settings, deconvolve__precision="float64")
    stale = {stage: find_stale(store, again.fingerprints, stage, again.layers) for stage in ("rank", "statistics")}
    assert stale == {"rank": [], "statistics": []}
    assert find_stale(store, again.fingerprints, "deconvolve", again.layers) == list(again.layers)
    check_double(again.network, again.layers, again.preparation.shape)
    run_stages(again, "deconvolve")
    for layer in again.layers:
        assert store.fingerprint("deconvolve", layer.name)["deconvolve.precision"] == "float64"
        assert store.layer(layer.name).count_ties() == 0
        now = store.layer(layer.name).read("projection")
        assert now.dtype == np.float32
        assert 0 < np.abs(now - before[layer.name]).max() < 0.1 * np.abs(now).max()
