"""Networks of users from the command line: each is mined and drawn, or refused in one sentence with exit code 2.

No traceback, and nothing is written where a network is refused.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.store.analysis.run import open_run
from topnine.pipeline.store.store import Store
from topnine.stages.tools.export import export
from topnine.stages.tools.status import status
from topnine.stages.tools.verify import verify

NETWORKS = """
import os
from collections import OrderedDict

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

def plain(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU())
def half(): return plain().half()
def bfloat16(): return plain().bfloat16()
def lazy(): return nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConv2d(4, 3), nn.ReLU())
def scripted(): return torch.jit.script(plain())
def parallel(): return nn.DataParallel(plain())
def averaged(): return AveragedModel(plain())
def compiled(): return torch.compile(plain(), backend="eager")
def raising(): raise OSError("the weights are gone\\nmore")
def slashes(): return nn.Sequential(OrderedDict([("conv1/7x7", nn.Conv2d(3, 8, 3)), ("relu", nn.ReLU())]))

class Extra(nn.Sequential):
    def get_extra_state(self): return {"version": 1}
    def set_extra_state(self, state): pass

def extra(): return Extra(*plain())

class Blurred(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("kernel", torch.full((4, 1, 3, 3), 1 / 9), persistent=False)
        self.mean = torch.full((1, 3, 1, 1), 0.25)
    def forward(self, pixels):
        return nn.functional.conv2d(self.conv(pixels - self.mean).relu(), self.kernel, groups=4).relu()

def blurred(): return Blurred()

class Pooled(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
    def forward(self, pixels):
        pool = nn.functional.avg_pool2d if os.environ.get("POOL") == "average" else nn.functional.max_pool2d
        return self.b(pool(self.a(pixels).relu(), 2)).relu()

def pooled(): return Pooled()

class Scaled(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 4, 3), factor
    def forward(self, pixels): return (self.conv(pixels) * self.factor()).relu()

def scaled(): return Scaled(lambda: float(os.environ.get("FACTOR", 1)))
def scaled_by_process(): return Scaled(lambda: float(os.getpid()))

def unseeded():
    module = plain()
    nn.init.constant_(module[0].bias, float(np.random.default_rng().random()))
    return module
"""

CONFIG = """
[network]
name = "nets:{name}"
weights = "{weights}"
[data]
path = "images.tar"
[decode]
resize = 40
crop = 32
[mine]
batch = 4
block = 4
span = 1
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "nets.py").write_text(NETWORKS)
    write_tar(tmp_path / "images.tar", [(f"{i}.png", encode(noise(i, 40, 40))) for i in range(8)])
    return tmp_path


def topnine(folder, *arguments, **environment):
    return subprocess.run(
        [Path(sys.executable).parent / "topnine", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300, check=False, env={**os.environ, **environment},
    )  # fmt: skip


def run(folder, name, layer, *options, weights="random", command="run", **environment):
    (folder / "config.toml").write_text(CONFIG.format(name=name, weights=weights))
    arguments = (command, "-c", "config.toml", "--layer", layer, "--store", f"{name}.zarr", *options)
    return topnine(folder, *arguments, **environment)


@pytest.fixture
def mined(folder, monkeypatch):
    """Mine, rank and draw a layer of a network in this process, and return the layer's view."""
    monkeypatch.syspath_prepend(folder)

    def mine(name, layer, weights="random", *stages):
        (folder / "config.toml").write_text(CONFIG.format(name=name, weights=weights))
        settings = {"mine__layers": layer, "data__path": folder / "images.tar", "tile__seed": 0}
        plan = plan_run(folder, folder / "config.toml", **settings, store=folder / f"{Path(weights).stem}.zarr")
        run_stages(plan, "index", "mine", "rank", "deconvolve", "tile", *stages)
        return open_run(plan.config.store).layer(plan.layers[0].name)

    yield mine
    load_network.cache_clear()
    sys.modules.pop("nets", None)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("half", "2"),
        ("bfloat16", "2"),
        ("extra", "2"),
        ("lazy", "2"),
        ("parallel", "module.2"),
        ("averaged", "2"),
        ("compiled", "_orig_mod.2"),
    ],
)
def test_networks_that_need_preparation_are_mined(folder, mined, name, layer):
    view = mined(name, layer)
    assert (view.name, view.mined) == ("2", 1)
    assert (folder / "random/figures/layer2.png").is_file()


@pytest.mark.parametrize(
    ("name", "reason"), [("scripted", "a scripted network"), ("raising", "OSError: the weights are gone")]
)
def test_networks_that_cannot_be_mined_are_one_sentence(folder, name, reason):
    finished = run(folder, name, "0")
    assert finished.returncode == 2, finished.stderr
    sentence = finished.stderr.splitlines()[-1]
    assert sentence.startswith("topnine: ")
    assert reason in sentence
    assert "Traceback" not in finished.stderr
    assert not (folder / f"{name}.zarr").exists()


def test_constants_that_no_weights_file_has_are_those_of_the_function(folder, mined):
    first = mined("blurred", "conv").activation(0)
    module = load_network(NetworkConfig(name="nets:blurred")).module
    torch.save(module.state_dict(), folder / "weights.pth")
    second = mined("blurred", "conv", str(folder / "weights.pth")).activation(0)
    assert (first == second).all()
    assert first.max() > 0


@pytest.mark.slow
def test_a_name_with_a_slash_is_a_layer_like_any_other(folder, mined):
    for stages in ((), ("statistics", "gallery")):  # the second time it is resumed
        view = mined("slashes", "every", "random", *stages)
    assert (view.name, view.mined, view.filters) == ("conv1/7x7", 1, 8)
    assert (folder / "random/figures/layerconv1%2F7x7.png").is_file()
    assert [*(folder / "random/gallery/layers").glob("*-conv1-7x7.js")]
    store = str(folder / "random.zarr")
    assert open_run(store).layers.keys() == status(Store.open(store)).layers.keys() == {"conv1/7x7"}
    assert export(store, "conv1/7x7").name == "layerconv1%2F7x7.csv"
    checks = list(verify(store, {}, 0))
    assert checks
    assert not [check.problems for check in checks if check.problems]


@pytest.mark.slow
def test_python_may_leave_assertions_and_docstrings_out(folder):
    finished = run(folder, "plain", "0", PYTHONOPTIMIZE="2")
    assert finished.returncode == 0, finished.stderr
    assert topnine(folder, "verify", "plain.zarr", "--trust", PYTHONOPTIMIZE="2").returncode == 0


@pytest.mark.slow
def test_workers_whose_network_is_another_end_the_run(folder):
    finished = run(folder, "unseeded", "0", "--cluster", "local")
    assert finished.returncode == 2, finished.stderr
    assert "gives other weights each time it is called" in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr
    store = folder / "unseeded.zarr"
    assert not store.exists() or all(view.mined == 0 for view in open_run(store).layers.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "layer", "environment", "reason"),
    [
        ("pooled", "b", {"POOL": "average"}, "was made with network.graph = "),
        ("scaled", "conv", {"FACTOR": "1.5"}, "computed otherwise: layer conv gives "),
    ],
)
def test_a_network_whose_code_has_changed_is_not_mined_into_the_same_store(folder, name, layer, environment, reason):
    first = run(folder, name, layer)
    assert first.returncode == 0, first.stderr
    assert run(folder, name, layer, command="mine").returncode == 0
    finished = run(folder, name, layer, **environment)
    assert finished.returncode == 2, finished.stderr
    assert reason in finished.stderr.splitlines()[-1]


@pytest.mark.slow
def test_a_worker_whose_network_computes_otherwise_ends_the_run(folder):
    finished = run(folder, "scaled_by_process", "conv", "--cluster", "local")
    assert finished.returncode == 2, finished.stderr
    assert "a worker's network is not the one that the run was planned with" in finished.stderr.splitlines()[-1]
    assert all(view.mined == 0 for view in open_run(folder / "scaled_by_process.zarr").layers.values())
