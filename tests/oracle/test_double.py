"""Projections in float64, as the store has them, against the networks run down by hand in float64."""

import numpy as np
import pytest
import torch

from tests.conftest import run_stages, write_tar
from tests.oracle.chains import run_up
from topnine.pipeline.compute.doubles import copy_in_double
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.data.decoding.decode import decode
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.store.store import Store
from topnine.stages.deconvolve import DeconvolveTask, deconvolve_filters
from topnine.stages.settings import projection_settings

NEAR = 1e-6  # of a projection's maximum
SQUEEZENET = {"decode__resize": 224, "decode__crop": 224}
TWO_WORKERS = {"cluster__kind": "local", "cluster__maximum": 2, "cluster__threads": 1}


@pytest.fixture(scope="module")
def shard(photo_shards, some_photos, tmp_path_factory):
    """Twelve photographs, and tiles that are of one colour in parts: there, maxima are the same but for rounding."""
    flat = [photo for photo in some_photos if photo[0].startswith("astronaut-1")][:4]
    return write_tar(tmp_path_factory.mktemp("shard") / "a.tar", dict([*some_photos[:12], *flat]).items())


def pixels_of(plan):
    """Every image of the plan's one shard in float64, normalised by the decimal numbers of its architecture."""
    mean, std = (
        torch.tensor(values, dtype=torch.float64)
        for values in (plan.network.architecture.mean, plan.network.architecture.std)
    )
    with open_reader(plan.dataset) as reader:
        entries = list_images(plan.dataset.shards[0])
        images = [
            decode(reader.read(0, entry.offset, entry.size, entry.key), plan.preparation).pixels for entry in entries
        ]
    pixels = torch.from_numpy(np.stack(images)).double() / 255
    return ((pixels - mean) / std).permute(0, 3, 1, 2).contiguous()


def check_projections(plan, layer, filters):
    """Compare every hit of some filters with the network run down by hand, on whole images."""
    store, module, images = Store.open(plan.config.store), copy_in_double(plan.network.module), pixels_of(plan)
    arrays, rows = store.layer(layer.name), slice(filters.start, filters.stop)
    ranking, compared = arrays.read_ranking(rows), 0
    projection, box, tie = (arrays.read(name, rows) for name in ("projection", "box", "tie"))
    assert not tie.any()
    for f in range(len(filters)):
        filled = np.nonzero(ranking.image[f] >= 0)[0]
        if not len(filled):
            continue
        with torch.no_grad():
            maps, down = run_up(plan.config.network.name, module, layer.name, images[ranking.image[f, filled]])
            at = torch.arange(len(filled)), filters[f], ranking.row[f, filled], ranking.column[f, filled]
            seed = torch.zeros_like(maps)
            seed[at] = maps[at]
            expected = down(seed).permute(0, 2, 3, 1).numpy()
        for rank, whole in zip(filled, expected, strict=True):
            top, left, bottom, right = box[f, rank]
            difference = np.abs(projection[f, rank] - whole[top:bottom, left:right]).max()
            assert difference <= NEAR * np.abs(whole).max(), (layer.name, filters[f], rank)
            compared += 1
    assert compared > len(filters)


@pytest.mark.parametrize("batch", [3, pytest.param(8, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("config", "weights", "settings", "filters"),
    [
        ("configs/demo.toml", "bundled", {}, range(8, 12)),
        pytest.param(
            "configs/imagenet-squeezenet.toml",
            "squeezenet1_0.safetensors",
            SQUEEZENET,
            range(3),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_hit_is_that_of_the_network_run_down_by_hand(
    planned, shard, request, config, weights, settings, filters, batch
):
    if weights.endswith(".safetensors"):
        weights = request.getfixturevalue("test_data") / "weights" / weights
    plan = planned(
        config, network__weights=weights, data__path=shard, mine__layers="all", mine__block=8,
        deconvolve__precision="float64", deconvolve__batch=batch, **settings,
    )  # fmt: skip
    run_stages(plan, "index", "mine", "rank")
    store = Store.open(plan.config.store, write=True)
    for layer in plan.layers:
        store.layer(layer.name).create_patches(*patch_size(layer.field, plan.preparation.size), 3)
        deconvolve_filters(filters, DeconvolveTask(store.access, projection_settings(plan, layer, 2)))
        check_projections(plan, layer, filters)


@pytest.mark.slow
@pytest.mark.parametrize(("batch", "workers"), [(8, {}), (3, TWO_WORKERS)], ids=["inline", "two workers"])
def test_every_hit_of_a_run_is_whoever_computes_it(planned, shard, batch, workers):
    plan = planned(
        data__path=shard, mine__layers="2 4", mine__block=8, deconvolve__precision="float64", deconvolve__batch=batch,
        **workers,
    )  # fmt: skip
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    for layer in plan.layers:
        check_projections(plan, layer, range(8, 16))  # a hit takes a second here, and all are computed alike
