"""For the doctests: ``open_run``, and ``store``, the path of a small finished store whose values are written here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

if TYPE_CHECKING:
    from topnine.pipeline.store.store import Store

ACTIVATION = np.array(
    [[1, 0, 0.5, 0], [0, 0, 2, 1], [2, 0, 3, 1], [np.nan] * 4, [1, 0, 0, 0], [0, 0, 2, 3]], np.float32
)
KEYS = ["cat-0", "dog-0", "cat-1", "bad", "cat-2", "dog-1"]
LABELS = [0, 1, 0, -1, 0, 1]
BLOCK = 4  # images
LAYER = {
    "number": 1,
    "depth": 2,
    "module": "0",
    "filters": 4,
    "map": {"height": 6, "width": 6},
    "receptive_field": {"size": 3, "stride": 1, "offset": 0},
    "tap": "ReLU",
    "precision": "float32",
    "versions": {},
}


@pytest.fixture(scope="session", autouse=True)
def _small_store(request, doctest_namespace, tmp_path_factory):
    """Write the store, if any doctest is run."""
    if any(isinstance(item, pytest.DoctestItem) for item in request.session.items):
        from topnine import open_run

        doctest_namespace["open_run"] = open_run
        doctest_namespace["store"] = write_store(str(tmp_path_factory.mktemp("doctests") / "run.zarr"))


def write_store(path: str) -> str:
    """Write a run over six images, one of them damaged, with one layer of four filters; filter 1 is dead."""
    from topnine.pipeline.store.store import Store

    store = Store.create(path)
    write_index(store)
    store.add_layer("conv1", LAYER, {})
    _mine(store)
    _rank(store)
    _deconvolve(store)
    return path


def write_index(store: Store) -> None:
    """Write the index of the six images."""
    images = np.arange(len(KEYS))
    places = {"shard": images * 0, "offset": images, "byte_count": images}
    columns = {"key": np.array(KEYS, object), **places, "label": LABELS}
    attributes = {"dataset": {"name": "six", "shards": [], "classes": ["cat", "dog"]}}
    columns = {name: np.asarray(values) for name, values in columns.items()}
    store.write_index(columns, np.full(len(KEYS), ""), BLOCK, attributes, {}, {})


def _mine(store: Store) -> None:
    from topnine.pipeline.store.schema import OK, UNDECODABLE

    for block in range(store.images.blocks):
        activation = ACTIVATION[store.images.rows(block)]
        store.images.write(block, {"status": np.where(np.isnan(activation[:, 0]), UNDECODABLE, OK)})
        store.layer("conv1").write_block(block, activation, *np.zeros((2, *activation.shape)))
        store.progress.mark("conv1", block)


def _rank(store: Store) -> None:
    from topnine.pipeline.ranking.topk import top
    from topnine.pipeline.ranking.totals import Totals

    layer = store.layer("conv1")
    layer.write_ranking(layer.locate(top(ACTIVATION)), Totals.of(ACTIVATION), {})


def _deconvolve(store: Store) -> None:
    from topnine.pipeline.ranking.topk import RANKS

    layer = store.layer("conv1")
    layer.create_patches(3, 3, 3)
    pixels = np.ones((4, RANKS, 3, 3, 3))
    box = np.tile(np.array([0, 1, 3, 4]), (4, RANKS, 1))
    arrays = {"patch": pixels, "projection": pixels, "box": box, "source_box": box * 2.0, "footprint": box}
    layer.write_patches(slice(None), {**arrays, "mask": 255 * pixels[..., 0], "tie": False})
    layer.set_fingerprint("deconvolve", {})
