"""The pixels that activations can see: images decoded again, by id, and windows cut out of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from . import shards
from .config import RunConfig
from .decode import decode
from .errors import DecodeError, WorkError
from .layers import Layer
from .ranking import top
from .receptive_field import ReceptiveField
from .store import Store
from .stream import ahead


def read_images(
    store: Store, dataset: shards.Dataset, images: np.ndarray, config: RunConfig, threads: int
) -> np.ndarray:
    """Decode images by their ids (image): network input pixels (image, y, x, rgb) uint8.

    Raises
    ------
    WorkError
        An image that was decoded when it was mined no longer can be.
    """
    keys, shard, offset, length = store.image_columns(("key", "shard", "offset", "size"), images)

    size = config.decode

    def read(i: int) -> np.ndarray:
        try:
            data = reader.read(int(shard[i]), int(offset[i]), int(length[i]))
            return decode(data, size.resize, size.crop, config.data.max_pixels, size.fast).pixels
        except (DecodeError, OSError) as error:
            name = dataset.shards[shard[i]].name
            raise WorkError(
                f"image {keys[i]} in shard {name} was mined but cannot be decoded now: {error}. Has the shard changed?"
            ) from error

    pixels = np.empty((len(images), size.crop, size.crop, 3), np.uint8)
    with shards.opened(dataset) as reader:
        for i, image in enumerate(ahead(read, range(len(images)), threads, 4 * threads)):
            pixels[i] = image
    return pixels


def windows(field: ReceptiveField, row: np.ndarray, column: np.ndarray, crop: int) -> np.ndarray:
    """Give the boxes (hit, corner) int32 of activations' patches: top, left, bottom, right in input pixels."""
    return _boxes(field.window, row, column, crop)


def crops(field: ReceptiveField, row: np.ndarray, column: np.ndarray, crop: int) -> np.ndarray:
    """Give the boxes (hit, corner) int32 of the parts of the input that activations are computed from."""
    return _boxes(field.crop, row, column, crop)


def _boxes(
    place: Callable[..., tuple[int, int, int, int]], row: np.ndarray, column: np.ndarray, crop: int
) -> np.ndarray:
    boxes = [place(int(y), int(x), crop, crop) for y, x in zip(row, column, strict=True)]
    return np.array(boxes, np.int32).reshape(-1, 4)


def window_size(field: ReceptiveField, crop: int) -> tuple[int, int]:
    """Give height and width of a layer's patches."""
    return min(field.y.size, crop), min(field.x.size, crop)


def cut(pixels: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut boxes (hit, corner), all of one size, out of images (hit, y, x, channel)."""
    return np.stack(
        [image[top:bottom, left:right] for image, (top, left, bottom, right) in zip(pixels, boxes, strict=True)]
    )


def strongest_patches(
    store: Store, dataset: shards.Dataset, layer: Layer, number: int, count: int, config: RunConfig, threads: int
) -> np.ndarray:
    """Cut the patches (patch, y, x, rgb) of a filter's strongest activations, as many as there are up to a count."""
    strongest = top(store.read_filter(layer.name, number), ranks=min(count, store.images))
    ranking = store.locate(layer.name, strongest, number)
    there = ranking.image[0] >= 0
    if not there.any():
        return np.empty((0, *window_size(layer.field, config.decode.crop), 3), np.uint8)
    boxes = windows(layer.field, ranking.row[0][there], ranking.column[0][there], config.decode.crop)
    return cut(read_images(store, dataset, ranking.image[0][there], config, threads), boxes)
