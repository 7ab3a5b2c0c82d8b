import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from pipeline.errors import InputError
from pipeline.store import Store, check_writable
from stages.mine import find_spans, find_todo
from tests.conftest import encode, noise, plan_run, run_stages, write_tar


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    members = [(f"{i}.png", encode(noise(i))) for i in range(7)]
    return write_tar(tmp_path_factory.mktemp("s") / "a.tar", [*members[:3], ("bad.png", b"no"), *members[3:]])


SETTINGS = {"mine__layers": "1 5", "mine__block": 3}


@pytest.fixture(scope="module")
def finished(shard, tmp_path_factory):
    made = plan_run(tmp_path_factory.mktemp("finished"), data__path=shard, **SETTINGS)
    run_stages(made, "index", "mine", "rank", "deconvolve")
    return made.config.store


@pytest.fixture
def plan(finished, tmp_path, planned, shard):
    """A finished run, each time a copy of its own."""
    shutil.copytree(finished, tmp_path / "run.zarr")
    return planned(data__path=shard, **SETTINGS)


def test_nothing_of_this_project_is_needed_to_read_it(plan):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer = xarray.open_zarr(plan.config.store, group="layers/conv5", consolidated=False)
        images = xarray.open_zarr(plan.config.store, group="images", consolidated=False)
    assert dict(layer.sizes) == {"image": 8, "filter": 128, "rank": 9, "y": 83, "x": 83, "rgb": 3, "corner": 4}
    assert layer.attrs["receptive_field"] == {"size": 83, "stride": 8, "offset": -41}
    assert layer.attrs["map"] == {"height": 12, "width": 12}
    assert {name: str(layer[name].dtype) for name in layer} == {
        "activation": "float32", "row": "uint16", "column": "uint16", "top_image": "int64", "top_activation": "float32",
        "top_row": "int32", "top_column": "int32", "patch": "uint8", "projection": "float32", "box": "int32",
        "maximum": "float32", "mean": "float32", "active_fraction": "float32",
    }  # fmt: skip
    assert images.key.values.tolist() == ["0", "1", "2", "bad", "3", "4", "5", "6"]
    assert images.status.values.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]
    assert images.reason.values.tolist()[3] == "not an image"
    assert images.height.values.tolist() == [96, 96, 96, 0, 96, 96, 96, 96]
    assert np.isnan(layer.activation.values[3]).all()
    live = np.nonzero(layer.top_image.values[:, 0] >= 0)[0]
    strongest = layer.activation.values[layer.top_image.values[live, 0], live]
    assert len(live) > 60
    assert np.array_equal(strongest, layer.top_activation.values[live, 0])


def test_attributes_tell_how_it_was_made(plan):
    attributes = zarr.open_group(plan.config.store, mode="r").attrs.asdict()
    assert attributes["network"] == {"name": "tiny_zfnet", "weights": plan.digest}
    assert attributes["dataset"]["shards"][0]["name"] == "a.tar"
    assert attributes["preprocessing"]["crop"] == 96
    assert attributes["versions"].keys() >= {"topnine", "torch", "pillow"}
    assert not (Path(plan.config.store) / "zarr.json").read_text().count('consolidated_metadata": {')


@pytest.mark.parametrize("array", ["layers/conv5/activation", "layers/conv5/projection", "images/key", "images/status"])
def test_a_flipped_bit_is_never_silent(plan, array):
    chunk = max(
        (p for p in (Path(plan.config.store) / array / "c").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(chunk.read_bytes())
    data[len(data) // 2] ^= 4
    chunk.write_bytes(data)
    with pytest.raises((ValueError, RuntimeError)):
        zarr.open_group(plan.config.store, mode="r")[array][:]


def test_chunks_of_zeros_are_written_so_that_a_missing_one_is_damage(plan):
    store = Path(plan.config.store)
    for name in ("row", "column", "activation"):
        assert len(list((store / "layers/conv1" / name / "c").iterdir())) == 3
    assert len(list((store / "images/reason/c").iterdir())) == 3


def test_what_is_to_do_is_known_from_the_markers_alone(plan):
    store = Store.open(plan.config.store)
    assert find_todo(store, plan.layers) == {}
    for marker in ("conv1/c/1", "conv5/c/0", "conv5/c/1"):
        (Path(plan.config.store) / "progress/done" / marker).unlink()
    one, five = plan.layers
    assert find_todo(store, plan.layers) == {0: (five,), 1: (one, five)}


def test_spans_are_consecutive_blocks_that_miss_the_same_layers():
    todo = dict.fromkeys([0, 1, 2, 3, 4, 7, 8], ("a",)) | {5: ("a", "b")}
    spans = [(span.blocks, span.layers) for span in find_spans(todo, 3)]
    assert spans == [((0, 1, 2), ("a",)), ((3, 4), ("a",)), ((5,), ("a", "b")), ((7, 8), ("a",))]


def test_a_layer_that_was_half_made_is_made_anew(plan, planned, shard):
    metadata = Path(plan.config.store) / "layers/conv5/zarr.json"
    document = json.loads(metadata.read_text())
    document["attributes"] = {}
    metadata.write_text(json.dumps(document))
    assert Store.open(plan.config.store).layers == ["conv1"]
    run_stages(plan, "mine", "rank", "deconvolve")
    assert Store.open(plan.config.store).layers == ["conv1", "conv5"]
    assert not find_todo(Store.open(plan.config.store), plan.layers)


def test_stages_are_redone_only_when_their_settings_change(plan, planned, shard):
    store = Path(plan.config.store)
    stamp = (store / "layers/conv5/top_image/zarr.json").stat().st_mtime_ns
    projected = (store / "layers/conv5/projection/zarr.json").stat().st_mtime_ns
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    assert (store / "layers/conv5/projection/zarr.json").stat().st_mtime_ns == projected
    changed = planned(data__path=shard, mine__layers="5", mine__block=3, deconvolve__rule="guided")
    run_stages(changed, "index", "mine", "rank", "deconvolve")
    assert (store / "layers/conv5/top_image/zarr.json").stat().st_mtime_ns == stamp
    assert (store / "layers/conv5/projection/zarr.json").stat().st_mtime_ns > projected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mine__block": 4}, "mine.block = 3, this run has 4"),
        ({"mine__batch": 4}, "mine.batch = 32, this run has 4"),
        ({"decode__crop": 88}, "decode.crop = 96, this run has 88"),
        ({"network__weights": "random"}, "network.weights = "),
        ({"data__path": "photos"}, "data = 1 shards"),
    ],
)
def test_a_store_made_with_other_settings_is_refused(plan, planned, shard, change, sentence):
    before = {path: path.read_bytes() for path in Path(plan.config.store).rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=sentence):
        planned(**{"data__path": shard, "mine__layers": "1 5", "mine__block": 3, **change})
    assert {path: path.read_bytes() for path in Path(plan.config.store).rglob("*") if path.is_file()} == before


def test_a_store_can_only_be_made_where_nothing_is_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    (tmp_path / "empty").mkdir()
    check_writable(str(tmp_path / "empty"))
    check_writable(str(tmp_path / "a/b/c.zarr"))
    for path, sentence in (("file", "a file is there"), ("file/x/run.zarr", "file is a file"), ("full", "not empty")):
        with pytest.raises(InputError, match=sentence):
            check_writable(str(tmp_path / path))
    with pytest.raises(InputError, match="there is no store"):
        Store.open(str(tmp_path / "empty"))
