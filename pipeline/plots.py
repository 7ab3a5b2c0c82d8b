"""Figures 4 to 7 of Zeiler & Fergus (2014), drawn and saved. The only module that imports matplotlib."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.colors import BoundaryNorm, ListedColormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, Rectangle
except ImportError as error:
    raise InputError("the paper's other figures need the extra 'figures': pip install 'topnine[figures]'.") from error

SUFFIXES = (".png", ".pdf", ".csv")
DPI = 150
COLOURS = [*matplotlib.color_sequences["tab10"]]
FILTER_INCHES = 0.65  # of a filter of the first layer
OTHERS = (0.85, 0.85, 0.85)
SHOWN_CLASSES = len(COLOURS)  # of a map of classes; the rarer ones share one colour
DEAD = "#d62728"
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "text.parse_math": False,  # keys and class names may have dollars
    "image.cmap": "viridis",
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,  # text stays text
}


@dataclass(frozen=True)
class Curves:
    """A row of Figure 5: one transformation of some images.

    Attributes
    ----------
    axis : str
        What the values are, with the unit.
    values : sequence of float
    shown : sequence of float
        The values of the pictures.
    pictures : ndarray (image, shown, y, x, rgb) uint8
    lines : sequence of ndarray (image, value)
        Of every column of curves.
    """

    axis: str
    values: Sequence[float]
    shown: Sequence[float]
    pictures: np.ndarray
    lines: Sequence[np.ndarray]


@dataclass(frozen=True)
class Bank:
    """One network of Figure 6: its first layer's filters (filter, y, x, rgb) uint8, which are dead, and a title."""

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
        From other images.
    filter : str
        What the activity is of.
    followed : str
        The class whose probability is followed.
    activity, probability : ndarray (row, column) float
        As functions of the square's centre.
    uncovered : (float, float)
        Both of the image as it is.
    likely : ndarray (row, column) int
        The most likely class.
    names : dict
        Of the classes in it.
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


def save(figure: Figure, folder: Path, stem: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a figure as PNG and PDF, without a date in them, and the data behind it as CSV."""
    folder.mkdir(parents=True, exist_ok=True)
    with _style():
        figure.savefig(folder / f"{stem}.png", metadata={"Software": None})
        figure.savefig(folder / f"{stem}.pdf", dpi=2 * DPI, metadata={"CreationDate": None})
    with (folder / f"{stem}.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(columns)
        table.writerows([_written(value) for value in row] for row in rows)


def evolution(
    title: str,
    filters: Sequence[int],
    checkpoints: Sequence[str],
    pictures: Sequence[Sequence[np.ndarray | None]],
    captions: Sequence[Sequence[str]],
) -> Figure:
    """Draw Figure 4: filters down, checkpoints across; pictures (y, x, rgb) uint8, None where a filter is dead."""
    with _style():
        rows, columns = len(filters), len(checkpoints)
        figure = Figure(figsize=(max(1.5 * columns + 0.9, 5), 1.62 * rows + 0.9), layout="constrained")
        figure.suptitle(title)
        for (row, column), axes in np.ndenumerate(figure.subplots(rows, columns, squeeze=False)):
            picture = pictures[row][column]
            if picture is not None:
                axes.imshow(picture)
            else:
                axes.set(box_aspect=1, facecolor=OTHERS)
            _bare(axes)
            axes.set_xlabel(captions[row][column], fontsize=8)
            if row == 0:
                axes.set_title(checkpoints[column])
            if column == 0:
                axes.set_ylabel(f"filter {filters[row]}")
    return figure


def invariance(title: str, names: Sequence[str], headings: Sequence[str], rows: Sequence[Curves]) -> Figure:
    """Draw Figure 5: transformations down; pictures, then columns of curves across, a colour for every image.

    Parameters
    ----------
    names : sequence of str
        Of the images.
    headings : sequence of str
        Of the columns of curves.
    """
    with _style():
        figure = Figure(figsize=(16, 3.6 * len(rows) + 0.5), layout="constrained")
        figure.suptitle(title)
        grid = figure.subplots(len(rows), 1 + len(headings), squeeze=False, width_ratios=[1.25, *(1 for _ in headings)])
        for row, line in zip(rows, grid, strict=True):
            _thumbnails(line[0], row, names)
            for axes, heading, values in zip(line[1:], headings, row.lines, strict=True):
                for image, curve in enumerate(values):
                    axes.plot(row.values, curve, color=_colour(image), linewidth=1.5)
                axes.set(xlabel=row.axis, ylabel=heading, xlim=(row.values[0], row.values[-1]), xticks=row.shown)
                axes.set_ylim(bottom=0, top=1.02 if heading.startswith("probability") else None)
                axes.grid(alpha=0.3)
    return figure


def first_layer(title: str, banks: Sequence[Bank]) -> Figure:
    """Draw Figure 6: the filters of one network or two, side by side; dead ones in red frames."""
    with _style():
        columns = [_columns(len(bank.filters)) for bank in banks]
        rows = [-(-len(bank.filters) // own) for bank, own in zip(banks, columns, strict=True)]
        size = FILTER_INCHES * sum(columns) + 0.6 * len(banks), FILTER_INCHES * max(rows) + 1.2
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(title)
        panels = figure.subplots(1, len(banks), squeeze=False, width_ratios=columns)[0]
        for axes, bank in zip(panels, banks, strict=True):
            _bank(axes, bank)
    return figure


def occlusion(title: str, rows: Sequence[Occluded], crop: int, step: int) -> Figure:
    """Draw Figure 7: images down; across the image, the maps over the square's centre, and the projection."""
    with _style():
        figure = Figure(figsize=(18, 3.3 * len(rows) + 0.5), layout="constrained")
        figure.suptitle(title)
        for row, line in zip(rows, figure.subplots(len(rows), 5, squeeze=False), strict=True):
            line[0].imshow(row.covered, extent=(0, crop, crop, 0))
            line[0].set(title="(a) square where the activity is least", ylabel=row.title, xlabel="x [pixels]")
            bare = "\nwithout the square: "
            _heat(
                line[1],
                row.activity,
                crop,
                step,
                f"(b) activity of {row.filter}{bare}{_number(row.uncovered[0])}",
                "sum over the map",
            )
            line[2].imshow(_mosaic([row.projection, *row.patches], 2))
            line[2].set(title=f"(c) projection of {row.filter},\nand its patches of other images")
            _bare(line[2])
            _heat(
                line[3],
                row.probability,
                crop,
                step,
                f"(d) probability of {row.followed}{bare}{_number(row.uncovered[1])}",
                "probability",
            )
            _classes(line[4], row, crop, step)
    return figure


def _heat(axes: Axes, values: np.ndarray, crop: int, step: int, title: str, unit: str) -> None:
    drawn = axes.imshow(values, interpolation="none", extent=_extent(values, step))
    axes.figure.colorbar(drawn, ax=axes, label=unit, fraction=0.046, pad=0.03)  # as high as the map
    axes.set(title=title, xlabel="x of the square's centre [pixels]", ylabel="y [pixels]")
    axes.set(xlim=(0, crop), ylim=(crop, 0))


def _classes(axes: Axes, row: Occluded, crop: int, step: int) -> None:
    """Draw a map of classes; the legend has the most frequent ones, by how many places they have."""
    numbers, counts = np.unique(row.likely, return_counts=True)
    listed = numbers[np.argsort(-counts, kind="stable")][:SHOWN_CLASSES].tolist()
    index = np.full(row.likely.shape, len(listed))
    for i, number in enumerate(listed):
        index[row.likely == number] = i
    colours = ListedColormap([*COLOURS[: len(listed)], OTHERS])
    norm = BoundaryNorm(np.arange(len(listed) + 2) - 0.5, len(listed) + 1)
    axes.imshow(index, interpolation="none", cmap=colours, norm=norm, extent=_extent(index, step))
    axes.set(title="(e) most likely class", xlabel="x of the square's centre [pixels]", ylabel="y [pixels]")
    axes.set(xlim=(0, crop), ylim=(crop, 0))
    handles = [Patch(color=COLOURS[i], label=shortened(row.names[number])) for i, number in enumerate(listed)]
    if len(numbers) > len(listed):
        handles.append(Patch(color=OTHERS, label=f"{len(numbers) - len(listed)} more"))
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.02, 1), borderaxespad=0, handlelength=1)


def _extent(values: np.ndarray, step: int) -> tuple[float, float, float, float]:
    """Give the edges of a map whose first value is for the centre at ``step // 2``: each fills a step around it."""
    first = step // 2 - step / 2
    return first, first + step * values.shape[1], first + step * values.shape[0], first


def _thumbnails(axes: Axes, row: Curves, names: Sequence[str]) -> None:
    images, shown, height, width = row.pictures.shape[:4]
    axes.imshow(_mosaic(list(row.pictures.reshape(-1, height, width, 3)), shown))
    gap = _gap(height)
    axes.set_xticks([(width + gap) * i + width / 2 for i in range(shown)], [f"{value:g}" for value in row.shown])
    axes.set_yticks([(height + gap) * i + height / 2 for i in range(images)], names)
    for image, label in enumerate(axes.get_yticklabels()):
        label.set(color=_colour(image), fontweight="bold")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel(row.axis)


def _bank(axes: Axes, bank: Bank) -> None:
    count, height, width = bank.filters.shape[:3]
    columns = _columns(count)
    axes.imshow(_mosaic(list(bank.filters), columns), interpolation="none")
    step = height + _gap(height), width + _gap(width)
    for number in np.nonzero(bank.dead)[0]:
        place = number % columns * step[1] - 1, number // columns * step[0] - 1
        axes.add_patch(Rectangle(place, width + 1, height + 1, fill=False, edgecolor=DEAD, linewidth=1.5))
    rows = range(-(-count // columns))
    axes.set_yticks([row * step[0] + height / 2 for row in rows], [str(row * columns) for row in rows])
    axes.set(title=bank.title, xticks=[], ylabel="number of the row's first filter")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _mosaic(pictures: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """Set pictures (y, x, rgb) uint8, all of one size, into rows, on white."""
    height, width = pictures[0].shape[:2]
    down, across = height + _gap(height), width + _gap(height)
    rows = -(-len(pictures) // columns)
    canvas = np.full((rows * down - _gap(height), columns * across - _gap(height), 3), 255, np.uint8)
    for i, picture in enumerate(pictures):
        top, left = i // columns * down, i % columns * across
        canvas[top : top + height, left : left + width] = picture
    return canvas


def _columns(count: int) -> int:
    """Give a number of columns that fills every row, where one makes a good picture of so many cells.

    >>> [_columns(count) for count in (64, 96, 97)]
    [8, 12, 11]
    """
    fitting = range(int(np.ceil(np.sqrt(count))), int(np.sqrt(count * 1.6)) + 1)
    return next((columns for columns in fitting if count % columns == 0), int(np.ceil(np.sqrt(count * 1.2))))


def _number(value: float) -> str:
    """Write a number without an exponent, where it is large.

    >>> _number(12431.7), _number(0.0123456)
    ('12,432', '0.0123')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def shortened(text: str, length: int = 24) -> str:
    """Leave out what a label has no room for.

    >>> shortened("entertainment center", 16)
    'entertainment c…'
    """
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _gap(side: int) -> int:
    return max(1, side // 24)


def _colour(image: int) -> Any:
    return COLOURS[image % len(COLOURS)]


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _written(value: Any) -> Any:
    """Give a value as the tables have it: nine digits are a float32, back and forth."""
    return f"{value:.9g}" if isinstance(value, float | np.floating) else value


@contextmanager
def _style() -> Iterator[None]:
    """Draw in matplotlib's own style, whatever a user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield
