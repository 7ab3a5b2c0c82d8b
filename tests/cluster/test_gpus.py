"""GPUs of workers: a process for each, several processes on one, and a driver that has none."""

import os
import time

import dask
import pytest
import torch

from tests.conftest import plan_run, run_stages, same_files, write_tar
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.config.clusters import CudaCluster
from topnine.pipeline.errors import InputError
from topnine.stages.tools.plan import estimate

pytestmark = pytest.mark.slow


def visible(_):
    time.sleep(0.5)  # so that no worker gets all
    return os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.parametrize(("environment", "expected"), [(None, {"0", "1"}), ("3,5", {"3", "5"})])
def test_each_gpu_has_a_process_that_sees_no_other(monkeypatch, environment, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    with connect(CudaCluster(kind="cuda"), gpus=2) as pool:
        assert {result for _, result in pool.run(visible, range(6))} == expected


def test_a_machine_without_gpus_is_said_to_have_none():
    with (
        connect(CudaCluster(kind="cuda"), gpus=0) as pool,
        pytest.raises(InputError, match="torch finds none here"),
    ):
        list(pool.run(visible, range(1)))


def test_two_processes_on_one_gpu_and_a_driver_without(some_photos, tmp_path, monkeypatch):
    """The driver plans, ranks and draws layer 1 with its weights; only the workers ever ask for the GPU."""
    shard = write_tar(tmp_path / "a.tar", some_photos[:24])
    settings = {"data__path": shard, "mine__layers": "1 5", "mine__block": 6}
    for name in ("is_available", "device_count", "get_device_capability"):
        monkeypatch.setattr(torch.cuda, name, lambda *_: pytest.fail("the driver asked for a GPU"))
    stages = "index", "mine", "rank", "statistics", "deconvolve", "tile"
    plan = plan_run(tmp_path / "gpu", **settings, cluster__kind="local", cluster__device="cuda")
    found = estimate(plan)
    assert found.device == "cuda of the workers"
    assert {stage.stage: stage.seconds for stage in found.stages}["mine"] is None
    with dask.config.set({"distributed.worker.preload": ["tests.one_gpu"]}):
        run_stages(plan, *stages)
    assert (tmp_path / "gpu/run/figures/layer1-filters.png").is_file()
    monkeypatch.undo()
    run_stages(plan_run(tmp_path / "cpu", **settings), *stages)
    assert same_files(tmp_path / "gpu/run.zarr", tmp_path / "cpu/run.zarr")
