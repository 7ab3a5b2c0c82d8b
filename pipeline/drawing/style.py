"""The look of the paper's figures, their largest size, and their files: PNG, PDF and CSV. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..tables import replacing, write_csv

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
except ImportError as error:
    raise InputError("the paper's other figures need the extra 'figures': pip install 'topnine[figures]'.") from error

SUFFIXES = (".png", ".pdf", ".csv")
DPI = 150
MAX_SIDE_PX = 2**16 - 1  # older versions of matplotlib refuse to draw more
COLOURS = [*matplotlib.color_sequences["tab10"]]
GREY = (0.85, 0.85, 0.85)  # of what has no colour of its own
STYLE: Any = {
    "font.size": 9,
    "axes.titlesize": 9,
    "legend.fontsize": 8,
    "text.parse_math": False,  # keys and class names may have dollars
    "image.cmap": "viridis",
    "savefig.dpi": DPI,
    "pdf.fonttype": 42,  # text stays text
}


@contextmanager
def own_style() -> Iterator[None]:
    """Draw in matplotlib's own style, whatever a user's matplotlibrc says; also a decorator."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        yield


def check_size(inches: tuple[float, float], remedy: str) -> None:
    """Raise InputError, which ends with the remedy, where a figure (width, height) would be too large to draw."""
    width, height = (int(side * DPI) for side in inches)
    if max(width, height) > MAX_SIDE_PX:
        raise InputError(
            f"the figure would have {width:,} × {height:,} pixels, but no side may have more than {MAX_SIDE_PX:,}: "
            f"{remedy}."
        )


def make_figure(title: str, inches: tuple[float, float], remedy: str) -> Figure:
    """Return an empty figure of a width and height; InputError as ``check_size`` where it is too large."""
    check_size(inches, remedy)
    figure = Figure(figsize=inches, layout="constrained")
    figure.suptitle(title)
    return figure


def draw_picture(axes: Axes, picture: np.ndarray | None) -> None:
    """Draw a picture (y, x, rgb) uint8 without ticks or a frame; None is drawn as a grey square."""
    if picture is None:
        axes.set(box_aspect=1, facecolor=GREY)
    else:
        axes.imshow(picture)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def hide_frame(axes: Axes) -> None:
    """Hide the frame of axes and the marks of their ticks, but not the ticks' texts."""
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def image_colour(image: int) -> Any:
    """Return the colour of the image of a number, from 0; colours repeat after ten."""
    return COLOURS[image % len(COLOURS)]


def format_number(value: float) -> str:
    """Return a number as text, without an exponent where it is large.

    >>> format_number(12431.7), format_number(0.0123456)
    ('12,432', '0.0123')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


@own_style()
def save(figure: Figure, folder: Path, stem: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a figure as PNG and PDF, without a date in them, and the table behind it as CSV.

    Parameters
    ----------
    folder : Path
        It is made where there is none.
    stem : str
        The files' name without suffix.
    columns : sequence of str
        The names of the table's columns.
    rows : iterable of sequence
        The table's rows. Floats are written with nine digits, which identify a float32.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with replacing(folder / f"{stem}.png") as temporary:
        figure.savefig(temporary, format="png", metadata={"Software": None})
    with replacing(folder / f"{stem}.pdf") as temporary:
        figure.savefig(temporary, format="pdf", dpi=2 * DPI, metadata={"CreationDate": None})
    table = [[_round(value) for value in row] for row in rows]
    write_csv([{name: [row[i] for row in table] for i, name in enumerate(columns)}], folder / f"{stem}.csv")


def _round(value: Any) -> Any:
    return f"{value:.9g}" if isinstance(value, float | np.floating) else value
