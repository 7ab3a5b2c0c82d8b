import csv

import numpy as np
import pytest
from PIL import Image

from pipeline import plots


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def occluded(classes):
    likely = np.arange(144).reshape(12, 12) % classes
    return plots.Occluded(
        title="a_key_$1$\nclass: a $ b",
        covered=noise(96, 96, 3),
        projection=noise(20, 20, 3),
        patches=[noise(20, 20, 3)],
        filter="filter 3",
        followed="$",
        activity=np.ones((12, 12)),
        probability=np.zeros((12, 12)),
        uncovered=(1.0, 0.0),
        likely=likely,
        names={number: f"class {number}" for number in range(classes)},
    )


@pytest.mark.parametrize(
    ("classes", "labels"),
    [(1, ["class 0"]), (10, [f"class {n}" for n in range(10)]), (13, [*(f"class {n}" for n in range(10)), "3 more"])],
)
def test_the_legend_names_the_most_frequent_classes(tmp_path, classes, labels):
    figure = plots.occlusion("title", [occluded(classes)], 96, 8)
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == labels
    plots.save(figure, tmp_path / "new", "x.y", ["a"], [])
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["x.y.csv", "x.y.pdf", "x.y.png"]


def test_maps_lie_over_the_image_they_are_of():
    figure = plots.occlusion("title", [occluded(2)], 96, 8)
    for axes in (figure.axes[i] for i in (1, 3, 4)):
        assert axes.images[0].get_extent() == [0, 96, 96, 0]
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 96), (96, 0))


def test_dead_filters_have_frames_in_the_places_of_their_numbers():
    dead = np.zeros(12, bool)
    dead[[0, 7]] = True
    figure = plots.first_layer("title", [plots.Bank("bank", noise(12, 7, 7, 3), dead)])
    (axes,) = figure.axes
    assert [patch.get_xy() for patch in axes.patches] == [(-1, -1), (3 * 8 - 1, 8 - 1)]


def test_a_dead_cell_of_evolution_is_blank():
    figure = plots.evolution("title", [3], ["one", "two"], [[None, noise(7, 7, 3)]], [["dead", "1.5"]])
    assert [len(axes.images) for axes in figure.axes] == [0, 1]
    assert [axes.get_xlabel() for axes in figure.axes] == ["dead", "1.5"]


def test_curves_have_the_colours_of_their_images():
    row = plots.Curves("x", (0, 1, 2), (0, 2), noise(2, 2, 8, 8, 3), [np.array([[0, 1, 2], [2, 1, 0]])] * 2)
    figure = plots.invariance("title", ["one", "two"], ["distance", "probability"], [row])
    pictures, *curves = figure.axes
    for axes in curves:
        assert [line.get_color() for line in axes.lines] == [label.get_color() for label in pictures.get_yticklabels()]
    assert curves[1].get_ylim() == (0, 1.02)


def test_saved_figures_have_no_date_and_tables_keep_every_digit(tmp_path):
    value = np.float32(0.1) / np.float32(3)
    for name in ("first", "second"):
        figure = plots.evolution("title", [3], ["one"], [[noise(7, 7, 3)]], [["1"]])
        plots.save(figure, tmp_path / name, "x", ["name", "value"], [("a,b", value), ("c", None)])
    for suffix in plots.SUFFIXES:
        assert (tmp_path / f"first/x{suffix}").read_bytes() == (tmp_path / f"second/x{suffix}").read_bytes()
    with (tmp_path / "first/x.csv").open(newline="") as file:
        header, row, empty = csv.reader(file)
    assert header == ["name", "value"]
    assert row[0] == "a,b"
    assert np.float32(row[1]) == value
    assert empty == ["c", ""]
    assert b"CreationDate" not in (tmp_path / "first/x.pdf").read_bytes()
    with Image.open(tmp_path / "first/x.png") as picture:
        assert "Software" not in picture.info


def test_a_users_matplotlib_settings_change_nothing(tmp_path):
    import matplotlib

    figure = plots.evolution("title", [3], ["one"], [[noise(7, 7, 3)]], [["1"]])
    plots.save(figure, tmp_path / "first", "x", ["a"], [])
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "red", "text.usetex": True}):
        figure = plots.evolution("title", [3], ["one"], [[noise(7, 7, 3)]], [["1"]])
        plots.save(figure, tmp_path / "second", "x", ["a"], [])
    assert (tmp_path / "first/x.png").read_bytes() == (tmp_path / "second/x.png").read_bytes()
