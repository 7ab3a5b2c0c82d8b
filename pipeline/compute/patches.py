"""The pixels that activations can see: boxes in the network's input, and what is cut out of images by them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from ..data.decoding.preparation import Geometry
from ..network.receptive_field import ReceptiveField


def patch_boxes(field: ReceptiveField, row: np.ndarray, column: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the boxes (hit, corner) int32 of activations' patches: top, left, bottom, right in input pixels.

    ``size`` is the height and width of the input.
    """
    return _boxes(field.window, row, column, size)


def exact_boxes(field: ReceptiveField, row: np.ndarray, column: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Return the boxes (hit, corner) int32 of the crops that activations are computed from: see ``Axis.crop``."""
    return _boxes(field.crop, row, column, size)


def _boxes(
    box: Callable[..., tuple[int, int, int, int]], row: np.ndarray, column: np.ndarray, size: Sequence[int]
) -> np.ndarray:
    boxes = [box(int(y), int(x), size[0], size[1]) for y, x in zip(row, column, strict=True)]
    return np.array(boxes, np.int32).reshape(-1, 4)


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


def cut(images: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Cut boxes (hit, corner), all of one size, out of images (hit, y, x, channel)."""
    return np.stack(
        [image[top:bottom, left:right] for image, (top, left, bottom, right) in zip(images, boxes, strict=True)]
    )
