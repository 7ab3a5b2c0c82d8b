"""The pixels that activations can see: boxes in the network's input, and what is cut out of images by them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..data.decoding.preparation import Geometry
from ..network.receptive_field import ReceptiveField


def patch_boxes(field: ReceptiveField, row: np.ndarray, column: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the boxes (hit, corner) int32 of activations' patches: top, left, bottom, right in input pixels.

    ``size`` is the height and width of the input.
    """
    return _boxes(field.y.window, field.x.window, row, column, size)


def exact_boxes(field: ReceptiveField, row: np.ndarray, column: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the boxes (hit, corner) int32 of the crops that activations are computed from: see ``Axis.crop``."""
    return _boxes(field.y.crop, field.x.crop, row, column, size)


def _boxes(
    rows: Callable[[int, int], tuple[int, int]],
    columns: Callable[[int, int], tuple[int, int]],
    row: np.ndarray,
    column: np.ndarray,
    size: Sequence[int],
) -> np.ndarray:
    boxes = np.empty((len(row), 4), np.int32)
    for i, (extent, positions) in enumerate(((rows, row), (columns, column))):
        distinct, number = np.unique(positions, return_inverse=True)  # a map has few rows beside its layer's hits
        extents = [extent(position, size[i]) for position in distinct.tolist()]
        boxes[:, i::2] = np.array(extents, np.int32).reshape(-1, 2)[number]
    return boxes


def source_boxes(boxes: np.ndarray, geometries: Sequence[Geometry]) -> np.ndarray:
    """Return boxes (hit, corner) in input pixels as boxes float32 in the pixels of the hits' source images.

    >>> source_boxes(np.array([[0, 0, 96, 48]]), [Geometry(height=192, width=384, resize=96, size=(96, 96))]).tolist()
    [[0.0, 96.0, 192.0, 192.0]]
    """
    corners = zip(boxes.tolist(), geometries, strict=True)
    return np.array([geometry.to_source(*box) for box, geometry in corners], np.float32).reshape(-1, 4)


def patch_size(field: ReceptiveField, size: Sequence[int]) -> tuple[int, int]:
    """Return height and width of a layer's patches on an input of a size, in pixels."""
    return min(field.y.size, size[0]), min(field.x.size, size[1])


def cut(images: Sequence[np.ndarray], boxes: np.ndarray) -> np.ndarray:
    """Cut boxes (hit, corner), all of one size, out of images (y, x, channel), one a hit."""
    top, left, bottom, right = boxes[0]
    pictures = np.empty((len(boxes), bottom - top, right - left, images[0].shape[2]), images[0].dtype)
    cut_into(pictures, images, boxes)
    return pictures


def cut_into(pictures: Iterable[np.ndarray], images: Iterable[np.ndarray], boxes: np.ndarray) -> None:
    """Cut boxes (hit, corner) out of images (y, x, channel), one a hit, and write them into pictures of their size."""
    for picture, image, (top, left, bottom, right) in zip(pictures, images, boxes.tolist(), strict=True):
        picture[:] = image[top:bottom, left:right]
