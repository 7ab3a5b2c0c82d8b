"""Every torchvision family, and a network of one's own, from the images to the sheets."""

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import run_stages, write_tar
from tests.families import FAMILIES, SMOOTH
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.store import Store

OWN = """
import torch.nn.functional as F
from torch import nn


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, stride=2)
        self.second = nn.Conv2d(8, 12, 3, padding=1)

    def forward(self, x):
        x = F.relu_(self.first(x)).clamp(max=4)
        x = F.max_pool2d(x, 2)
        return self.second(x).clamp_(min=0).mean((2, 3))


def network():
    return Own()


def no_network():
    return 3
"""


@pytest.fixture(scope="module")
def shard(some_photos, tmp_path_factory) -> Path:
    return write_tar(tmp_path_factory.mktemp("data") / "a.tar", some_photos[:12])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_mined_ranked_deconvolved_and_drawn(planned, shard, name):
    rule = "gradient" if name in SMOOTH else "deconvnet"
    settings = {
        "network__name": name, "network__weights": "random", "data__path": shard, "decode__resize": 80,
        "decode__crop": 80, "mine__block": 8, "mine__batch": 4, "deconvolve__rule": rule,
    }  # fmt: skip
    every = planned("configs/imagenet-resnet18.toml", mine__layers="all", **settings)
    run_stages(every, "index", "mine", "rank")
    store = Store.open(every.config.store)
    assert all((store.layer(layer.name).read_ranking().image[:, 0] >= 0).any() for layer in every.layers)
    second = planned("configs/imagenet-resnet18.toml", mine__layers="2", **settings)
    run_stages(second, "deconvolve", "tile")
    (layer,) = second.layers
    live = np.nonzero(store.layer(layer.name).read_ranking().image[:, 0] >= 0)[0]
    projection = store.layer(layer.name).read("projection", live)
    assert np.isfinite(projection).all()
    assert (np.abs(projection[:, 0]).max(axis=(1, 2, 3)) > 0).mean() > 0.9  # the signal may be clamped away
    assert (second.folder / "figures/layer2.png").is_file()


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "mynets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield {"network__name": "mynets:network", "network__weights": "random"}
    sys.modules.pop("mynets", None)


def test_a_network_of_ones_own_is_named_by_its_function_and_its_layers_by_module(planned, shard, own):
    plan = planned(data__path=shard, mine__layers="first second", **own)
    run_stages(plan, "index", "mine", "rank", "deconvolve", "tile")
    store = Store.open(plan.config.store)
    assert store.layers == ["first", "second"]
    assert store.layer("second").attributes["receptive_field"]["size"] == 15
    assert (plan.folder / "figures/layersecond.png").is_file()


def test_its_layers_can_be_numbered_and_its_normalisation_named(planned, shard, own):
    settings = {"network__layers": {"a": "first", "b": "second"}, "network__mean": [0, 0, 0], "network__std": [1, 1, 1]}
    plan = planned(data__path=shard, mine__layers="2", **own, **settings)
    assert [(layer.name, layer.module, layer.number) for layer in plan.layers] == [("b", "second", 2)]
    assert plan.preprocessing()["mean"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mynets:nothing", "has no function"),
        ("nowhere:network", "cannot be imported"),
        ("mynets:no_network", "gives a int, not a torch.nn.Module"),
        ("alexnett", "alexnet"),
    ],
)
def test_a_network_that_is_none_is_a_sentence(planned, shard, own, name, sentence):
    with pytest.raises(InputError, match=sentence):
        planned(data__path=shard, **{**own, "network__name": name})


def test_a_smooth_activation_has_no_deconvnet_and_the_gradient_is_offered(planned, shard):
    settings = {"network__name": "efficientnet_b0", "network__weights": "random", "data__path": shard}
    plan = planned(mine__layers="features.2", **settings)
    with pytest.raises(InputError, match=r'silu, no rectifier: .* Use deconvolve.rule = "gradient"'):
        plan.check_rule()
    planned(mine__layers="features.2", deconvolve__rule="gradient", **settings).check_rule()
