"""``open_run``: of a finished store, of one that is still being mined, and what it refuses."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import topnine
from tests.conftest import REPOSITORY, encode, noise, plan_run, run_stages, write_tar
from tests.doctests import LAYER, write_store
from tests.unit.test_sheets import find
from topnine import open_run
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.analysis import datasets
from topnine.pipeline.store.layers import StoredLayer
from topnine.pipeline.store.store import Store


@pytest.fixture(scope="module")
def mined(tmp_path_factory) -> str:
    """Twenty images, one damaged, every fourth without a label, in blocks of six, through all stages."""
    folder = tmp_path_factory.mktemp("analysis")
    members = [(f"{i:02}.png", encode(noise(i)) if i != 5 else b"no") for i in range(20)]
    members += [(f"{i:02}.cls", str(i % 4).encode()) for i in range(20) if i % 4]
    data = write_tar(folder / "a.tar", sorted(members))
    plan = plan_run(folder, data__path=data, mine__layers="1 3", mine__block=6)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return plan.config.store


@pytest.fixture
def store(mined, tmp_path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(mined, tmp_path / "run.zarr"))


def test_importing_the_package_imports_nothing_and_reading_a_store_needs_no_torch(mined):
    script = (
        "import sys, topnine; assert not {'numpy', 'zarr', 'torch'} & set(sys.modules)\n"
        f"run = topnine.open_run({mined!r}); run.layer(1).top(filter=0); run.layer(1).rank(k=3)\n"
        "assert 'zarr' in sys.modules and not {'torch', 'xarray', 'distributed'} & set(sys.modules)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    with pytest.raises(AttributeError, match="no attribute 'open_walk'"):
        _ = topnine.open_walk


def test_layers_and_images_are_those_of_the_store(mined):
    run = open_run(Path(mined))
    assert list(run.layers) == ["conv1", "conv3"]
    assert run.layer(3).name == run.layer("3").name == run.layer("conv3").name == "conv3"
    assert (run.layer(1).filters, run.layer(1).number, run.layer(1).mined) == (64, 1, 1.0)
    assert repr(run.layer(1)) == "<layer 1 (conv1): 64 filters, 20 images>"
    assert run.images.keys.tolist() == [f"{i:02}" for i in range(20)]
    assert run.images.labels.tolist() == [i % 4 or -1 for i in range(20)]
    assert run.dataset().sizes["image"] == 20
    assert run.layer(3).dataset().patch.dims == ("filter", "rank", "y", "x", "rgb")


def test_the_hits_of_a_filter_are_the_recorded_ones_with_their_pictures(mined):
    layer, arrays = open_run(mined).layer(3), zarr.open_group(f"{mined}/layers/conv3", mode="r")
    for filter in range(0, layer.filters, 7):
        hits = layer.top(filter)
        assert [hit.image for hit in hits] == [i for i in arrays["top_image"][filter].tolist() if i >= 0]
        for rank, hit in enumerate(hits):
            assert (hit.rank, hit.key, hit.class_name) == (rank, f"{hit.image:02}", "")
            assert hit.label == (hit.image % 4 or -1)
            assert hit.activation == arrays["activation"][hit.image, filter]
            for name in ("patch", "projection", "box", "source_box", "footprint", "mask"):
                assert np.array_equal(getattr(hit, name), arrays[name][filter, rank])


def test_filters_and_hits_show_themselves(mined, tmp_path):
    layer = open_run(mined).layer(1)
    cropped, whole = layer.show(2), layer.show(2, view="windows")
    assert cropped.mode == whole.mode == "RGB"
    patch = layer.top(2)[0].patch
    assert find(np.asarray(whole), patch.repeat(29, 0).repeat(29, 1))
    with Image.open(io.BytesIO(layer.top(2)[0]._repr_png_())) as picture:
        assert picture.width > picture.height > 200
    small = open_run(write_store(str(tmp_path / "small.zarr"))).layer(1)
    with pytest.raises(InputError, match="no image activates filter 1 of layer conv1"):
        small.show(1)
    with pytest.raises(InputError, match="view is whole: it is footprints or windows"):
        layer.show(2, view="whole")


def test_hits_have_class_names_and_dead_filters_have_no_hits(tmp_path):
    layer = open_run(write_store(str(tmp_path / "small.zarr"))).layer(1)
    assert [hit.class_name for hit in layer.top(filter=3)] == ["dog", "dog", "cat"]
    assert layer.top(filter=1) == []


def test_without_projections_there_are_hits_without_pictures(store):
    Store.open(str(store), write=True).set_fingerprint("deconvolve", None, "conv3")
    hits = open_run(store).layer(3).top(filter=0)
    assert len(hits) > 0
    assert all(
        hit.patch is hit.projection is hit.box is hit.source_box is hit.mask is hit.footprint is None for hit in hits
    )


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(where=st.lists(st.booleans(), min_size=20, max_size=20), k=st.integers(1, 25))
def test_a_ranking_of_any_images_is_a_full_sort_of_them(mined, where, k):
    layer = open_run(mined).layer(1)
    ranking = layer.rank(k, where=np.array(where))
    for filter in range(0, layer.filters, 9):
        values = layer.activation(filter)
        wanted = sorted((-values[i], i) for i in range(20) if where[i] and values[i] > 0)[:k]
        padding = k - len(wanted)
        assert ranking.image[filter].tolist() == [i for _, i in wanted] + [-1] * padding
        assert np.array_equal(ranking.activation[filter], [-v for v, _ in wanted] + [np.nan] * padding, equal_nan=True)


def test_a_ranking_reads_a_block_at_a_time_and_only_those_it_needs(mined, monkeypatch):
    read, rows = StoredLayer.read_activation, []
    monkeypatch.setattr(StoredLayer, "read_activation", lambda self, at: rows.append(at) or read(self, at))
    open_run(mined).layer(1).rank(k=2)
    assert rows == [slice(0, 6), slice(6, 12), slice(12, 18), slice(18, 20)]
    del rows[:]
    open_run(mined).layer(1).rank(k=2, where=np.arange(20) == 7)
    assert rows == [slice(6, 12)]


def test_blocks_that_are_not_done_read_as_not_there(store):
    (store / "progress/done/conv1/c/1").unlink()  # its chunks lie there, as while they are being written
    Store.open(str(store), write=True).set_fingerprint("rank", None, "conv1")
    layer = open_run(store).layer(1)
    assert layer.mined == 14 / 20
    values = layer.activation(0)
    assert np.flatnonzero(np.isnan(values)).tolist() == [5, *range(6, 12)]
    assert not np.isin(layer.rank(k=20).image, range(6, 12)).any()
    with pytest.raises(InputError, match=r"layer conv1 of .* is not ranked yet, 70% of its images are mined: `topnine"):
        layer.top(filter=0)


def test_an_open_run_sees_what_other_processes_write(tmp_path):
    path = write_store(str(tmp_path / "small.zarr"))
    writer = Store.open(path, write=True)
    writer.set_fingerprint("rank", None, "conv1")
    (tmp_path / "small.zarr/progress/done/conv1/c/1").unlink()
    run = open_run(path)
    layer = run.layer(1)
    assert layer.mined == 4 / 6
    with pytest.raises(InputError, match="is not ranked yet, 67% of its images are mined"):
        layer.top(filter=0)
    writer.progress.mark("conv1", 1)
    writer.set_fingerprint("rank", {}, "conv1")
    writer.add_layer("conv0", {**LAYER, "depth": 1, "number": None}, {})
    assert layer.mined == 1
    assert len(layer.top(filter=0)) == 3
    assert list(run.layers) == ["conv0", "conv1"]
    assert run.layer("conv0").mined == 0
    writer.set_fingerprint("statistics", {"made": "since"}, "conv1")
    assert run.layer(1).attributes["fingerprints"]["statistics"] == {"made": "since"}


def test_files_that_are_being_written_are_no_part_of_the_tree(tmp_path):
    path = write_store(str(tmp_path / "small.zarr"))
    for name in ("zarr.json.0a1b.partial", "progress/zarr.json.0a1b.partial", "layers/conv1/zarr.json.0a1b.partial"):
        (tmp_path / "small.zarr" / name).write_bytes(b"half")
    assert open_run(path).datatree()["layers/conv1"].attrs["filters"] == 4


def test_a_layer_of_which_nothing_is_mined_has_an_empty_ranking(store):
    shutil.rmtree(store / "progress/done/conv1/c")
    layer = open_run(store).layer(1)
    assert layer.mined == 0
    assert (layer.rank(k=3).image == -1).all()
    assert np.isnan(layer.activation(0)).all()


def test_what_is_not_there_is_one_sentence(mined, tmp_path, monkeypatch):
    run = open_run(mined)
    for call, sentence in (
        (lambda: open_run(tmp_path / "none.zarr"), "there is no store at"),
        (lambda: run.layer("conv9"), "has no layer conv9: its layers are conv1, conv3"),
        (lambda: run.layer(1).top(filter=64), "layer conv1 has no filter 64: its filters are 0 to 63"),
        (lambda: run.layer(1).activation(-1), "has no filter -1"),
        (lambda: run.layer(1).rank(k=0), "k = 0 ranks nothing"),
        (lambda: run.layer(1).rank(where=np.arange(20)), r"where is int64 of shape \(20,\): it is one bool for each"),
        (lambda: run.layer(1).rank(where=np.ones(3, bool)), r"where is bool of shape \(3,\): it is one bool"),
    ):
        with pytest.raises(InputError, match=sentence):
            call()
    Store.create(str(tmp_path / "empty.zarr"))
    with pytest.raises(InputError, match="holds no images yet: `topnine run` begins with them"):
        open_run(tmp_path / "empty.zarr")
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"dataset\(\) needs xarray: pip install 'topnine\[analysis\]'"):
        run.dataset()
