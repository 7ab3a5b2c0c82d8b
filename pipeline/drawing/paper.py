"""Figures 4 to 7 of Zeiler & Fergus (2014), drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from .mosaic import corner, count_columns, mosaic
from .style import (  # InputError where there is no matplotlib
    COLOURS,
    GREY,
    check_size,
    draw_picture,
    format_number,
    hide_frame,
    image_colour,
    make_figure,
    own_style,
)
from .texts import shorten

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FILTER_INCHES = 0.65  # side of a filter of the first layer
LISTED_CLASSES = len(COLOURS)  # of a map of classes; the rarer ones share one colour
LABEL_CHARACTERS = 24
DEAD = "#d62728"
TOO_MANY_FILTERS = "name fewer with --filter, or fewer network.checkpoints"
TOO_MANY_IMAGES = "name fewer --images"


@dataclass(frozen=True)
class Curves:
    """A row of Figure 5: one transformation of some images.

    Attributes
    ----------
    axis : str
        What the values are, with the unit.
    values : sequence of float
    pictured : sequence of float
        The values that there are pictures of.
    pictures : ndarray (image, pictured value, y, x, rgb) uint8
    lines : sequence of ndarray (image, value)
        Of every column of curves.
    """

    axis: str
    values: Sequence[float]
    pictured: Sequence[float]
    pictures: np.ndarray
    lines: Sequence[np.ndarray]


@dataclass(frozen=True)
class Bank:
    """One network of Figure 6: its title, its first layer's filters (filter, y, x, rgb) uint8, and which are dead."""

    title: str
    filters: np.ndarray
    dead: np.ndarray


@dataclass(frozen=True)
class Occluded:
    """A row of Figure 7: one image.

    Attributes
    ----------
    title : str
    covered : ndarray (y, x, rgb) uint8
        The image with the square at one place.
    projection : ndarray (y, x, rgb) uint8
    patches : sequence of ndarray (y, x, rgb) uint8
        From other images; of the projection's size.
    filter : str
        The filter whose activity is drawn, as titles name it.
    followed : str
        The class whose probability is drawn, as titles name it.
    activity, probability : ndarray (row, column) float
        As functions of the square's centre.
    uncovered : (float, float)
        Activity and probability of the image without the square.
    likely : ndarray (row, column) int
        The most likely class.
    names : dict
        Of the classes in ``likely``, by their numbers.
    """

    title: str
    covered: np.ndarray
    projection: np.ndarray
    patches: Sequence[np.ndarray]
    filter: str
    followed: str
    activity: np.ndarray
    probability: np.ndarray
    uncovered: tuple[float, float]
    likely: np.ndarray
    names: dict[int, str]


def check_evolution(filters: int, checkpoints: int) -> None:
    """Raise InputError where Figure 4 would be too large for numbers of filters and checkpoints."""
    check_size(_evolution_inches(filters, checkpoints), TOO_MANY_FILTERS)


@own_style()
def evolution(
    title: str,
    filters: Sequence[int],
    checkpoints: Sequence[str],
    pictures: Sequence[Sequence[np.ndarray | None]],
    captions: Sequence[Sequence[str]],
) -> Figure:
    """Draw Figure 4: filters down, checkpoints across; InputError where they are too many.

    Parameters
    ----------
    filters : sequence of int
        Their numbers.
    checkpoints : sequence of str
        Their names.
    pictures : sequence (filter) of sequence (checkpoint) of ndarray (y, x, rgb) uint8
        None where a filter is dead.
    captions : sequence (filter) of sequence (checkpoint) of str
        Below the pictures.
    """
    rows, columns = len(filters), len(checkpoints)
    figure = make_figure(title, _evolution_inches(rows, columns), TOO_MANY_FILTERS)
    for (row, column), axes in np.ndenumerate(figure.subplots(rows, columns, squeeze=False)):
        draw_picture(axes, pictures[row][column])
        axes.set_xlabel(captions[row][column], fontsize=8)
        if row == 0:
            axes.set_title(checkpoints[column])
        if column == 0:
            axes.set_ylabel(f"filter {filters[row]}")
    return figure


@own_style()
def invariance(title: str, names: Sequence[str], headings: Sequence[str], rows: Sequence[Curves]) -> Figure:
    """Draw Figure 5: transformations down; pictures, then columns of curves across, a colour for every image.

    Parameters
    ----------
    names : sequence of str
        Of the images.
    headings : sequence of str
        Of the columns of curves.
    """
    widths = [1.25, *(1 for _ in headings)]
    figure = make_figure(title, (16, 3.6 * len(rows) + 0.5), TOO_MANY_IMAGES)
    panels = figure.subplots(len(rows), len(widths), squeeze=False, width_ratios=widths)
    for row, (first, *others) in zip(rows, panels, strict=True):
        _draw_thumbnails(first, row, names)
        for axes, heading, lines in zip(others, headings, row.lines, strict=True):
            _draw_curves(axes, row, heading, lines)
    return figure


@own_style()
def first_layer(title: str, banks: Sequence[Bank]) -> Figure:
    """Draw Figure 6: the filters of one network or two, side by side; dead ones in red frames."""
    columns = [count_columns(len(bank.filters)) for bank in banks]
    rows = max(-(-len(bank.filters) // count) for bank, count in zip(banks, columns, strict=True))
    inches = FILTER_INCHES * sum(columns) + 0.6 * len(banks), FILTER_INCHES * rows + 1.2
    figure = make_figure(title, inches, "the layer has too many filters")
    panels = figure.subplots(1, len(banks), squeeze=False, width_ratios=columns)[0]
    for axes, bank in zip(panels, banks, strict=True):
        _draw_bank(axes, bank)
    return figure


@own_style()
def occlusion(title: str, rows: Sequence[Occluded], size: tuple[int, int], step: int) -> Figure:
    """Draw Figure 7: images down; across the image, the maps over the square's centre, and the projection.

    Parameters
    ----------
    size : (int, int)
        Height and width of the network's input in pixels.
    step : int
        Pixels from one place of the square to the next.
    """
    figure = make_figure(title, (18, 3.3 * len(rows) + 0.5), TOO_MANY_IMAGES)
    for row, panels in zip(rows, figure.subplots(len(rows), 5, squeeze=False), strict=True):
        _draw_occluded(panels, row, size, step)
    return figure


def _evolution_inches(rows: int, columns: int) -> tuple[float, float]:
    return max(1.5 * columns + 0.9, 5), 1.62 * rows + 0.9


def _draw_thumbnails(axes: Axes, row: Curves, names: Sequence[str]) -> None:
    """Draw the pictures of a row: images down, their names in the images' colours, and values across."""
    images, columns, height, width = row.pictures.shape[:4]
    pictures = row.pictures.reshape(-1, height, width, 3)
    gap = _gaps(pictures[0])
    axes.imshow(mosaic(pictures, columns, gap))
    corners = [corner(number, columns, (height, width), gap) for number in range(images * columns)]
    axes.set_xticks([left + width / 2 for _, left in corners[:columns]], [f"{value:g}" for value in row.pictured])
    axes.set_yticks([top + height / 2 for top, _ in corners[::columns]], names)
    for image, label in enumerate(axes.get_yticklabels()):
        label.set(color=image_colour(image), fontweight="bold")
    hide_frame(axes)
    axes.set_xlabel(row.axis)


def _draw_curves(axes: Axes, row: Curves, heading: str, lines: np.ndarray) -> None:
    for image, line in enumerate(lines):
        axes.plot(row.values, line, color=image_colour(image), linewidth=1.5)
    axes.set(xlabel=row.axis, ylabel=heading, xlim=(row.values[0], row.values[-1]), xticks=row.pictured)
    axes.set_ylim(bottom=0, top=1.02 if heading.startswith("probability") else None)
    axes.grid(alpha=0.3)


def _draw_bank(axes: Axes, bank: Bank) -> None:
    """Draw the filters of a network in rows, and the number of each row's first filter beside it."""
    from matplotlib.patches import Rectangle

    count, height, width = bank.filters.shape[:3]
    columns, gap = count_columns(count), _gaps(bank.filters[0])
    axes.imshow(mosaic(bank.filters, columns, gap), interpolation="none")
    corners = [corner(number, columns, (height, width), gap) for number in range(count)]
    for number in np.nonzero(bank.dead)[0]:
        top, left = corners[number]
        frame = Rectangle((left - 1, top - 1), width + 1, height + 1, fill=False, edgecolor=DEAD, linewidth=1.5)
        axes.add_patch(frame)
    firsts = range(0, count, columns)
    axes.set_yticks([corners[number][0] + height / 2 for number in firsts], [str(number) for number in firsts])
    axes.set(title=bank.title, xticks=[], ylabel="number of the row's first filter")
    hide_frame(axes)


def _draw_occluded(panels: Sequence[Axes], row: Occluded, size: tuple[int, int], step: int) -> None:
    """Draw one image's row of Figure 7."""
    image, activity, projection, probability, classes = panels
    image.imshow(row.covered, extent=(0, size[1], size[0], 0))
    image.set(title="(a) square where the activity is least", ylabel=row.title, xlabel="x [pixels]")
    _draw_heat(activity, row.activity, step, "sum over the map")
    draw_picture(projection, mosaic([row.projection, *row.patches], 2, _gaps(row.projection)))
    projection.set(title=f"(c) projection of {row.filter},\nand its patches of other images")
    _draw_heat(probability, row.probability, step, "probability")
    _draw_classes(classes, row, step)
    without = [f"\nwithout the square: {format_number(value)}" for value in row.uncovered]
    _label_map(activity, f"(b) activity of {row.filter}{without[0]}", size)
    _label_map(probability, f"(d) probability of {row.followed}{without[1]}", size)
    _label_map(classes, "(e) most likely class", size)


def _draw_heat(axes: Axes, values: np.ndarray, step: int, unit: str) -> None:
    heat = axes.imshow(values, interpolation="none", extent=_extent(values, step))
    axes.figure.colorbar(heat, ax=axes, label=unit, fraction=0.046, pad=0.03)  # as high as the map


def _draw_classes(axes: Axes, row: Occluded, step: int) -> None:
    """Draw a map of classes; the legend has the most frequent ones, by how many places they have."""
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.patches import Patch

    numbers, counts = np.unique(row.likely, return_counts=True)
    listed = numbers[np.argsort(-counts, kind="stable")][:LISTED_CLASSES].tolist()
    index = np.full(row.likely.shape, len(listed))
    for i, number in enumerate(listed):
        index[row.likely == number] = i
    colours = ListedColormap([*COLOURS[: len(listed)], GREY])
    norm = BoundaryNorm(np.arange(len(listed) + 2) - 0.5, len(listed) + 1)
    axes.imshow(index, interpolation="none", cmap=colours, norm=norm, extent=_extent(index, step))
    names = [shorten(row.names[number], LABEL_CHARACTERS) for number in listed]
    handles = [Patch(color=COLOURS[i], label=name) for i, name in enumerate(names)]
    if len(numbers) > len(listed):
        handles.append(Patch(color=GREY, label=f"{len(numbers) - len(listed)} more"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, handlelength=1)


def _label_map(axes: Axes, title: str, size: tuple[int, int]) -> None:
    axes.set(title=title, xlabel="x of the square's centre [pixels]", ylabel="y [pixels]")
    axes.set(xlim=(0, size[1]), ylim=(size[0], 0))


def _extent(values: np.ndarray, step: int) -> tuple[float, float, float, float]:
    """Return the edges of a map (left, right, bottom, top) in pixels of the input.

    Its first value is for the square's centre at ``step // 2``; each value fills a step around its centre.
    """
    first = step // 2 - step / 2
    return first, first + step * values.shape[1], first + step * values.shape[0], first


def _gaps(picture: np.ndarray) -> tuple[int, int]:
    """Return the gaps of a mosaic of pictures like this one: between rows, and between columns."""
    return max(1, picture.shape[0] // 24), max(1, picture.shape[1] // 24)
