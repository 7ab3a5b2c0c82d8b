"""The pictures of the gallery: a filter's nine, the walls, thumbnails, and the weights of a convolution on pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.config.sections import RunConfig
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.drawing.bands import to_rgb
from topnine.pipeline.drawing.clearest import compare_hits
from topnine.pipeline.drawing.contrast import contrast
from topnine.pipeline.drawing.nine import draw_footprints, draw_windows, fit
from topnine.pipeline.drawing.sprites import LOSSLESS_PX, Tiles, shrink, sprite_sheet, thumbnail
from topnine.pipeline.network.layers import Layer, pixel_weights
from topnine.pipeline.network.loading import Network
from topnine.pipeline.prefetch import map_ahead
from topnine.pipeline.ranking.topk import RANKS
from topnine.pipeline.store.layers import StoredLayer
from topnine.pipeline.store.store import Store
from topnine.stages.work import PatchReader

FILTERS_A_SHEET = 64  # of the wall, and filters a task
WALL_COLUMNS = 8
GRID_PATCHES = 100  # of the first layer's clearest filter
LARGEST_PATCH = 0.5  # of the network's input: a patch above it counts as a whole image


@dataclass(frozen=True)
class DrawTask:
    """What every task that draws filters is handed beside their numbers.

    Attributes
    ----------
    store : str
        Its path.
    layer : str
    patch_size : (int, int)
        Height and width in pixels.
    shows_patches : bool
        Whether patches may be shown.
    crops : bool
        Whether hits are cropped to their footprints: ``tile.view``. Never where a window is small enough to be shown
        pixel by pixel.
    bands : tuple of int
        See ``tile.bands``.
    quantile : float
        Of a projection's absolute values, drawn as full contrast.
    threads : int
    """

    store: str
    layer: str
    patch_size: tuple[int, int]
    shows_patches: bool
    crops: bool
    bands: tuple[int, ...]
    quantile: float
    threads: int

    @classmethod
    def of(cls, config: RunConfig, layer: Layer, threads: int) -> DrawTask:
        """Return the task of a layer. Without thumbnails no patch is shown that is more than half of an image."""
        size = patch_size(layer.field, config.decode.size)
        small = math.prod(size) <= LARGEST_PATCH * math.prod(config.decode.size)
        shows_patches = config.gallery.thumbnails or small
        crops = config.tile.view == "footprints" and max(size) > LOSSLESS_PX
        return cls(
            config.store, layer.name, size, shows_patches, crops, config.tile.bands, config.tile.quantile, threads
        )

    @property
    def nine(self) -> Tiles:
        """The tiles of a filter's own sheet."""
        return Tiles.fit(*self.tile_size, RANKS)

    @property
    def wall(self) -> Tiles:
        """The tiles of the wall's sheets."""
        return Tiles.fit(*self.tile_size, WALL_COLUMNS)

    @property
    def tile_size(self) -> tuple[int, int]:
        """Height and width of what a tile shows; footprints are set into squares."""
        longest = max(self.patch_size)
        return (longest, longest) if self.crops else self.patch_size


@dataclass(frozen=True)
class Drawing:
    """Some filters, drawn.

    Attributes
    ----------
    files : dict of str to bytes
        By their path in the layer's folder.
    agreement : ndarray (filter)
        How much alike a filter's nine projections and nine patches are: 0 to 2.
    sketches : ndarray (filter, value)
        Of the mean projection.
    """

    files: dict[str, bytes]
    agreement: np.ndarray
    sketches: np.ndarray


class _DrawnFilter(NamedTuple):
    sheet: bytes
    strongest: list[np.ndarray | None]  # its projection and, where patches are shown, its patch
    agreement: float
    sketch: np.ndarray


def draw_filters(filters: range, task: DrawTask) -> Drawing:
    """Draw the nine of some filters, and the strongest of each on two sheets for the wall (a task)."""
    arrays = Store.open(task.store).layer(task.layer)
    counts = (arrays.read_ranking(slice(filters.start, filters.stop)).image >= 0).sum(axis=1)

    def draw(number: int) -> _DrawnFilter:
        """Draw a filter of a number."""
        return _draw_filter(arrays, number, int(counts[number - filters.start]), task)

    with closing(map_ahead(draw, filters, task.threads, 2 * task.threads)) as results:
        drawn = list(results)
    files = {f"filter-{f}.webp": filter.sheet for f, filter in zip(filters, drawn, strict=True) if filter.sheet}
    tiles_by_kind = zip(*(filter.strongest for filter in drawn), strict=True)
    for kind, tiles in zip(("projections", "patches"), tiles_by_kind, strict=False):
        files[f"{kind}-{filters.start // FILTERS_A_SHEET}.webp"] = sprite_sheet(tiles, task.wall)
    agreement = np.array([filter.agreement for filter in drawn])
    return Drawing(files, agreement, np.stack([filter.sketch for filter in drawn]))


def _draw_filter(arrays: StoredLayer, number: int, count: int, task: DrawTask) -> _DrawnFilter:
    def read(name: str) -> np.ndarray:
        """Read an array's values of the filter's hits."""
        values: np.ndarray = arrays.read(name, slice(number, number + 1))[0][:count]
        return values

    projection, patch = (to_rgb(read(name), task.bands) for name in ("projection", "patch"))
    layout = task.nine
    if task.crops:
        within = read("footprint") - read("box")[:, [0, 1, 0, 1]]
        projections, patches = draw_footprints(projection, patch, within, read("mask"), task.quantile)
        small = [[fit(picture, layout.height) for picture in kind] for kind in (projections, patches)]
    else:
        windows = draw_windows(projection, patch, task.quantile)
        small = [[shrink(picture, layout.height, layout.width) for picture in kind] for kind in windows]
    rows: list[list[np.ndarray | None]] = [[*kind, *[None] * (RANKS - count)] for kind in small]
    shown = rows if task.shows_patches else rows[:1]
    sheet = sprite_sheet([tile for row in shown for tile in row], layout) if count else b""
    whole = Tiles.fit(*task.patch_size, RANKS)
    pictures = ([contrast(hit, task.quantile) for hit in projection], patch)
    agreement, sketch = compare_hits(
        *(np.array([shrink(picture, whole.height, whole.width) for picture in kind]) for kind in pictures)
    )
    return _DrawnFilter(sheet, [row[0] for row in shown], agreement, sketch)


@dataclass(frozen=True)
class ThumbnailTask:
    """What every task that draws whole images is handed beside their ids."""

    store: str
    images: ImageSource
    bands: tuple[int, ...]
    threads: int


def draw_thumbnails(images: list[int], task: ThumbnailTask) -> list[bytes]:
    """Draw some images whole, as the network sees them (a task)."""
    pixels = PatchReader(Store.open(task.store), task.images, task.threads).read_pixels(np.array(images))
    with closing(map_ahead(thumbnail, to_rgb(pixels, task.bands), task.threads, 2 * task.threads)) as drawn:
        return list(drawn)


@dataclass(frozen=True)
class Weights:
    """A convolution's weights, drawn: files by their path in the layer's folder, and what a page needs to show them."""

    files: dict[str, bytes]
    description: dict[str, Any]


def draw_weights(
    network: Network, reader: PatchReader, layer: Layer, clearest: Sequence[int], task: DrawTask
) -> Weights | None:
    """Draw the weights of a convolution on pixels, and the patches that excite its clearest filter most.

    Returns
    -------
    Weights or None
        None where the layer is no convolution on pixels, or has no filter to be shown.
    """
    weights = pixel_weights(network.module, layer)
    if weights is None or not clearest:
        return None
    patches = to_rgb(reader.read_strongest(layer, clearest[0], GRID_PATCHES), task.bands)
    kernels, grid = (Tiles.fit(size[0], size[1], WALL_COLUMNS) for size in (weights.shape[2:], patches.shape[1:3]))
    pictures = [contrast(to_rgb(kernel.transpose(1, 2, 0), task.bands), 1.0) for kernel in weights]
    files = {"weights.webp": sprite_sheet(pictures, kernels)}
    if task.shows_patches:
        files["grid.webp"] = sprite_sheet([shrink(patch, grid.height, grid.width) for patch in patches], grid)
    return Weights(files, {"weights": kernels.describe(), "grid": grid.describe(), "patches": len(patches)})
