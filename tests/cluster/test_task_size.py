"""Tasks are small: none carries the list of all shards, however many a dataset has."""

import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Client
from distributed.protocol.pickle import dumps

from tests.conftest import encode, noise, plan_run, write_tar
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.compute.projections import FILTERS_A_TASK
from topnine.pipeline.config.clusters import InlineCluster
from topnine.pipeline.data.entry import Dataset, Shard
from topnine.pipeline.ranking.topk import RANKS
from topnine.pipeline.store.lease import Claim
from topnine.pipeline.store.store import Access
from topnine.stages.deconvolve import DeconvolveTask, deconvolve_filters
from topnine.stages.deconvolve import select_shards as select_of_filters
from topnine.stages.gallery.stage import gallery
from topnine.stages.mine import MineTask, Span, mine_span
from topnine.stages.mine import select_shards as select_of_span
from topnine.stages.paper.invariance import invariance
from topnine.stages.paper.occlusion import occlusion
from topnine.stages.runner import STAGES, run
from topnine.stages.settings import mining_settings, projection_settings
from topnine.stages.work import ShardFinder

SMALL_BYTES = 64 * 2**10
SLACK_BYTES = 64  # longer numbers
STAGES_RUN = {name: STAGES[name] for name in ("index", "mine", "rank", "statistics", "deconvolve")}
STAGES_RUN |= {"gallery": gallery, "invariance": invariance, "occlusion": partial(occlusion, side=96, step=96)}


def link_shards(folder: Path, count: int) -> Path:
    """Make so many tar shards, all of the same three images."""
    first = write_tar(folder / "shards" / "0.tar", [(f"{i}.png", encode(noise(i))) for i in range(3)])
    for number in range(1, count):
        os.link(first, first.with_name(f"{number}.tar"))
    return first.parent


@pytest.fixture
def submitted(monkeypatch) -> dict[str, list[int]]:
    """The pickled sizes of the tasks that Dask is given, by the names of their functions."""
    sizes: dict[str, list[int]] = {}
    submit = Client.submit

    def note(self, attempt, function, *arguments, **options):
        name = getattr(function, "func", function).__name__
        sizes.setdefault(name, []).append(len(dumps((attempt, function, *arguments))))
        return submit(self, attempt, function, *arguments, **options)

    monkeypatch.setattr(Client, "submit", note)
    return sizes


def measure(folder: Path, shards: int, submitted: dict[str, list[int]]) -> dict[str, int]:
    """Run every stage that has tasks over so many shards; return the size of the largest task of each function."""
    submitted.clear()
    plan = plan_run(folder, data__path=link_shards(folder, shards), mine__layers="1", mine__block=4, mine__span=2,
                    decode__resize=112, decode__crop=96)  # fmt: skip
    with connect(InlineCluster()) as pool:
        for _ in run(plan, pool, STAGES_RUN):
            pass
    return {name: max(sizes) for name, sizes in submitted.items()}


@pytest.mark.slow
def test_the_size_of_tasks_does_not_depend_on_the_number_of_shards(tmp_path, submitted):
    few, many = (
        measure(tmp_path / str(shards).zfill(3), shards, submitted) for shards in (12, 36)
    )  # nine hits are in nine
    assert {"scan_shards", "mine_span", "rank_blocks", "deconvolve_filters", "draw_thumbnails", "sweep_image",
            "occlude_image"} <= few.keys()  # fmt: skip
    assert {name: size for name, size in many.items() if size > few[name] + SLACK_BYTES} == {}
    assert max(many.values()) < SMALL_BYTES


def test_tasks_over_ten_thousand_shards_are_below_64_kib(planned, tmp_path):
    plan = planned(data__path=link_shards(tmp_path, 1), mine__layers="1 5")
    shards, images = 10_000, 1_280_000
    paths = (
        f"/scratch/datasets/imagenet/2012/training/train-{number:06d}-of-{shards:06d}.tar" for number in range(shards)
    )
    dataset = Dataset("imagenet", tuple(Shard(Path(path).name, path, "tar", 10**8, 1.7e9) for path in paths))
    plan = replace(plan, dataset=dataset)
    finder = ShardFinder(plan.images, np.repeat(np.arange(shards, dtype=np.int32), images // shards))
    rows = SimpleNamespace(rows=lambda block: slice(block * 1024, (block + 1) * 1024))
    store = SimpleNamespace(images=rows)
    layer = plan.layers[-1]

    whole = MineTask(Access("run.zarr", Claim("run.zarr", "0" * 32)), mining_settings(plan, 8))
    span = Span(tuple(range(16, 32)), plan.layers)
    (task,) = select_of_span(store, finder, span, whole)
    assert len(task.settings.images.dataset.shards) == 128
    mining = len(dumps((mine_span, span, task)))

    top_image = np.random.default_rng(0).integers(0, images, (layer.filters, RANKS))
    filters = range(FILTERS_A_TASK, 2 * FILTERS_A_TASK)
    projecting = DeconvolveTask(Access("run.zarr", Claim("run.zarr", "0" * 32)), projection_settings(plan, layer, 8))
    (task,) = select_of_filters(finder, top_image, filters, projecting)
    assert len(task.settings.images.dataset.shards) <= FILTERS_A_TASK * RANKS
    deconvolving = len(dumps((deconvolve_filters, filters, task)))

    assert max(mining, deconvolving) < SMALL_BYTES < len(dumps((mine_span, span, whole))) / 10
