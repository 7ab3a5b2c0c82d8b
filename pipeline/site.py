"""What the gallery's pages are made of: sprite sheets, data scripts, and which filters are shown first. No I/O."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

TILE_PX = 112  # longest side of a tile in a sheet: what is larger is shrunk
THUMBNAIL_PX = 160  # side of a whole image
LOSSLESS_PX = 32  # tiles up to this side are shown pixel by pixel
BLOCK_PX = 16  # of lossy WebP: tiles that begin on its grid bleed no more than a pixel into one another
QUALITY = 75
SKETCH_PX = 16  # side of the pictures that are compared, so that a small shift does not count as a difference
ALIKE = 0.8  # correlation of two filters' mean projections from which they show the same

# Where in the network a chapter ends, as a fraction of the way to its deepest numbered layer.
CHAPTER_ENDS = (0.2, 0.45, 0.7, 0.88, math.inf)


@dataclass(frozen=True)
class Tiles:
    """The tiles of a sprite sheet: all of one size, row by row.

    Attributes
    ----------
    height, width : int
        Of a tile, in pixels of the sheet.
    columns : int
    """

    height: int
    width: int
    columns: int

    @property
    def lossless(self) -> bool:
        """Whether the sheet keeps every pixel as it is."""
        return max(self.height, self.width) <= LOSSLESS_PX

    @property
    def pitch(self) -> tuple[int, int]:
        """How far it is from one tile to the next: down and across, in pixels."""
        if self.lossless:
            return self.height, self.width
        return _rounded_up(self.height), _rounded_up(self.width)

    def describe(self) -> dict[str, Any]:
        """Give what a page needs to know to show one tile."""
        return {"height": self.height, "width": self.width, "pitch": self.pitch, "columns": self.columns}


def tiles(height: int, width: int, columns: int) -> Tiles:
    """Give the tiles for pictures of a size: those larger than ``TILE_PX`` are shrunk, no other is resized.

    >>> tiles(196, 98, 9)
    Tiles(height=112, width=56, columns=9)
    """
    scale = min(1.0, TILE_PX / max(height, width))
    return Tiles(max(1, round(height * scale)), max(1, round(width * scale)), columns)


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Give a picture (y, x, rgb) uint8 in a size; as it is where it has the size."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def sprite_sheet(pictures: Sequence[np.ndarray | None], layout: Tiles) -> bytes:
    """Draw pictures (y, x, rgb) uint8 of the tiles' size as a WebP sheet; None leaves its place mid grey."""
    down, across = layout.pitch
    rows = -(-len(pictures) // layout.columns)
    sheet = np.full((rows * down, min(layout.columns, len(pictures)) * across, 3), 128, np.uint8)
    margin = (0, down - layout.height), (0, across - layout.width), (0, 0)
    for i, picture in enumerate(pictures):
        if picture is not None:
            y, x = i // layout.columns * down, i % layout.columns * across
            sheet[y : y + down, x : x + across] = np.pad(picture, margin, "edge")
    return encode(sheet, layout.lossless)


def thumbnail(pixels: np.ndarray) -> bytes:
    """Draw a whole image (y, x, rgb) uint8 as WebP, shrunk to ``THUMBNAIL_PX``."""
    scale = min(1.0, THUMBNAIL_PX / max(pixels.shape[:2]))
    return encode(shrink(pixels, round(pixels.shape[0] * scale), round(pixels.shape[1] * scale)), lossless=False)


def encode(pixels: np.ndarray, lossless: bool) -> bytes:
    """Encode pixels (y, x, rgb) uint8 as WebP."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=lossless, quality=QUALITY, method=2)
    return buffer.getvalue()


def data_script(name: str, value: Any) -> str:
    """Give a script that leaves a value under a name in the page's data, whatever texts it holds.

    All but ASCII is escaped, so U+2028 and lone surrogates are; and so is ``<``, which may begin ``</script>``.

    >>> print(data_script("data/x.js", {"key": "</script>é"}), end="")
    (window.topnine ??= new Map()).set("data/x.js", {"key":"\\u003c/script>\\u00e9"});
    """
    written = (
        json.dumps(part, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c") for part in (name, value)
    )
    return f"(window.topnine ??= new Map()).set({', '.join(written)});\n"


def number(value: float) -> float | None:
    """Give a number as scripts take it: five significant digits, None for what is not finite.

    >>> number(0.123456789), number(float("nan"))
    (0.12346, None)
    """
    return float(f"{value:.5g}") if math.isfinite(value) else None


def sketches(projections: np.ndarray, patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give small versions of pictures (rank, y, x, rgb) uint8 that can be compared: what counts, centred.

    Each projection, and its patch in the same place, is cut to where the projection is: its centre of gravity, and
    twice as far around it as its values are spread.

    Returns
    -------
    projections, patches : ndarray (rank, value) float32
        Of mean 0 and length 1; 0 where a picture is flat.
    """
    places = [_place(projection) for projection in projections]
    return _normalised(projections, places), _normalised(patches, places)


def agreement(sketches: np.ndarray) -> float:
    """Give the mean correlation between every two of some sketches (rank, value); 0 for fewer than two."""
    count = len(sketches)
    if count < 2:
        return 0.0
    total = np.square(sketches.sum(axis=0)).sum() - np.square(sketches).sum()
    return float(total / (count * (count - 1)))


def choose_clearest(clearness: np.ndarray, sketches: np.ndarray, count: int) -> list[int]:
    """Choose the clearest filters, leaving out at first those that look like one chosen already.

    Parameters
    ----------
    clearness : ndarray (filter)
        0 for filters that are not to be shown.
    sketches : ndarray (filter, value)
        Each filter's mean projection, of length 1.
    count : int

    Returns
    -------
    list of int
        Fewer where fewer have a clearness above 0. Ties go to the lower number.
    """
    order = [int(f) for f in np.argsort(-clearness, kind="stable") if clearness[f] > 0]
    chosen: list[int] = []
    for f in order:
        if len(chosen) < count and (not chosen or (sketches[chosen] @ sketches[f]).max() < ALIKE):
            chosen.append(f)
    others = [f for f in order if f not in chosen]
    return [*chosen, *others[: count - len(chosen)]]


def chapter(depth: int, deepest: int) -> int:
    """Tell what a layer is about, from 0, edges and colours, to 4, objects, by how deep in the network it is.

    Parameters
    ----------
    depth, deepest : int
        Operations up to the layer, and up to the deepest numbered one.

    >>> [chapter(depth, 11) for depth in (1, 4, 7, 9, 11)]
    [0, 1, 2, 3, 4]
    """
    return next(i for i, end in enumerate(CHAPTER_ENDS) if depth / deepest <= end)


def _place(projection: np.ndarray) -> tuple[float, float, float, float]:
    """Give where in its picture a projection is: left, top, right, bottom in pixels."""
    strength = np.abs(projection.astype(np.float32) - 128).sum(axis=2) + 1e-6
    weight = [strength.sum(axis=axis) / strength.sum() for axis in (1, 0)]
    y, x = (float(each @ np.arange(0.5, len(each))) for each in weight)
    spread = sum(float(each @ (np.arange(0.5, len(each)) - at) ** 2) for each, at in zip(weight, (y, x), strict=True))
    radius = max(1.0, 2 * math.sqrt(spread / 2))
    return x - radius, y - radius, x + radius, y + radius


def _normalised(pictures: np.ndarray, places: Sequence[tuple[float, float, float, float]]) -> np.ndarray:
    size = SKETCH_PX, SKETCH_PX
    small = [
        Image.fromarray(picture)
        .transform(
            (4 * SKETCH_PX, 4 * SKETCH_PX),
            Image.Transform.EXTENT,
            place,
            Image.Resampling.BILINEAR,
            fillcolor=(128,) * 3,
        )
        .resize(size, Image.Resampling.BOX)
        for picture, place in zip(pictures, places, strict=True)
    ]
    values = np.stack([np.asarray(each) for each in small]).reshape(len(pictures), -1).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def _rounded_up(pixels: int) -> int:
    return -(-pixels // BLOCK_PX) * BLOCK_PX
