"""The files that the gallery's pages load: sprite sheets, thumbnails and data scripts, as bytes. No I/O."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from PIL import Image

TILE_PX = 112  # longest side of a tile: larger pictures are shrunk to it
THUMBNAIL_PX = 256  # longest side of a whole image
LOSSLESS_PX = 32  # tiles up to this side are stored without loss, and pages enlarge them without smoothing
WEBP_BLOCK_PX = 16  # aligning tiles to WebP's blocks limits bleeding between neighbours to one pixel
WEBP_QUALITY = 75
GREY = 128


@dataclass(frozen=True)
class Tiles:
    """The layout of a sprite sheet: tiles of one size, row by row.

    Attributes
    ----------
    height, width : int
        Of a tile, in pixels of the sheet.
    columns : int
        Tiles in a row.
    """

    height: int
    width: int
    columns: int

    @classmethod
    def fit(cls, height: int, width: int, columns: int) -> Self:
        """Return the layout for pictures of a size in pixels. A tile is at most ``TILE_PX`` long, never enlarged.

        >>> Tiles.fit(196, 98, columns=9)
        Tiles(height=112, width=56, columns=9)
        """
        scale = min(1.0, TILE_PX / max(height, width))
        return cls(max(1, round(height * scale)), max(1, round(width * scale)), columns)

    @property
    def lossless(self) -> bool:
        """Whether the sheet keeps every pixel's value."""
        return max(self.height, self.width) <= LOSSLESS_PX

    @property
    def pitch(self) -> tuple[int, int]:
        """The distance from one tile to the next: down and across, in pixels."""
        if self.lossless:
            return self.height, self.width
        return _align(self.height), _align(self.width)

    def describe(self) -> dict[str, Any]:
        """Return the fields by which a page shows one tile of the sheet."""
        return {
            "height": self.height,
            "width": self.width,
            "pitch": self.pitch,
            "columns": self.columns,
            "pixelated": self.lossless,
        }


def shrink(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a picture (y, x, rgb) uint8 in another size; the same array where it has that size already."""
    if picture.shape[:2] == (height, width):
        return picture
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))


def sprite_sheet(pictures: Sequence[np.ndarray | None], layout: Tiles) -> bytes:
    """Draw a WebP sheet of pictures (y, x, rgb) uint8 in the tiles' size; the tile of None stays mid grey."""
    down, across = layout.pitch
    rows = -(-len(pictures) // layout.columns)
    sheet = np.full((rows * down, min(layout.columns, len(pictures)) * across, 3), GREY, np.uint8)
    margin = (0, down - layout.height), (0, across - layout.width), (0, 0)
    for i, picture in enumerate(pictures):
        if picture is not None:
            y, x = i // layout.columns * down, i % layout.columns * across
            sheet[y : y + down, x : x + across] = np.pad(picture, margin, "edge")
    return encode_webp(sheet, layout.lossless)


def thumbnail(image: np.ndarray) -> bytes:
    """Draw a whole image (y, x, rgb) uint8 as WebP, its longest side shrunk to ``THUMBNAIL_PX``."""
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL_PX / max(height, width))
    return encode_webp(shrink(image, round(height * scale), round(width * scale)), lossless=False)


def encode_webp(pixels: np.ndarray, lossless: bool) -> bytes:
    """Return pixels (y, x, rgb) uint8 as a WebP file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "WEBP", lossless=lossless, quality=WEBP_QUALITY, method=2)
    return buffer.getvalue()


def data_script(name: str, value: Any) -> str:
    """Return a JavaScript file that stores a value under a name in ``topnine.data``, whatever texts it contains.

    Every character outside of ASCII is escaped, U+2028 and lone surrogates included. So is ``<``, which could begin
    ``</script>``.

    >>> print(data_script("conv1", {"key": "</script>é"}), end="")
    ((window.topnine ??= {}).data ??= new Map()).set("conv1", {"key":"\\u003c/script>\\u00e9"});
    """
    arguments = (
        json.dumps(argument, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
        for argument in (name, value)
    )
    return f"((window.topnine ??= {{}}).data ??= new Map()).set({', '.join(arguments)});\n"


def number(value: float) -> float | None:
    """Return a number for a data script: five significant digits, None where it is not finite.

    >>> number(0.123456789), number(float("nan"))
    (0.12346, None)
    """
    return float(f"{value:.5g}") if math.isfinite(value) else None


def _align(pixels: int) -> int:
    return -(-pixels // WEBP_BLOCK_PX) * WEBP_BLOCK_PX
