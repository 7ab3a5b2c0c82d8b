"""Every stage that computes, on a GPU's code: no read that did not wait, and streams that belong to the process."""

from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest

from tests.conftest import plan_run, run_stages, write_tar
from tests.watched import watch
from topnine.pipeline.compute.devices import STREAMS, open_device
from topnine.pipeline.data.fetching import ImageRecord
from topnine.pipeline.data.reader import list_images
from topnine.pipeline.network.classifier import find_classifier
from topnine.pipeline.store.store import Access, Store
from topnine.stages.deconvolve import DeconvolveTask, deconvolve_filters
from topnine.stages.mine import MineTask, Span, mine_span
from topnine.stages.paper.invariance import SweepTask, sweep_image
from topnine.stages.paper.occlusion import OccludeTask, Square, occlude_image
from topnine.stages.paper.samples import pick_images
from topnine.stages.settings import classifier_run, mining_settings, projection_settings
from topnine.stages.tools.plan import calibrate
from topnine.stages.tools.verify import verify

THREADS = 3


@pytest.fixture(scope="module")
def plan(tmp_path_factory, some_photos):
    """A finished run over 24 photographs, of the sizes that the whole classifier takes."""
    folder = tmp_path_factory.mktemp("watched")
    shard = write_tar(folder / "a.tar", some_photos[:24])
    plan = plan_run(folder, data__path=shard, mine__layers="5", mine__block=8, mine__batch=4, cluster__device="cpu")
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return plan


@contextmanager
def synchronised(monkeypatch):
    """Watch what runs inside, and check that it computed on streams of the process and read nothing too early."""
    with watch(monkeypatch) as account:
        yield
        device = open_device("cpu")
    assert 1 <= device.made_streams <= STREAMS
    assert device.copies == 1  # of the network to the device
    assert not account.unsynchronised


def recorded(plan, name, rows=slice(None)):
    return Store.open(plan.config.store).layer("conv5").read(name, rows)


def test_mine(plan, monkeypatch):
    store = Store.open(plan.config.store, write=True)
    before = recorded(plan, "activation")
    markers = store.progress.done_blocks("conv5")
    monkeypatch.setattr(type(store.progress), "done_blocks", lambda self, layer: set())  # so that all is mined again
    with synchronised(monkeypatch):
        mine_span(Span(tuple(markers), plan.layers), MineTask(store.access, mining_settings(plan, THREADS)))
    np.testing.assert_array_equal(recorded(plan, "activation"), before)


def test_deconvolve(plan, monkeypatch):
    before = recorded(plan, "projection", slice(0, 16))
    settings = projection_settings(plan, plan.layers[0], THREADS)
    with synchronised(monkeypatch):
        deconvolve_filters(range(16), DeconvolveTask(Access(plan.config.store), replace(settings, batch=2)))
    largest = np.abs(before).max(axis=(2, 3, 4), keepdims=True)
    assert (np.abs(recorded(plan, "projection", slice(0, 16)) - before) <= 1e-5 * largest).all()


def test_occlusion(plan, monkeypatch):
    (sample,) = pick_images(Store.open(plan.config.store), [], 1, 0)
    run = classifier_run(plan, find_classifier(plan.graph), {"layer": plan.layers[0]}, THREADS)
    task = OccludeTask(plan.config.store, plan.images, run, plan.layers[0], plan.rules, "float32", Square(24, 24))
    expected = occlude_image(sample, task)
    with synchronised(monkeypatch):
        response = occlude_image(sample, task)
    assert response.filter == expected.filter
    np.testing.assert_allclose(response.activity, expected.activity, rtol=1e-5)
    np.testing.assert_allclose(response.projection, expected.projection, atol=1e-5)


def test_invariance(plan, monkeypatch):
    (sample,) = pick_images(Store.open(plan.config.store), [], 1, 0)
    run = classifier_run(plan, find_classifier(plan.graph), {"first": plan.layers[0]}, THREADS)
    with synchronised(monkeypatch):
        sweeps = sweep_image(sample, SweepTask(plan.config.store, plan.images, run))
    assert [len(sweep.first) for sweep in sweeps] == [25, 17, 73]


def test_plan_and_verify(plan, monkeypatch):
    (shard,) = plan.dataset.shards
    records = [ImageRecord(0, entry.offset, entry.size, entry.key, entry.damage) for entry in list_images(shard)]
    with synchronised(monkeypatch):
        assert calibrate(mining_settings(plan, THREADS), plan.layers, records).images_per_second > 0
        assert [str(check) for check in verify(plan.config.store, {}, 0) if check.problems] == []
