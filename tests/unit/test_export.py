"""``topnine export`` and the tables of a layer, on small stores that no stage has written."""

import csv
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import zarr
from pyarrow import parquet
from typer.testing import CliRunner

from tests.doctests import ACTIVATION, KEYS, LABELS, LAYER, write_index, write_store
from topnine import open_run
from topnine.pipeline.errors import DamageError, InputError
from topnine.pipeline.store.analysis import columns
from topnine.pipeline.store.schema import OK
from topnine.pipeline.store.store import Store
from topnine.stages.cli.main import app
from topnine.stages.tools.export import export

NAMES = ["layer", "image", "key", "label", "class_name", "filter", "activation", "row", "column"]


@pytest.fixture
def store(tmp_path, monkeypatch) -> str:
    """A finished layer 1 (conv1), an unmined layer 2 (conv2) and an unmined one without a number."""
    monkeypatch.chdir(tmp_path)
    path = write_store("runs/small.zarr")
    writer = Store.open(path, write=True)
    writer.add_layer("conv2", {**LAYER, "number": 2, "depth": 3}, {})
    writer.add_layer("deep/er", {**LAYER, "number": None, "depth": 4}, {})
    return path


def finish(store: str, *layers: str) -> None:
    """Mine, rank and deconvolve layers as conv1 is."""
    writer, done = Store.open(store, write=True), Store.open(store).layer("conv1")
    for name in layers:
        for block in range(2):
            rows = writer.images.rows(block)
            writer.layer(name).write_block(block, *done.read_mined(rows))
            writer.progress.mark(name, block)
        for array in Path(store, "layers/conv1").iterdir():
            if array.is_dir():
                shutil.copytree(array, Path(store, "layers", name.replace("/", "%2F"), array.name), dirs_exist_ok=True)
        for stage in ("rank", "deconvolve"):
            writer.set_fingerprint(stage, {}, name)


def wanted_rows(layer: str):
    """The long table, from the small store's values."""
    for image, values in enumerate(ACTIVATION.tolist()):
        for filter, activation in enumerate(values):
            if not np.isnan(activation):
                name = ["cat", "dog", ""][LABELS[image]]
                yield layer, image, KEYS[image], LABELS[image], name, filter, activation, 0, 0


def test_the_long_table_has_a_row_for_every_decoded_image_and_filter(store):
    assert export(store, "1", activations=True) == Path("runs/small/tables/layer1-activations.parquet")
    file = parquet.ParquetFile("runs/small/tables/layer1-activations.parquet")
    assert file.schema_arrow.names == NAMES
    assert [str(kind) for kind in file.schema_arrow.types] == [
        "string", "int64", "string", "int32", "string", "int32", "float", "int32", "int32",
    ]  # fmt: skip
    assert [tuple(row.values()) for row in file.read().to_pylist()] == list(wanted_rows("conv1"))
    assert file.num_row_groups == 2  # one for a block


@pytest.mark.parametrize("part_rows", [1, 4, 7, 8, 100])
def test_parts_of_any_size_are_the_same_table_also_as_csv(store, monkeypatch, part_rows):
    monkeypatch.setattr(columns, "PART_ROWS", part_rows)
    parts = list(open_run(store).layer(1).activation_table())
    assert max(len(part["image"]) for part in parts) <= max(4, part_rows)  # those of one image at least
    export(store, "1", "x.csv", activations=True)
    with Path("x.csv").open(newline="", encoding="utf-8") as file:
        names, *rows = csv.reader(file)
    assert names == NAMES
    kinds = (str, int, str, int, str, int, float, int, int)
    assert [tuple(kind(cell) for kind, cell in zip(kinds, row, strict=True)) for row in rows] == [*wanted_rows("conv1")]


def test_only_what_is_mined_is_in_it(store):
    Path(store, "progress/done/conv1/c/0").unlink()
    export(store, "1", "x.parquet", activations=True)
    rows = [tuple(row.values()) for row in parquet.read_table("x.parquet").to_pylist()]
    assert rows == [row for row in wanted_rows("conv1") if row[1] >= 4]
    with pytest.raises(InputError, match=r"layer conv2 of .* has no activations yet: `topnine run` mines it"):
        export(store, "1 2", "y.parquet", activations=True)
    assert not Path("y.parquet").exists()


@pytest.mark.parametrize(
    ("layer", "file", "rows"),
    [
        ("1", "layer1.csv", {"conv1": 10}),
        ("conv2", "layer2.csv", {"conv2": 10}),
        ("2, 1", "layer2+1.csv", {"conv2": 10, "conv1": 10}),
        ("all", "layers.csv", {"conv1": 10, "conv2": 10}),
        ("every", "layers.csv", {"conv1": 10, "conv2": 10, "deep/er": 10}),
        ("1 every 1", "layer1+2+deep%2Fer.csv", {"conv1": 10, "conv2": 10, "deep/er": 10}),
        ("deep/er", "layerdeep%2Fer.csv", {"deep/er": 10}),
    ],
)
def test_layers_follow_one_another_in_one_table(store, layer, file, rows):
    finish(store, "conv2", "deep/er")
    result = CliRunner().invoke(app, ["export", store, "--layer", layer])
    assert result.exit_code == 0, result.output
    assert result.output == f"runs/small/tables/{file}\n"
    with Path("runs/small/tables", file).open(newline="", encoding="utf-8") as opened:
        found = [row["layer"] for row in csv.DictReader(opened)]
    assert found == [name for name, count in rows.items() for _ in range(count)]


def test_all_are_all_layers_where_none_has_a_number(store):
    Store.open(store, write=True).add_layer("conv1", {**LAYER, "number": None}, {})
    Store.open(store, write=True).add_layer("conv2", {**LAYER, "number": None}, {})
    with pytest.raises(InputError, match=r"layer conv1 of .* is not ranked yet"):
        export(store, "all")


def test_an_ending_in_capitals_is_one_and_the_file_before_is_replaced(store):
    Path("X.CSV").write_text("before")
    assert export(store, "1", "X.CSV") == Path("X.CSV")
    assert Path("X.CSV").read_text().startswith("layer,filter,rank,activation")
    assert sorted(path.name for path in Path().iterdir()) == ["X.CSV", "runs"]


def test_a_part_that_fails_leaves_the_file_before(store, monkeypatch):
    export(store, "1", "x.parquet", activations=True)
    before = Path("x.parquet").read_bytes()
    Path(store, "layers/conv1/activation/c/1/0").write_bytes(b"damaged")
    with pytest.raises(DamageError, match="layers/conv1/activation cannot be read"):
        export(store, "1", "x.parquet", activations=True)
    assert Path("x.parquet").read_bytes() == before
    assert sorted(path.name for path in Path().iterdir()) == ["runs", "x.parquet"]


@pytest.mark.parametrize("number", ["../../../escaped", 0, -3, 1.5, True, ["x"]])
def test_an_attribute_of_a_store_leads_nowhere(store, number):
    zarr.open_group(f"{store}/layers/conv1", mode="r+").update_attributes({"number": number})
    with pytest.raises(InputError, match=r"layer conv1 of store .* is damaged: its attribute number: "):
        export(store, "conv1")
    assert sorted(path.name for path in Path().iterdir()) == ["runs"]


def test_the_long_table_takes_the_memory_of_a_block(tmp_path):
    """Sixteen blocks take what three or four do: when those before are freed is the garbage collector's choice."""

    def peak(blocks: int) -> int:
        path, filters, block = str(tmp_path / f"{blocks}.zarr"), 512, 256
        images = np.arange(blocks * block)
        writer = Store.create(path)
        index = {"key": images.astype(str).astype(object), "shard": images, "offset": images, "byte_count": images}
        attributes = {"dataset": {"name": "many", "shards": [], "classes": []}}
        writer.write_index({**index, "label": images}, np.full(len(images), ""), block, attributes, {}, {})
        writer.add_layer("conv1", {**LAYER, "filters": filters}, {})
        for number in range(blocks):
            writer.images.write(number, {"status": np.full(block, OK)})
            writer.layer("conv1").write_block(number, *np.ones((3, block, filters), np.float32))
            writer.progress.mark("conv1", number)
        tracemalloc.start()
        export(path, "1", str(tmp_path / f"{blocks}.parquet"), activations=True)
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert parquet.ParquetFile(tmp_path / f"{blocks}.parquet").metadata.num_rows == len(images) * filters
        return used

    assert peak(16) < 2.5 * peak(3)


def test_a_store_without_layers_is_one_sentence(tmp_path):
    store = Store.create(str(tmp_path / "x.zarr"))
    write_index(store)
    with pytest.raises(InputError, match="has no layers yet: `topnine run` mines some"):
        export(store.path, "every")
