"""Arrays to sheets: tiled figures of many filters, like Figure 2 of Zeiler & Fergus (2014)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL_PX = 80  # about the side of one enlarged patch; patches are enlarged by whole numbers only
GAP_PX = 3  # between patches of a filter
SPACE_PX = 18  # between filters
PAPER = (255, 255, 255)
INK = (32, 32, 32)
FAINT = (225, 225, 225)
TEXT_PX = 15

# Rows and columns of filters in Figure 2 of the paper, by layer number; layer 5 is drawn like layer 4.
PAPER_GRIDS = {1: (3, 3), 2: (4, 4), 3: (3, 4), 4: (5, 2), 5: (5, 2)}
OTHER_GRID = (5, 2)


@dataclass(frozen=True)
class Cell:
    """What is drawn of one filter.

    Attributes
    ----------
    filter : int
        Its number.
    patch : ndarray (rank, y, x, rgb) uint8
    projection : ndarray (rank, y, x, rgb) float32
        Unnormalised.
    filled : ndarray (rank) bool
        False where fewer images activate the filter.
    """

    filter: int
    patch: np.ndarray
    projection: np.ndarray
    filled: np.ndarray


def choose_filters(live: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Choose a random subset of the live filters, in the order of their numbers; the same for the same seed."""
    chosen = np.random.default_rng(seed).permutation(live)[:count]
    return np.sort(chosen)


def contrast(projection: np.ndarray, quantile: float = 0.995) -> np.ndarray:
    """Draw a projection on mid grey: uint8 of the same shape.

    Zero becomes grey (128); the scale is symmetric, and full contrast is the quantile of the absolute value: by the
    plain maximum a few pixels drown the rest in deep layers.
    """
    full = np.quantile(np.abs(projection), quantile) or np.abs(projection).max() or 1.0
    return np.round(np.clip(128 + 127 * projection / full, 1, 255)).astype(np.uint8)


def sheet(cells: Sequence[Cell], grid: tuple[int, int], title: str, quantile: float) -> Image.Image:
    """Draw a sheet: projections on the left, the patches they come from on the right, in the same places."""
    projections = [_nine([contrast(p, quantile) for p in cell.projection], cell.filled) for cell in cells]
    patches = [_nine(list(cell.patch), cell.filled) for cell in cells]
    labels = [str(cell.filter) for cell in cells]
    left, right = (_captioned(pictures, labels, grid[1]) for pictures in (projections, patches))
    return _titled(_beside(left, right, 3 * SPACE_PX), title)


def filter_sheet(cell: Cell, captions: Sequence[str], title: str, quantile: float) -> Image.Image:
    """Draw one filter, enlarged: nine projections beside nine patches, each with a caption."""
    zoom = _zoom(cell.patch.shape[1:3], 5 * CELL_PX // 2)
    blank = Image.new("RGB", (cell.patch.shape[2] * zoom, cell.patch.shape[1] * zoom), FAINT)

    def drawn(pictures: Sequence[np.ndarray]) -> list[Image.Image]:
        return [_enlarged(p, zoom) if filled else blank for p, filled in zip(pictures, cell.filled, strict=True)]

    projections = drawn([contrast(p, quantile) for p in cell.projection])
    left, right = (_captioned(pictures, captions, 3) for pictures in (projections, drawn(list(cell.patch))))
    return _titled(_beside(left, right, 3 * SPACE_PX), title)


def patch_grid(patches: np.ndarray, title: str) -> Image.Image:
    """Draw patches (patch, y, x, rgb) as one grid, as near to a square as their number allows, strongest first."""
    columns = int(np.ceil(np.sqrt(len(patches))))
    zoom = _zoom(patches.shape[1:3], CELL_PX)
    return _titled(_tiled([_enlarged(patch, zoom) for patch in patches], columns, GAP_PX), title)


def first_filters(weights: np.ndarray, title: str) -> Image.Image:
    """Draw the filters of a first layer (filter, rgb, y, x) as pixels, each scaled symmetrically by its maximum."""
    pictures = [_enlarged(contrast(w.transpose(1, 2, 0), 1.0), _zoom(w.shape[1:], CELL_PX * 5 // 8)) for w in weights]
    columns = int(np.ceil(np.sqrt(len(pictures) * 1.5)))
    return _titled(_captioned(pictures, [str(i) for i in range(len(pictures))], columns, GAP_PX), title)


def _nine(pictures: Sequence[np.ndarray], filled: np.ndarray) -> Image.Image:
    zoom = _zoom(pictures[0].shape, CELL_PX)
    blank = np.full_like(pictures[0], FAINT[0])
    shown = [picture if there else blank for picture, there in zip(pictures, filled, strict=True)]
    return _tiled([_enlarged(picture, zoom) for picture in shown], 3, GAP_PX)


def _zoom(shape: tuple[int, ...], target: int) -> int:
    return max(1, round(target / max(shape[0], shape[1])))


def _enlarged(pixels: np.ndarray, zoom: int) -> Image.Image:
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return image.resize((image.width * zoom, image.height * zoom), Image.Resampling.NEAREST)


def _tiled(pictures: Sequence[Image.Image], columns: int, gap: int) -> Image.Image:
    width = max(picture.width for picture in pictures)
    height = max(picture.height for picture in pictures)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    canvas = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), PAPER)
    for i, picture in enumerate(pictures):
        canvas.paste(picture, (i % columns * (width + gap), i // columns * (height + gap)))
    return canvas


def _captioned(
    pictures: Sequence[Image.Image], captions: Sequence[str], columns: int, gap: int = SPACE_PX
) -> Image.Image:
    font = ImageFont.load_default(TEXT_PX)
    cells = []
    for picture, caption in zip(pictures, captions, strict=True):
        cell = Image.new("RGB", (picture.width, picture.height + TEXT_PX + 6), PAPER)
        cell.paste(picture, (0, 0))
        place = (picture.width / 2, picture.height + 3)
        ImageDraw.Draw(cell).text(place, _shortened(caption, font, picture.width), INK, font, anchor="ma")
        cells.append(cell)
    return _tiled(cells, columns, gap)


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    if font.getlength(text) <= width:
        return text
    kept = len(text)
    while kept > 2 and font.getlength(_middle_out(text, kept)) > width:
        kept -= 1
    return _middle_out(text, kept)


def _middle_out(text: str, kept: int) -> str:
    """Leave the middle of a text out: names of images often differ at their ends.

    >>> _middle_out("motorcycle-right-1-2-3", 10)
    'motor…1-2-3'
    """
    return f"{text[: kept - kept // 2]}…{text[len(text) - kept // 2 :]}"


def _beside(left: Image.Image, right: Image.Image, gap: int) -> Image.Image:
    canvas = Image.new("RGB", (left.width + gap + right.width, max(left.height, right.height)), PAPER)
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + gap, 0))
    return canvas


def _titled(picture: Image.Image, title: str) -> Image.Image:
    font = ImageFont.load_default(TEXT_PX + 3)
    lines = _wrapped(title, font, max(picture.width, 320))
    step = TEXT_PX + 9
    top = SPACE_PX + len(lines) * step + SPACE_PX // 2
    width = max([picture.width, *(int(font.getlength(line)) + 1 for line in lines)])
    canvas = Image.new("RGB", (width + 2 * SPACE_PX, top + picture.height + SPACE_PX), PAPER)
    for i, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((SPACE_PX, SPACE_PX + i * step), line, INK, font)
    canvas.paste(picture, (SPACE_PX, top))
    return canvas


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        lines = [*lines[:-1], longer] if font.getlength(longer) <= width else [*lines, word]
    return [line for line in lines if line]
