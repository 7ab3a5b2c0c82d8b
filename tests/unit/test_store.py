"""The store: its format on the disk, damage, what is redone, and what is refused."""

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray
import zarr

from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from tests.doctests import ACTIVATION, LAYER, write_index, write_store
from topnine.pipeline.errors import DamageError, InputError
from topnine.pipeline.ranking.topk import top
from topnine.pipeline.store.schema import mined_arrays
from topnine.pipeline.store.store import Store, check_writable
from topnine.pipeline.store.verification import Expected, find_damage, list_marked_layers, mend
from topnine.stages.mine import find_spans, find_todo


@pytest.fixture(scope="module")
def shard(tmp_path_factory):
    members = [(f"{i}.png", encode(noise(i))) for i in range(7)]
    return write_tar(tmp_path_factory.mktemp("s") / "a.tar", [*members[:3], ("bad.png", b"no"), *members[3:]])


SETTINGS = {"mine__layers": "1 5", "mine__block": 3}
THREE = {"name": "three", "shards": [], "classes": []}


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
    field = {"size": 83, "stride": 8, "offset": -41, "source": "graph"}
    assert {key: layer.attrs[f"receptive_field_{key}"] for key in field} == field
    assert (layer.attrs["map_height"], layer.attrs["map_width"]) == (12, 12)
    assert {name: str(layer[name].dtype) for name in layer} == {
        "activation": "float32", "row": "uint16", "column": "uint16", "top_image": "int64", "top_activation": "float32",
        "top_row": "int32", "top_column": "int32", "patch": "uint8", "projection": "float32", "box": "int32",
        "source_box": "float32", "footprint": "int32", "mask": "uint8", "tie": "bool", "max_activation": "float32",
        "mean_activation": "float32", "active_fraction": "float32",
    }  # fmt: skip
    assert images.key.values.tolist() == ["0", "1", "2", "bad", "3", "4", "5", "6"]
    assert images.status.values.tolist() == [1, 1, 1, 2, 1, 1, 1, 1]
    assert images.reason.values.tolist()[3] == "not an image"
    assert images.source_height.values.tolist() == [96, 96, 96, 0, 96, 96, 96, 96]
    assert np.isnan(layer.activation.values[3]).all()
    live = np.nonzero(layer.top_image.values[:, 0] >= 0)[0]
    strongest = layer.activation.values[layer.top_image.values[live, 0], live]
    assert len(live) > 60
    assert np.array_equal(strongest, layer.top_activation.values[live, 0])


def test_attributes_tell_how_it_was_made(plan):
    attributes = Store.open(plan.config.store).attributes
    assert (attributes["topnine_schema"], attributes["images"], attributes["block"]) == (3, 8, 3)
    assert attributes["network"] == {"name": "tiny_zfnet", "weights": plan.network.digest}
    assert attributes["dataset"]["shards"][0]["name"] == "a.tar"
    assert attributes["preprocessing"]["size"] == [96, 96]
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
    ranks, projections = store / "layers/conv5/top_image/c/0/0", store / "layers/conv5/projection/c/0/0/0/0/0"
    stamp, projected = ranks.stat().st_mtime_ns, projections.stat().st_mtime_ns
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    assert projections.stat().st_mtime_ns == projected
    changed = planned(data__path=shard, mine__layers="5", mine__block=3, deconvolve__rule="guided")
    run_stages(changed, "index", "mine", "rank", "deconvolve")
    assert ranks.stat().st_mtime_ns == stamp
    assert projections.stat().st_mtime_ns > projected


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"mine__block": 4}, "mine.block = 3, this run has 4"),
        ({"mine__batch": 4}, "mine.batch = 32, this run has 4"),
        ({"decode__crop": 88}, "decode.resize = 96, this run has 88"),
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


@pytest.fixture
def small(tmp_path) -> str:
    """The path of a finished store that no stage has written."""
    return write_store(str(tmp_path / "small.zarr"))


def test_a_handle_reads_what_another_wrote(small):
    store = Store.open(small)
    assert (len(store.images), store.images.block, store.images.blocks) == (6, 4, 2)
    assert [store.images.rows(block) for block in range(2)] == [slice(0, 4), slice(4, 6)]
    key, status = store.images.columns(("key", "status"), np.array([3, 0]))
    assert (key.tolist(), status.tolist()) == (["bad", "cat-0"], [2, 1])
    layer = store.layer("conv1")
    assert layer.attributes == {**LAYER, "fingerprints": {"mine": {}, "rank": {}, "deconvolve": {}}}
    assert layer.filters == 4
    assert np.array_equal(layer.read_activation(slice(1, 4)), ACTIVATION[1:4], equal_nan=True)
    assert np.array_equal(layer.read_filter(2), ACTIVATION[:, 2], equal_nan=True)
    activation, row, column = layer.read_mined(slice(4, 6), slice(1, 3))
    assert np.array_equal(activation, ACTIVATION[4:6, 1:3])
    assert (row.shape, row.dtype, column.dtype) == ((2, 2), np.uint16, np.uint16)
    assert layer.read_ranking(slice(2, 3)).image.tolist() == [[2, 1, 5, 0, -1, -1, -1, -1, -1]]
    assert layer.read("max_activation", np.array([3, 0])).tolist() == [3, 2]


def test_positions_are_looked_up_for_the_right_filters(small):
    layer = Store.open(small, write=True).layer("conv1")
    row = np.arange(24).reshape(6, 4)
    for block, rows in enumerate((slice(0, 4), slice(4, 6))):
        layer.write_block(block, ACTIVATION[rows], row[rows], row[rows] + 100)
    ranking = layer.locate(top(ACTIVATION[:, 2:]), first_filter=2)
    assert ranking.image[:, :4].tolist() == [[2, 1, 5, 0], [5, 1, 2, -1]]
    assert ranking.row[:, :4].tolist() == [[10, 6, 22, 2], [23, 7, 11, -1]]
    assert ranking.column[:, :4].tolist() == [[110, 106, 122, 102], [123, 107, 111, -1]]
    nothing = layer.locate(top(np.zeros((6, 4), np.float32)))
    assert (nothing.row == -1).all()
    assert (nothing.column == -1).all()


def test_a_ranking_counts_only_while_its_fingerprint_is_there(small):
    store = Store.open(small, write=True)
    ranking = store.layer("conv1").read_ranking()
    with pytest.raises(AttributeError):
        store.layer("conv1").write_ranking(ranking, None, {})
    assert Store.open(small).fingerprint("rank", "conv1") is None
    assert Store.open(small).fingerprint("mine", "conv1") == {}


def test_layers_are_ordered_by_depth_then_name(tmp_path):
    store = Store.create(str(tmp_path / "run.zarr"))
    assert store.layers == []
    write_index(store)
    for name, depth in (("b", 2), ("c", 1), ("a", 2)):
        store.add_layer(name, {**LAYER, "depth": depth}, {"made": name})
    assert store.layers == Store.open(store.path).layers == ["c", "a", "b"]
    assert list_marked_layers(store) == ["a", "b", "c"]
    assert store.fingerprint("mine", "b") == {"made": "b"}


def test_what_a_store_lacks_is_none_or_one_sentence(tmp_path):
    store = Store.create(str(tmp_path / "run.zarr"))
    assert store.fingerprint("index") is None
    assert store.fingerprint("mine", "conv1") is None
    with pytest.raises(DamageError, match=r"is damaged: it has no layer conv1\. `topnine run` makes it again"):
        _ = store.layer("conv1").attributes
    with pytest.raises(DamageError, match=r"is damaged: it has no images\. `topnine run` makes it again"):
        len(store.images)
    assert list_marked_layers(store) == []


def test_a_damaged_index_entry_is_recorded_at_once(tmp_path):
    store = Store.create(str(tmp_path / "run.zarr"))
    images = np.arange(3)
    columns = {"key": np.array(["a", "b", "c"], object), "shard": images, "offset": images, "byte_count": images}
    damage = np.array(["", "ends early", ""], object)
    store.write_index({**columns, "label": images - 1}, damage, 2, {"dataset": THREE}, {"data": "three"}, {})
    again = Store.open(store.path)
    assert again.images.columns(["reason"])[0].tolist() == ["", "ends early", ""]
    assert again.attributes["dataset"] == store.attributes["dataset"] == THREE
    assert again.fingerprint("index") == {"data": "three"}


def test_damage_is_told_from_what_was_never_written(small):
    store, spec = Store.open(small), mined_arrays(6, 4, 4, 6, 6)["row"]

    def find(spec, required=None):
        expected = Expected("layers/conv1/row", spec, required, ("conv1",), "mine")
        return [damage.text for damage in find_damage(store, expected)]

    assert find(spec) == []
    chunk = Path(small, "layers/conv1/row/c/1/0")
    chunk.write_bytes(chunk.read_bytes()[:-1])
    (problem,) = find(spec)
    assert problem.startswith("layers/conv1/row/c/1/0 is damaged: ")
    chunk.unlink()
    assert find(spec) == find(spec, {(1, 0)}) == ["layers/conv1/row/c/1/0 is missing or empty"]
    assert find(spec, {(0, 0)}) == []
    chunk.write_bytes(b"")
    assert find(spec) == ["layers/conv1/row/c/1/0 is missing or empty"]
    assert find(spec, {(0, 0)}) == ["layers/conv1/row/c/1/0 is empty"]
    larger = mined_arrays(7, 4, 4, 6, 6)["row"]
    assert find(larger, ())[0] == "layers/conv1/row/zarr.json is not what the schema wants"


@pytest.mark.parametrize("thorough", [False, True])
def test_what_was_lost_of_images_is_taken_back_from_every_layer(small, thorough):
    store = Store.open(small, write=True)
    store.add_layer("conv2", {**LAYER, "number": 2}, {})
    for block in range(2):
        count = len(range(6)[store.images.rows(block)])
        figures = dict.fromkeys(("source_height", "source_width", "difference_hash"), np.ones(count, np.int64))
        store.images.write(block, {"reason": np.full(count, "", np.dtypes.StringDType()), **figures})
        store.layer("conv2").write_block(block, *np.zeros((3, count, 4)))
        store.progress.mark("conv2", block)
    assert not [*mend(store, ["conv1", "conv2"], thorough)]
    Path(small, "images/status/c/1").unlink()
    Path(small, "layers/conv2/row/c/0/0").unlink()
    lost = [*mend(store, ["conv1"], thorough)]
    assert lost == ["images/status/c/1 is missing or empty"]
    assert [store.progress.done_blocks(name) for name in ("conv1", "conv2")] == [{0}, {0}]
    assert [*mend(store, ["conv2"], thorough)] == ["layers/conv2/row/c/0/0 is missing or empty"]
    assert store.progress.done_blocks("conv2") == set()


def test_discarding_deletes_everything_and_unfinished_files_alone(small):
    partial = Path(small, "layers/conv1/row/c/1/0.abc.partial")
    partial.write_bytes(b"half")
    recent = Path(small, "layers/conv1/row/c/1/1.abc.partial")
    recent.write_bytes(b"half")
    os.utime(partial, (0, 0))
    before = {path for path in Path(small).rglob("*") if path != partial}
    store = Store.open(small, write=True)
    store.discard_unfinished(recent=False)
    assert set(Path(small).rglob("*")) == before
    store.discard_unfinished(recent=True)
    assert set(Path(small).rglob("*")) == before - {recent}
    store.discard()
    assert not Path(small).exists()


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        ('{"zarr_format": 3, "node_type": "group", "attributes": {}}', "is a Zarr group, but no store of topnine's"),
        (
            '{"zarr_format": 3, "node_type": "group", "attributes": {"schema": 2}}',
            "has schema 2, which an older topnine wrote; this one reads schema 3. Mine into another STORE",
        ),
        (
            '{"zarr_format": 3, "node_type": "group", "attributes": {"topnine_schema": 9}}',
            "schema 9, which a newer topnine",
        ),
        ("{", r"is damaged: its zarr\.json, .*Put back a copy of this file, or give another STORE"),
    ],
)
def test_a_foreign_store_is_refused(small, document, sentence):
    Path(small, "zarr.json").write_text(document)
    with pytest.raises(InputError, match=sentence):
        Store.open(small)
