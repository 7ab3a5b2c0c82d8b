"""Sheets: tiled figures of many filters, like Figure 2 of Zeiler & Fergus (2014)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .contrast import contrast
from .mosaic import WHITE, mosaic
from .nine import draw_footprints, draw_windows, find_common, fit
from .texts import shorten, wrap

PATCH_PX = 80  # about the side of an enlarged patch; patches are enlarged by whole numbers only
SINGLE_PATCH_PX = 200  # the same, on the sheet of a single filter
WEIGHTS_PX = 50  # the same, of the weights of a first layer's filter
PATCH_GAP_PX = 3  # between patches of a filter
FILTER_GAP_PX = 18  # between filters; also the margin of a sheet
SIDES_GAP_PX = 54  # between projections and patches
TEXT_PX = 15
CAPTION_PX = TEXT_PX + 6
TITLE_PX = TEXT_PX + 3
TITLE_LINE_PX = TEXT_PX + 9
MIN_TITLE_PX = 320  # the least width at which a title is wrapped
EMPTY = 225  # the grey of a rank that no image fills
INK = (32, 32, 32)

# Rows and columns of filters in Figure 2 of the paper, by layer number; layer 5 is drawn like layer 4.
PAPER_GRIDS = {1: (3, 3), 2: (4, 4), 3: (3, 4), 4: (5, 2), 5: (5, 2)}
OTHER_GRID = (5, 2)


@dataclass(frozen=True)
class View:
    """How the nine of filters are drawn.

    Attributes
    ----------
    crops : bool
        Whether only what lies in the footprints is drawn: see ``nine``. Else whole windows are, as in the paper.
    quantile : float
        Of the absolute values of a filter's projections, drawn with full contrast.
    """

    crops: bool
    quantile: float


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
    footprint : ndarray (rank, corner) int
        In pixels of the patch.
    mask : ndarray (rank, y, x) uint8
    filled : int
        How many ranks there are: the last ones are missing where fewer images activate the filter.
    classes : tuple of str
        The names of its images' classes, as far as they are known, by rank.
    """

    filter: int
    patch: np.ndarray
    projection: np.ndarray
    footprint: np.ndarray
    mask: np.ndarray
    filled: int
    classes: tuple[str, ...] = ()

    def draw(self, view: View, side_px: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Return its projections and patches as pictures (y, x, rgb) uint8 of one size, enlarged to about a side."""
        shown = slice(self.filled)
        if view.crops:
            nines = draw_footprints(
                self.projection[shown], self.patch[shown], self.footprint[shown], self.mask[shown], view.quantile
            )
            enlarge = partial(fit, side=side_px)
        else:
            nines = draw_windows(self.projection[shown], self.patch[shown], view.quantile)
            enlarge = partial(_enlarge, side_px=side_px)
        empty = np.full_like(enlarge(self.patch[0]), EMPTY)
        projections, patches = (
            [*map(enlarge, pictures), *[empty] * (len(self.patch) - self.filled)] for pictures in nines
        )
        return projections, patches


def choose_filters(live: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return a random subset of the live filters, in the order of their numbers; the same for the same seed."""
    chosen = np.random.default_rng(seed).permutation(live)[:count]
    return np.sort(chosen)


def sheet(cells: Sequence[Cell], grid: tuple[int, int], title: str, view: View) -> Image.Image:
    """Draw the sheet of a layer: projections on the left, and on the right the patches that they come from.

    Below a filter's patches stand the classes that its images have, the most frequent first, as many as fit. Where the
    nine projections of every filter are the same but for a factor, as in layer 1, one of them stands for all, as in the
    paper, and the windows are drawn whole.

    Parameters
    ----------
    cells : sequence of Cell
    grid : (int, int)
        Rows and columns of filters, as ``PAPER_GRIDS`` has them; only the columns matter here.
    title : str
    view : View
    """
    common = [find_common(cell.projection[: cell.filled]) for cell in cells]
    alike = None not in common and any(cell.filled > 1 for cell in cells)
    drawn = [cell.draw(replace(view, crops=view.crops and not alike), PATCH_PX) for cell in cells]
    patches = [_draw_nine(pictures) for _, pictures in drawn]
    if alike:
        single = [pictures[rank or 0] for (pictures, _), rank in zip(drawn, common, strict=True)]
        projections = [_stretch(*pair) for pair in zip(single, patches, strict=True)]
    else:
        projections = [_draw_nine(pictures) for pictures, _ in drawn]
    left = _caption(projections, [str(cell.filter) for cell in cells], grid[1])
    right = _caption(patches, [_describe_cell(cell, patches[0].shape[1]) for cell in cells], grid[1])
    return _add_title(mosaic([left, right], 2, (0, SIDES_GAP_PX)), title)


def filter_sheet(cell: Cell, captions: Sequence[str], title: str, view: View) -> Image.Image:
    """Draw the sheet of one filter: nine enlarged projections beside nine patches, each with a caption."""
    left, right = (_caption(pictures, captions, 3) for pictures in cell.draw(view, SINGLE_PATCH_PX))
    return _add_title(mosaic([left, right], 2, (0, SIDES_GAP_PX)), title)


def patch_grid(patches: np.ndarray, title: str) -> Image.Image:
    """Draw patches (patch, y, x, rgb) uint8 as one grid, strongest first; it is as near to a square as it can be."""
    columns = int(np.ceil(np.sqrt(len(patches))))
    enlarged = [_enlarge(patch, PATCH_PX) for patch in patches]
    return _add_title(mosaic(enlarged, columns, (PATCH_GAP_PX, PATCH_GAP_PX)), title)


def first_filters(weights: np.ndarray, title: str) -> Image.Image:
    """Draw the filters of a first layer (filter, y, x, rgb) as pixels, each scaled symmetrically by its maximum."""
    pictures = [_enlarge(contrast(filter, 1.0), WEIGHTS_PX) for filter in weights]
    columns = int(np.ceil(np.sqrt(len(pictures) * 1.5)))
    return _add_title(_caption(pictures, [str(i) for i in range(len(pictures))], columns, PATCH_GAP_PX), title)


def _describe_cell(cell: Cell, width_px: int) -> str:
    """Return a filter's number and the classes of its images, without those that do not fit into a width."""
    measure, text = ImageFont.load_default(TEXT_PX).getlength, str(cell.filter)
    for name, count in Counter(cell.classes).most_common():
        longer = f"{text}{', ' if ':' in text else ': '}{f'{count} × ' if count > 1 else ''}{name}"
        if measure(longer) <= width_px:
            text = longer
    return text


def _draw_nine(pictures: Sequence[np.ndarray]) -> np.ndarray:
    return mosaic(pictures, 3, (PATCH_GAP_PX, PATCH_GAP_PX))


def _stretch(picture: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Enlarge a picture to the size of another one, without smoothing."""
    size = other.shape[1], other.shape[0]
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.NEAREST))


def _enlarge(picture: np.ndarray, side_px: int) -> np.ndarray:
    """Enlarge a picture by the whole number that brings its longer side nearest to a length."""
    zoom = max(1, round(side_px / max(picture.shape[:2])))
    return picture.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _caption(
    pictures: Sequence[np.ndarray], captions: Sequence[str], columns: int, gap_px: int = FILTER_GAP_PX
) -> np.ndarray:
    """Set pictures of one size into rows, each with a caption below it."""
    captioned = [_add_caption(picture, caption) for picture, caption in zip(pictures, captions, strict=True)]
    return mosaic(captioned, columns, (gap_px, gap_px))


def _add_caption(picture: np.ndarray, caption: str) -> np.ndarray:
    font = ImageFont.load_default(TEXT_PX)
    height, width = picture.shape[:2]
    canvas = Image.fromarray(np.pad(picture, ((0, CAPTION_PX), (0, 0), (0, 0)), constant_values=WHITE))
    text = shorten(caption, width, font.getlength)
    ImageDraw.Draw(canvas).text((width / 2, height + 3), text, INK, font, anchor="ma")
    return np.asarray(canvas)


def _add_title(picture: np.ndarray, title: str) -> Image.Image:
    """Set a title above a picture, wrapped to its width, and a margin around both."""
    font = ImageFont.load_default(TITLE_PX)
    height, width = picture.shape[:2]
    lines = wrap(title, max(width, MIN_TITLE_PX), font.getlength)
    widest = max([width, *(int(font.getlength(line)) + 1 for line in lines)])
    top = FILTER_GAP_PX + len(lines) * TITLE_LINE_PX + FILTER_GAP_PX // 2
    canvas = Image.new("RGB", (widest + 2 * FILTER_GAP_PX, top + height + FILTER_GAP_PX), (WHITE,) * 3)
    for i, line in enumerate(lines):
        ImageDraw.Draw(canvas).text((FILTER_GAP_PX, FILTER_GAP_PX + i * TITLE_LINE_PX), line, INK, font)
    canvas.paste(Image.fromarray(picture), (FILTER_GAP_PX, top))
    return canvas
