"""The filters that a sheet shows are projected and drawn before the others."""

import time
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.conftest import encode, noise, plan_run, same_files, write_tar
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.cluster.pool import POLL_S
from topnine.pipeline.compute.activations import Forward
from topnine.stages.deconvolve import deconvolve
from topnine.stages.runner import STAGES, run
from topnine.stages.tile import SheetChoice, preview, sheet_paths

FIRST = "first picture, while the other filters are projected: "
SHOWN = 10  # filters, of a sheet of a layer without a number


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    images = [(f"{seed}.png", encode(noise(seed))) for seed in range(24)]
    return write_tar(tmp_path_factory.mktemp("data") / "noise.tar", images).parent


def small(bias=0.0):
    """Return a network of two layers with 24 filters each."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 24, 3, stride=4), nn.Conv2d(24, 24, 3)
    if bias:
        nn.init.zeros_(second.weight)
        nn.init.constant_(second.bias, bias)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


def silent():
    """Return the same, with a second layer that answers to nothing."""
    return small(-1)


def plan_of(network, folder, data, layers, **settings):
    named = {"network__name": f"tests.e2e.test_first_sheets:{network}", "network__weights": "random"}
    return plan_run(folder, data__path=data, mine__layers=layers, **named, **settings)


def run_with(plan, choice):
    """Run all stages; return their progress, and the sheets (path to pixels) that were there at each note."""
    stages = {name: STAGES[name] for name in ("index", "mine", "rank", "deconvolve", "tile")}
    stages["deconvolve"] = partial(deconvolve, preview=preview(plan, choice))
    stages["tile"] = partial(STAGES["tile"], choice=choice)
    seen, drawn = [], []
    with connect(plan.config.cluster) as pool:
        for progress in run(plan, pool, stages):
            seen.append(progress)
            if progress.note.startswith(FIRST):
                drawn.append(read(plan.folder / "figures"))
    return seen, drawn


def read(folder):
    found = {}
    for path in folder.iterdir():
        with Image.open(path) as picture:
            found[path] = np.asarray(picture).astype(int)
    return found


@pytest.mark.parametrize("cluster", ["inline", "local"])
def test_sheets_are_drawn_before_any_other_filter_is_projected(data, tmp_path, cluster):
    plan = plan_of("small", tmp_path / "shown", data, "0 2", cluster={"kind": cluster})
    seen, drawn = run_with(plan, SheetChoice())
    notes = [progress.note for progress in seen if progress.note]
    paths = [sheet_paths(plan.folder, layer, SheetChoice(), with_weights=False)[0] for layer in plan.layers]
    assert notes == [f"{FIRST}{path}" for path in paths]
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages == ["index", "mine", "rank", "first sheets", "deconvolve", "tile"]
    shown = [progress for progress in seen if progress.stage == "first sheets"]
    assert (shown[-1].done, shown[-1].total) == (2 * SHOWN, 2 * SHOWN)
    finished = read(plan.folder / "figures")
    for path, pixels in drawn[-1].items():
        assert np.abs(pixels - finished[path]).max() <= 1, path
    plain = plan_of("small", tmp_path / "plain", data, "0 2")
    with connect(plain.config.cluster) as pool:
        for _ in run(plain, pool, {name: STAGES[name] for name in ("index", "mine", "rank", "deconvolve")}):
            pass
    assert same_files(tmp_path / "plain/run.zarr", tmp_path / "shown/run.zarr")


def test_an_enlarged_filter_is_what_is_drawn_first_and_a_finished_layer_has_no_first_sheet(data, tmp_path):
    plan = plan_of("small", tmp_path, data, "2")
    choice = SheetChoice(single=7)
    seen, drawn = run_with(plan, choice)
    assert [path.name for path in drawn[0]] == ["layer2-filter7.png"]
    assert max(progress.total for progress in seen if progress.stage == "first sheets") == 1
    again, _ = run_with(plan, choice)
    assert "first sheets" not in {progress.stage for progress in again}


def test_a_grid_needs_no_projection():
    assert preview(None, SheetChoice(single=7, grid=4)) is None


def test_a_layer_without_a_live_filter_has_no_first_picture(data, tmp_path):
    plan = plan_of("silent", tmp_path, data, "2")
    seen = []
    stages = {**STAGES, "deconvolve": partial(deconvolve, preview=preview(plan, SheetChoice()))}
    with connect(plan.config.cluster) as pool:
        for progress in run(plan, pool, {name: stages[name] for name in ("index", "mine", "rank", "deconvolve")}):
            seen.append(progress.stage)
    assert list(dict.fromkeys(seen)) == ["index", "mine", "rank", "deconvolve"]


def test_mining_counts_the_images_of_a_block_that_is_not_finished(data, tmp_path, monkeypatch):
    slow = Forward.run_batch
    monkeypatch.setattr(Forward, "run_batch", lambda self, batch: (time.sleep(POLL_S), slow(self, batch))[1])
    plan = plan_of("small", tmp_path, data, "0", mine__block=64, mine__batch=4)
    with connect(plan.config.cluster) as pool:
        seen = [progress.done for progress in run(plan, pool, {name: STAGES[name] for name in ("index", "mine")})]
    mined = seen[seen.index(0, 1) :]
    assert mined == sorted(mined)
    assert {4, 8, 12, 16, 20} & set(mined)
    assert mined[-1] == 24
