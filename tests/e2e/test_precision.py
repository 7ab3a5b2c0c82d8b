"""Mining in every precision, on a CPU and on a GPU: the same lines."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.conftest import run_stages, same_files, write_tar
from topnine.pipeline.compute.projections import TOLERANCE
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.store import Store
from topnine.stages.tools.verify import verify

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
ON_A_GPU = pytest.mark.gpu


@pytest.fixture(autouse=True)
def _there(request):
    if request.node.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")


@pytest.fixture(scope="module")
def shard(some_photos, tmp_path_factory):
    return write_tar(tmp_path_factory.mktemp("shard") / "a.tar", some_photos[:40])


def activations(planned, shard, device, precision, tmp_path, stages=("index", "mine", "rank")):
    plan = planned(
        data__path=shard, cluster__device=device, mine__precision=precision, mine__block=16, mine__batch=8,
        mine__layers="1 3 5", store=tmp_path / f"{device}-{precision}.zarr",
    )  # fmt: skip
    run_stages(plan, *stages)
    store = Store.open(plan.config.store)
    return plan, [store.layer(name).read_activation(slice(None)) for name in store.layers]


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["bfloat16", "float16", pytest.param("tf32", marks=ON_A_GPU)])
def test_other_precisions_are_within_their_tolerance_and_are_deconvolved(planned, shard, tmp_path, device, precision):
    if device == "cpu" and precision == "tf32":
        pytest.skip("only a GPU has it")
    _, exact = activations(planned, shard, "cpu", "float32", tmp_path)
    plan, coarse = activations(planned, shard, device, precision, tmp_path, ("index", "mine", "rank", "deconvolve"))
    for one, other in zip(exact, coarse, strict=True):
        difference = np.abs(one - other) / np.maximum(one.max(axis=0), 1e-3 * one.max())
        assert 0 < difference.max() <= TOLERANCE[precision]
    assert all(not check.problems for check in verify(plan.config.store, {}, 0))


@pytest.mark.gpu
def test_a_gpu_gives_what_a_cpu_gives_and_the_same_bytes_twice(planned, shard, tmp_path):
    _, exact = activations(planned, shard, "cpu", "float32", tmp_path)
    stages = ("index", "mine", "rank", "deconvolve")
    _, found = activations(planned, shard, "cuda", "float32", tmp_path / "first", stages)
    activations(planned, shard, "cuda", "float32", tmp_path / "second", stages)
    for one, other in zip(exact, found, strict=True):
        assert np.abs(one - other).max() <= 1e-4 * one.max()
    assert same_files(tmp_path / "first" / "cuda-float32.zarr", tmp_path / "second" / "cuda-float32.zarr")


def test_tf32_on_a_cpu_is_refused_before_anything_begins(planned, shard):
    with pytest.raises(InputError, match=r"mine.precision.*tf32.*needs a GPU"):
        planned(data__path=shard, cluster__device="cpu", mine__precision="tf32")
