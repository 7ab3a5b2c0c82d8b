from dataclasses import replace

import numpy as np
import pytest

from topnine.pipeline.drawing import paper
from topnine.pipeline.errors import InputError


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def occluded(classes):
    likely = np.arange(144).reshape(12, 12) % classes
    return paper.Occluded(
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
def test_the_legend_names_the_most_frequent_classes(classes, labels):
    figure = paper.occlusion("title", [occluded(classes)], (96, 96), 8)
    (legend,) = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == labels


def test_maps_lie_over_the_image_they_are_of():
    figure = paper.occlusion("title", [occluded(2)], (96, 96), 8)
    for axes in (figure.axes[i] for i in (1, 3, 4)):
        assert axes.images[0].get_extent() == [0, 96, 96, 0]
        assert (axes.get_xlim(), axes.get_ylim()) == ((0, 96), (96, 0))


def test_dead_filters_have_frames_in_the_places_of_their_numbers():
    dead = np.zeros(12, bool)
    dead[[0, 7]] = True
    figure = paper.first_layer("title", [paper.Bank("bank", noise(12, 7, 7, 3), dead)])
    (axes,) = figure.axes
    assert [patch.get_xy() for patch in axes.patches] == [(-1, -1), (3 * 8 - 1, 8 - 1)]


def test_a_dead_cell_of_evolution_is_blank():
    figure = paper.evolution("title", [3], ["one", "two"], [[None, noise(7, 7, 3)]], [["dead", "1.5"]])
    assert [len(axes.images) for axes in figure.axes] == [0, 1]
    assert [axes.get_xlabel() for axes in figure.axes] == ["dead", "1.5"]


def test_long_names_of_classes_lose_their_middle():
    row = replace(occluded(1), names={0: "a class whose name is too long for a legend"})
    (legend,) = [axes.get_legend() for axes in paper.occlusion("title", [row], (96, 96), 8).axes if axes.get_legend()]
    assert [text.get_text() for text in legend.get_texts()] == ["a class whos…or a legend"]


def test_curves_have_the_colours_of_their_images():
    row = paper.Curves("x", (0, 1, 2), (0, 2), noise(2, 2, 8, 8, 3), [np.array([[0, 1, 2], [2, 1, 0]])] * 2)
    figure = paper.invariance("title", ["one", "two"], ["distance", "probability"], [row])
    pictures, *curves = figure.axes
    for axes in curves:
        assert [line.get_color() for line in axes.lines] == [label.get_color() for label in pictures.get_yticklabels()]
    assert curves[1].get_ylim() == (0, 1.02)


def test_frames_of_filters_that_are_not_square_lie_around_them():
    dead = np.zeros(12, bool)
    dead[7] = True
    filters = np.full((12, 24, 96, 3), 128, np.uint8)  # gaps of one row and four columns
    filters[7] = 0
    (axes,) = paper.first_layer("title", [paper.Bank("bank", filters, dead)]).axes
    (frame,) = axes.patches
    rows, columns = np.nonzero((np.asarray(axes.images[0].get_array()) == 0).all(axis=2))
    assert frame.get_xy() == (columns.min() - 1, rows.min() - 1)
    assert (frame.get_width(), frame.get_height()) == (np.ptp(columns) + 2, np.ptp(rows) + 2)
    assert axes.get_yticks().tolist() == [12, 37, 62]


def test_thumbnails_have_their_names_and_values_beside_their_middles():
    row = paper.Curves("x", (0, 1, 2), (0, 2), noise(3, 2, 24, 48, 3), [np.zeros((3, 3))])
    axes = paper.invariance("title", ["one", "two", "three"], ["distance"], [row]).axes[0]
    assert axes.images[0].get_array().shape == (3 * 24 + 2 * 1, 2 * 48 + 2, 3)
    assert axes.get_yticks().tolist() == [12, 37, 62]
    assert axes.get_xticks().tolist() == [24, 74]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["0", "2"]


@pytest.mark.parametrize(("filters", "checkpoints", "size"), [(270, 8, "1,935 × 65,745"), (6, 300, "67,635 × 1,593")])
def test_a_figure_too_large_to_draw_is_one_sentence(filters, checkpoints, size):
    sentence = f"would have {size} pixels, .* more than 65,535: name fewer with --filter, or fewer network.checkpoints"
    with pytest.raises(InputError, match=sentence):
        paper.check_evolution(filters, checkpoints)
    cells = [[None] * checkpoints] * filters
    with pytest.raises(InputError, match=sentence):
        paper.evolution("title", range(filters), ["x"] * checkpoints, cells, [["dead"] * checkpoints] * filters)


def test_the_largest_figures_can_be_drawn_and_too_many_images_cannot():
    paper.check_evolution(filters=269, checkpoints=290)
    with pytest.raises(InputError, match="name fewer --images"):
        paper.occlusion("title", [occluded(1)] * 133, (96, 96), 8)
