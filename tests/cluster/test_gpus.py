"""GPUs of workers: a process for each, several processes on one, and a driver that has none."""

import os
import time

import dask
import pytest
import torch

from tests.conftest import REPOSITORY, plan_run, run_stages, same_files, write_tar
from topnine.pipeline.cluster import gpus, kinds
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.config.clusters import CudaCluster, SlurmCluster
from topnine.pipeline.config.reading import read_config
from topnine.pipeline.errors import InputError
from topnine.stages.tools.plan import estimate

pytestmark = pytest.mark.slow


def visible(_):
    time.sleep(0.5)  # so that no worker gets all
    return os.environ["CUDA_VISIBLE_DEVICES"]


def visible_and_process(_):
    return visible(_), os.getpid()


@pytest.mark.parametrize(("environment", "expected"), [(None, {"0", "1"}), ("3,5", {"3", "5"})])
def test_each_gpu_has_a_process_that_sees_no_other(monkeypatch, environment, expected):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if environment:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", environment)
    with connect(CudaCluster(kind="cuda"), gpus=2) as pool:
        assert {result for _, result in pool.run(visible, range(6))} == expected


def test_several_processes_on_each_gpu_share_the_cores(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    monkeypatch.setattr(kinds, "count_cores", lambda: 12)
    with connect(CudaCluster(kind="cuda", per_gpu=2), gpus=2) as pool:
        found = {result for _, result in pool.run(visible_and_process, range(16))}
        assert sorted(gpu for gpu, _ in found) == ["3", "3", "5", "5"]
        assert pool.threads == 3


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ("2,5", ["2", "2", "5", "5"]),
        ("GPU-8932f937,MIG-GPU-1/2/0,9", ["GPU-8932f937", "GPU-8932f937", "MIG-GPU-1/2/0", "MIG-GPU-1/2/0"]),
        (None, ["0", "0", "1", "1"]),
    ],
)
def test_each_worker_of_a_job_sees_one_of_the_jobs_gpus(environment, expected):
    job = {gpus.WANTED: "2", gpus.PER_GPU: "2", **({gpus.VISIBLE: environment} if environment else {})}
    assert [gpus.choose_gpu(job, number) for number in range(4)] == [{gpus.VISIBLE: name} for name in expected]


@pytest.mark.parametrize("environment", ["", "NoDevFiles", "4"])
def test_a_worker_of_a_job_with_too_few_gpus_sees_none_and_fails_its_task(environment, monkeypatch):
    job = {gpus.WANTED: "2", gpus.PER_GPU: "1", gpus.VISIBLE: environment}
    for name, value in gpus.choose_gpu(job, 0).items():
        monkeypatch.setenv(name, value)
    assert os.environ[gpus.VISIBLE] == ""
    with pytest.raises(InputError, match=rf"'{environment}' in it\), and cluster\.gres asks for 2"):
        gpus.check_gpu()


@pytest.mark.parametrize(
    ("gres", "per_gpu", "expected"),
    [
        ("", 1, 1),
        ("gpu", 1, 1),
        ("gpu:2", 1, 2),
        ("gpu:a100:4", 2, 8),
        ("gres/gpu:3g.20gb:2,shard:3", 1, 2),
        ("gpu:a100:1,gpu:v100:2", 2, 6),
        ("craynetwork:2", 1, 1),
    ],
)
def test_a_job_has_workers_for_its_gpus(gres, per_gpu, expected):
    cluster = SlurmCluster(kind="slurm", gres=gres, per_gpu=per_gpu, cores=13)
    assert cluster.workers_a_job == expected
    with connect(cluster) as pool:  # starts nothing before the first task
        assert pool.threads == 13 // expected
    with connect(cluster.model_copy(update={"threads": 5})) as pool:
        assert pool.threads == 5


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ({"kind": "slurm", "per_gpu": 2}, r"cluster\.per_gpu = 2 needs jobs with GPUs"),
        ({"kind": "slurm", "gres": "gpu:2", "device": "cuda:1"}, r"'cuda:1' does not go with cluster\.gres = 'gpu:2'"),
        ({"kind": "cuda", "per_gpu": 0}, r"cluster\.per_gpu"),
        *(({"kind": kind, "per_gpu": 2}, r"cluster\.per_gpu") for kind in ("inline", "local")),
        ({"kind": "address", "address": "tcp://a:1", "per_gpu": 2}, r"cluster\.per_gpu"),
    ],
)
def test_workers_on_gpus_where_they_cannot_be_are_a_sentence(table, expected):
    settings = {
        f"cluster.{key}": f'"{value}"' if isinstance(value, str) else str(value) for key, value in table.items()
    }
    with pytest.raises(InputError, match=expected):
        read_config(str(REPOSITORY / "configs/demo.toml"), settings)


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
