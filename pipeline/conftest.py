"""For the doctests: ``store``, the path of a small finished store that was written by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from . import ranking
from .graph import trace
from .layers import Layer, find_layers
from .store import OK, UNDECODABLE, Store

ACTIVATION = np.array(
    [[1, 0, 0.5, 0], [0, 0, 2, 1], [2, 0, 3, 1], [np.nan] * 4, [1, 0, 0, 0], [0, 0, 2, 3]], np.float32
)
KEYS = ["cat-0", "dog-0", "cat-1", "bad", "cat-2", "dog-1"]
LABELS = [0, 1, 0, -1, 0, 1]
BLOCK = 4


@pytest.fixture(scope="session", autouse=True)
def _small_store(doctest_namespace: dict[str, object], tmp_path_factory: pytest.TempPathFactory) -> None:
    doctest_namespace["store"] = write_store(str(tmp_path_factory.mktemp("doctests") / "run.zarr"))


def write_store(path: str) -> str:
    """Write a run over six images, one of them damaged, with one layer of four filters; filter 1 is dead."""
    store = Store.create(path)
    images = np.arange(len(KEYS))
    columns = {"key": np.array(KEYS, object), "shard": images * 0, "offset": images, "size": images, "label": LABELS}
    attributes = {"dataset": {"name": "six", "shards": [], "classes": ["cat", "dog"]}}
    store.write_index(
        {name: np.asarray(values) for name, values in columns.items()}, np.full(6, ""), BLOCK, attributes, {}
    )
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    (layer,) = find_layers(trace(network, torch.zeros(1, 3, 8, 8)), {"conv1": "0"}, "1")
    store.add_layer(layer, "float32", {}, {})
    _mine(store, layer)
    _rank(store, layer)
    return path


def _mine(store: Store, layer: Layer) -> None:
    for block in range(store.blocks):
        activation = ACTIVATION[store.rows(block)]
        status = np.where(np.isnan(activation[:, 0]), UNDECODABLE, OK)
        store.write_images(block, {"status": status})
        store.write_block(layer.name, block, activation, *np.zeros((2, *activation.shape)))
        store.mark(layer.name, block)


def _rank(store: Store, layer: Layer) -> None:
    located = store.locate(layer.name, ranking.top(ACTIVATION))
    store.write_ranking(layer.name, located, ranking.figures(ACTIVATION), {})
    store.create_patches(layer.name, 3, 3)
    shape = (4, ranking.RANKS)
    box = np.tile(np.array([0, 1, 3, 4]), (*shape, 1))
    pixels = np.ones((*shape, 3, 3, 3))
    store.write_patches(layer.name, slice(None), pixels.astype(np.uint8), pixels, box)
    store.set_fingerprint("deconvolve", {}, layer.name)
