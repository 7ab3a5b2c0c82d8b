"""Pictures of one size, set into rows with gaps between them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

WHITE = 255


def mosaic(
    pictures: Sequence[np.ndarray] | np.ndarray, columns: int, gap: tuple[int, int], background: int = WHITE
) -> np.ndarray:
    """Set pictures into rows, from left to right and from top to bottom.

    Parameters
    ----------
    pictures : sequence of ndarray (y, x, rgb) uint8
        All of one size, at least one.
    columns : int
        Pictures in a row; the mosaic is narrower where there are fewer pictures.
    gap : (int, int)
        Pixels between two rows, and between two columns.
    background : int
        The grey of the gaps and of the last row's end, 0 to 255.

    Returns
    -------
    ndarray (y, x, rgb) uint8
    """
    height, width = pictures[0].shape[:2]
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    shape = rows * (height + gap[0]) - gap[0], columns * (width + gap[1]) - gap[1], 3
    canvas = np.full(shape, background, np.uint8)
    for number, picture in enumerate(pictures):
        top, left = corner(number, columns, (height, width), gap)
        canvas[top : top + height, left : left + width] = picture
    return canvas


def corner(number: int, columns: int, size: tuple[int, int], gap: tuple[int, int]) -> tuple[int, int]:
    """Return where in a mosaic the picture of a number begins: its top and left in pixels.

    Parameters
    ----------
    number : int
        Of the picture, from 0.
    columns : int
        Pictures in a row.
    size : (int, int)
        Height and width of a picture in pixels.
    gap : (int, int)
        Pixels between two rows, and between two columns.

    >>> corner(4, columns=3, size=(10, 20), gap=(1, 2))
    (11, 22)
    """
    row, column = divmod(number, columns)
    return row * (size[0] + gap[0]), column * (size[1] + gap[1])


def count_columns(count: int) -> int:
    """Return a number of columns that fills every row, if one gives a mosaic at most 1.6 times as wide as high.

    >>> [count_columns(count) for count in (64, 96, 97)]
    [8, 12, 11]
    """
    fitting = range(int(np.ceil(np.sqrt(count))), int(np.sqrt(count * 1.6)) + 1)
    return next((columns for columns in fitting if count % columns == 0), int(np.ceil(np.sqrt(count * 1.2))))
