"""The tables of a layer as columns: its hits, and the long table of all its activations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from ..layers import StoredLayer
from ..schema import CORNERS, OK
from ..store import Store
from .hits import Images

PART_ROWS = 2**18  # of the long table: at most so many are in memory, or those of one image

Columns = dict[str, np.ndarray]


def hit_columns(store: Store, images: Images, layer: StoredLayer) -> Columns:
    """Return the hits of a ranked layer, a row each: see ``LayerView.table``."""
    ranking = layer.read_ranking()
    filter, rank = np.nonzero(ranking.image >= 0)
    image = ranking.image[filter, rank]
    keys, labels = store.images.columns(("key", "label"), image)
    boxes = {"box": np.full((len(image), 4), -1), "source_box": np.full((len(image), 4), np.nan)}
    if layer.fingerprint("deconvolve") is not None:
        boxes = {name: layer.read(name)[filter, rank] for name in boxes}
    types = {"box": np.int32, "source_box": np.float32}
    corners = {
        f"{name}_{corner}": box[:, i].astype(types[name])
        for name, box in boxes.items()
        for i, corner in enumerate(CORNERS)
    }
    return {
        "layer": np.full(len(image), layer.name, object),
        "filter": filter.astype(np.int32),
        "rank": rank.astype(np.int32),
        "activation": ranking.activation[filter, rank],
        "image": image,
        "key": np.array(keys, object),
        "label": labels,
        "class_name": _class_names(images, labels),
        "row": ranking.row[filter, rank],
        "column": ranking.column[filter, rank],
        **corners,
    }


def activation_columns(store: Store, images: Images, layer: StoredLayer, blocks: Sequence[slice]) -> Iterator[Columns]:
    """Yield the activations of blocks of images, given by their rows: see ``LayerView.activation_table``."""
    part_images = max(1, PART_ROWS // layer.filters)
    for rows in blocks:
        status, key, label = store.images.columns(("status", "key", "label"), rows)
        mined = layer.read_mined(rows)
        decoded = np.nonzero(status == OK)[0]
        for start in range(0, max(1, len(decoded)), part_images):
            chosen = decoded[start : start + part_images]
            described = {
                "image": chosen + rows.start,
                "key": np.array(key[chosen], object),
                "label": label[chosen],
                "class_name": _class_names(images, label[chosen]),
            }
            activation, row, column = (values[chosen].ravel() for values in mined)
            yield {
                "layer": np.full(len(activation), layer.name, object),
                **{name: np.repeat(values, layer.filters) for name, values in described.items()},
                "filter": np.tile(np.arange(layer.filters, dtype=np.int32), len(chosen)),
                "activation": activation,
                "row": row.astype(np.int32),
                "column": column.astype(np.int32),
            }


def _class_names(images: Images, labels: np.ndarray) -> np.ndarray:
    return np.array([images.class_name(label) for label in labels.tolist()], object)
