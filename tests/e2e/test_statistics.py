"""Stage statistics on a store: what it writes, when it does so again, and the same on any number of workers."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from tests.conftest import encode, noise, plan_run, run_stages, same_files, write_tar
from tests.e2e.test_commands import topnine
from topnine.pipeline.errors import InputError
from topnine.pipeline.store import arrays
from topnine.pipeline.store.store import Store
from topnine.stages import statistics

MINED = ("index", "mine", "rank")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Path:
    """Forty images, every third without a label, one damaged."""
    members = [(f"{i:02}.png", encode(noise(i)) if i != 5 else b"no") for i in range(40)]
    members += [(f"{i:02}.cls", str(i % 4).encode()) for i in range(40) if i % 3]
    return write_tar(tmp_path_factory.mktemp("labelled") / "a.tar", sorted(members))


def open_layer(plan, name="conv3"):
    return xarray.open_zarr(plan.config.store, group=f"layers/{name}", consolidated=False).load()


def test_the_store_holds_them_with_names_units_and_descriptions(labelled, planned):
    plan = planned(data__path=labelled, mine__layers="3", mine__block=8)
    run_stages(plan, *MINED, "statistics")
    layer = open_layer(plan)
    names = ("histogram", "bin_edge", "activation_quantile", "class_mean", "class_entropy", "top_class",
             "top_class_count", "top_class_lift", "coactive", "correlation", "quantile_level")  # fmt: skip
    assert {name: (layer[name].dims[1:], str(layer[name].dtype)) for name in names} == {
        "histogram": (("histogram_bin",), "int64"), "bin_edge": (("histogram_edge",), "float32"),
        "activation_quantile": (("quantile_level",), "float32"), "class_mean": (("class_name",), "float32"),
        "class_entropy": ((), "float32"), "top_class": (("place",), "int32"),
        "top_class_count": (("place",), "int32"), "top_class_lift": (("place",), "float32"),
        "coactive": (("place",), "int32"),
        "correlation": (("place",), "float32"), "quantile_level": ((), "float64"),
    }  # fmt: skip
    assert layer.quantile_level.values.tolist() == [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999]
    assert all(layer[name].attrs["units"] and layer[name].attrs["long_name"] for name in names[:-1])
    assert (layer.histogram.sum("histogram_bin") == 39).all()
    assert np.array_equal(layer.bin_edge[:, -1], layer.max_activation)
    labels = Store.open(plan.config.store).images.columns(["label"])[0]
    for c in range(4):
        assert np.allclose(layer.class_mean[:, c], layer.activation[labels == c].mean("image"), rtol=1e-5)
    with np.errstate(invalid="ignore"):  # dead filters
        matrix = np.corrcoef(layer.activation.values[np.arange(40) != 5].T)
    np.fill_diagonal(matrix, np.nan)
    highest = np.nan_to_num(matrix, nan=-2).max(axis=1)
    assert np.allclose(np.nan_to_num(layer.correlation[:, 0], nan=-2), highest, atol=1e-5)


def test_without_labels_there_are_no_class_means(planned, tmp_path):
    data = write_tar(tmp_path / "a.tar", [(f"{i}.png", encode(noise(i))) for i in range(6)])
    plan = planned(data__path=data, mine__layers="1")
    run_stages(plan, *MINED, "statistics")
    layer = open_layer(plan, "conv1")
    assert "class_mean" not in layer
    assert np.isnan(layer.class_entropy).all()
    assert (layer.top_class == -1).all()
    assert (layer.top_class_count == 0).all()
    assert np.isnan(layer.top_class_lift).all()


def test_the_same_bytes_on_any_workers_and_groups_of_blocks(labelled, tmp_path, monkeypatch):
    plans = [
        plan_run(tmp_path / str(i), data__path=labelled, mine__layers="3", mine__block=8, cluster=cluster)
        for i, cluster in enumerate(({"kind": "inline"}, {"kind": "inline"}, {"kind": "local"}))
    ]
    for plan, group, zarrs in zip(plans, (16, 1, 2), (None, arrays.Zarrs, arrays.Zarrs), strict=True):
        monkeypatch.setattr(statistics, "BLOCKS_A_TASK", group)
        monkeypatch.setattr(arrays, "Zarrs", zarrs)
        run_stages(plan, *MINED, "statistics")
    first, *others = (Path(plan.config.store) for plan in plans)
    assert all(same_files(first, other) for other in others)


def test_they_are_taken_again_only_when_what_they_come_from_changed(labelled, planned):
    plan = planned(data__path=labelled, mine__layers="3", mine__block=8)
    with pytest.raises(InputError, match="layer conv3 is not ranked: `topnine rank` first"):
        run_stages(plan, "index", "mine", "statistics")
    run_stages(plan, *MINED, "statistics")
    written = Path(plan.config.store) / "layers/conv3/histogram/c/0/0"
    stamp = written.stat().st_mtime_ns
    run_stages(plan, *MINED, "statistics")
    assert written.stat().st_mtime_ns == stamp
    store = Store.open(plan.config.store, write=True)
    recorded = store.fingerprint("statistics", "conv3")
    store.set_fingerprint("statistics", {**recorded, "mine.batch": 5}, "conv3")
    run_stages(plan, "statistics")
    assert written.stat().st_mtime_ns > stamp


def test_activations_far_below_zero_are_read_twice_and_summed_right(labelled, planned, monkeypatch):
    plan = planned(data__path=labelled, mine__layers="3", mine__block=8)
    run_stages(plan, "index", "mine")
    array = zarr.open_group(f"{plan.config.store}/layers/conv3", mode="r+")["activation"]
    array[:] = array[:] - np.float32(100)
    reads = []
    sum_layer = statistics.sum_layer
    monkeypatch.setattr(statistics, "sum_layer", lambda *given: reads.append(given) or sum_layer(*given))
    run_stages(plan, "rank", "statistics")
    layer = open_layer(plan)
    assert len(reads) == 2
    labels = Store.open(plan.config.store).images.columns(["label"])[0]
    assert np.allclose(layer.class_mean[:, 1], layer.activation[labels == 1].mean("image"), rtol=1e-6)
    assert (layer.histogram[:, 0] == 39).all()


@pytest.mark.slow
def test_the_command_takes_them_and_status_says_so(labelled, tmp_path):
    options = ["--data", labelled, "--store", tmp_path / "x.zarr", "--layer", "1"]
    assert topnine("rank", *options).returncode == 2
    assert topnine("run", *options).returncode == 0
    assert not json.loads(topnine("status", tmp_path / "x.zarr", "--json").stdout)["layers"]["conv1"]["statistics"]
    finished = topnine("statistics", *options)
    assert finished.returncode == 0, finished.stderr
    assert "statistics: 1 of 1 blocks" in finished.stderr
    assert "rank, deconvolve, statistics" in topnine("status", tmp_path / "x.zarr").stdout
    assert topnine("verify", tmp_path / "x.zarr", "--trust").returncode == 0
