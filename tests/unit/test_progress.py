"""Markers, and what looking at progress reads."""

from collections import Counter
from pathlib import Path

import pytest
import zarr

from tests.doctests import LAYER, write_index, write_store
from topnine.pipeline.errors import DamageError
from topnine.pipeline.store.store import Store


@pytest.fixture
def path(tmp_path) -> str:
    """The path of a finished store of six images in two blocks, with the layer conv1."""
    return write_store(str(tmp_path / "run.zarr"))


def add_layers(path: Path, count: int) -> str:
    """Write a store that has layers and no values; block 1 of every layer is done, block 0 failed."""
    store = Store.create(str(path))
    write_index(store)
    for number in range(count):
        store.add_layer(f"layer{number}", {**LAYER, "depth": number}, {})
        store.progress.set_aside(f"layer{number}", 0, "disk full")
        store.progress.mark(f"layer{number}", 1)
    return str(path)


@pytest.fixture
def reads(monkeypatch) -> Counter:
    """Count what is read of a store on a disk, by key."""
    counted: Counter = Counter()
    get = zarr.storage.LocalStore.get

    async def count_and_get(self, key, *arguments, **options):
        counted[key] += 1
        return await get(self, key, *arguments, **options)

    monkeypatch.setattr(zarr.storage.LocalStore, "get", count_and_get)
    return counted


@pytest.mark.parametrize("layers", [5, 20])
def test_looking_at_progress_reads_a_few_documents_for_every_layer(tmp_path, reads, layers):
    path = add_layers(tmp_path / "run.zarr", layers)
    reads.clear()
    store = Store.open(path)
    assert [store.progress.done_blocks(name) for name in store.layers] == [{1}] * layers
    assert 0 < reads.total() <= 2 * layers + 3
    reads.clear()
    assert [store.progress.done_blocks(name) for name in store.layers] == [{1}] * layers
    assert 0 < reads.total() <= layers + 1  # a layer may have been added since; arrays are the same
    reads.clear()
    assert [store.progress.done_blocks(f"layer{i}") for i in range(layers)] == [{1}] * layers
    assert reads.total() == 0


@pytest.mark.parametrize("layers", [5, 20])
def test_a_worker_reads_only_its_own_layer(tmp_path, reads, layers):
    path = add_layers(tmp_path / "run.zarr", layers)
    reads.clear()
    store = Store.open(path)
    assert 1 in store.progress.done_blocks("layer3")
    assert store.progress.failed_blocks("layer3") == {0: "disk full"}
    assert store.fingerprint("mine", "layer3") == {}
    assert store.layer("layer3").filters == 4
    assert {key.split("/")[-1 if key == "zarr.json" else -2] for key in reads} <= {"zarr.json", "layer3", "c"}
    assert reads.total() <= 8


def test_a_failed_block_is_done_when_it_was_tried_again(path):
    writer, reader = Store.open(path, write=True), Store.open(path)
    assert reader.progress.failed_blocks("conv1") == {}
    writer.progress.set_aside("conv1", 1, "disk full")
    assert reader.progress.failed_blocks("conv1") == {}  # it was done before
    Path(path, "progress/done/conv1/c/1").unlink()
    assert reader.progress.failed_blocks("conv1") == {1: "disk full"}
    assert 1 not in reader.progress.done_blocks("conv1")
    writer.progress.mark("conv1", 1)
    assert reader.progress.failed_blocks("conv1") == {}
    assert 1 in reader.progress.done_blocks("conv1")


def test_only_chunks_are_markers(path):
    folder = Path(path, "progress/done/conv1/c")
    (folder / "3.partial").write_bytes(b"")
    (folder / "note").write_bytes(b"")
    assert Store.open(path).progress.done_blocks("conv1") == {0, 1}


def test_markers_of_a_layer_that_was_not_added_to_the_end_count_for_nothing(path):
    store = Store.open(path, write=True)
    assert store.progress.done_blocks("conv9") == set()
    group = zarr.open_group(f"{path}/layers/conv1")
    group.attrs["fingerprints"] = '{"rank": {}}'
    again = Store.open(path, write=True)
    assert again.progress.done_blocks("conv1") == set()
    assert again.fingerprint("rank", "conv1") is None
    again.add_layer("conv1", LAYER, {"mine.batch": 8})
    assert again.progress.done_blocks("conv1") == set()
    assert 0 not in again.progress.done_blocks("conv1")


def test_markers_are_kept_where_only_the_attributes_of_their_layer_were_lost(path):
    Path(path, "layers/conv1/zarr.json").write_text("{")
    store = Store.open(path, write=True)
    with pytest.raises(DamageError, match=r"is damaged: layers/conv1/zarr\.json cannot be read\. `topnine run` makes"):
        _ = store.layers
    assert store.progress.done_blocks("conv1") == set()
    store.add_layer("conv1", LAYER, {})
    assert store.progress.done_blocks("conv1") == {0, 1}
    assert len(store.layer("conv1").read_activation(slice(None))) == 6


def test_damaged_markers_are_one_sentence(path):
    Path(path, "progress/done/conv1/zarr.json").unlink()
    with pytest.raises(DamageError, match=r"store .* is damaged: it has no array progress/done/conv1\. `topnine run`"):
        Store.open(path).progress.done_blocks("conv1")
