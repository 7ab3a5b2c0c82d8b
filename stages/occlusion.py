"""Stage occlusion: Figure 7, what a grey square over parts of an image does to a filter and to the classifier."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier import Answer, Classifier, classify, find_classifier
from pipeline.cluster import Pool
from pipeline.deconvnet import project
from pipeline.device import one_batch, repeatable
from pipeline.errors import InputError
from pipeline.figures import contrast
from pipeline.layers import Layer
from pipeline.patches import read_images, windows
from pipeline.plan import Plan
from pipeline.samples import Sample, TrueClass, choose_images, name_class, true_class
from pipeline.store import Store
from pipeline.taps import spatial_maximum
from pipeline.variants import occlude, picture, run_variants, square_centres

from .progress import Progress

if TYPE_CHECKING:
    from pipeline.plots import Occluded

IMAGES = 3  # as in the paper, unless they are named
PLACES = 28  # of the square along an axis, unless the step is given
PATCHES = 3  # of the filter from other images
COLUMNS = (
    "image", "filter", "top", "left", "activity", "class", "class name", "class from", "probability",
    "most likely class", "most likely class name",
)  # fmt: skip


@dataclass(frozen=True)
class Square:
    """The grey square: its side, and how far it is moved at a time, in pixels of the input."""

    side: int
    step: int


@dataclass(frozen=True)
class Response:
    """What a network says of an image with the square at every place, and of the image as it is.

    Attributes
    ----------
    filter : int
        The one with the largest activation on the image as it is.
    projection : ndarray (y, x, rgb) float32
        Of that activation, in the window of its patch.
    whole_activity : float
    whole : ndarray (class)
        Activity and probabilities of the image as it is.
    activity : ndarray (row, column)
        The sum of the filter's map.
    probability : ndarray (row, column, class)
    """

    filter: int
    projection: np.ndarray
    whole_activity: float
    whole: np.ndarray
    activity: np.ndarray
    probability: np.ndarray


def choose_square(crop: int, side: int | None, step: int | None) -> Square:
    """Give the square: a quarter of the input, at 28 places along an axis, unless given; InputError if it cannot be.

    >>> choose_square(224, None, None)
    Square(side=56, step=8)
    """
    square = Square(side or max(1, crop // 4), step or max(1, crop // PLACES))
    for name, value in (("--side", square.side), ("--step", square.step)):
        if value > crop:
            raise InputError(f"{name} {value} is more than the input's side, {crop} pixels: give a smaller one.")
    return square


def occlusion(
    plan: Plan, pool: Pool, keys: Sequence[str] = (), side: int | None = None, step: int | None = None
) -> Iterator[Progress]:
    """Slide a grey square over some images, for the deepest layer asked for; always done again.

    The square's centre stands every ``step`` pixels over the whole image; where it would leave the image it is cut
    off. Its value is what normalisation takes for the mean.

    Parameters
    ----------
    keys : sequence of str
        Of the images; none = a seeded random three.
    side, step : int, optional
        In pixels of the input.
    """
    from pipeline import plots

    store, layer = Store.open(plan.config.store), plan.layers[-1]
    square = choose_square(plan.config.decode.crop, side, step)
    if store.fingerprint("rank", layer.name) != plan.rank_fingerprint(layer):
        raise InputError(f"layer {layer.name} is not ranked: `topnine rank` first.")
    samples = choose_images(store, keys, IMAGES, plan.config.tile.seed)
    classifier = find_classifier(plan.graph())
    responses: dict[int, Response] = {}
    yield Progress("occlusion", 0, len(samples), "images")
    for finished in pool.run(occlude_image, samples, plan, classifier, layer, square, pool.threads):
        if finished:
            responses[finished[0].image] = finished[1]
            yield Progress("occlusion", len(responses), len(samples), "images")
    rows: list[Occluded] = []
    table: list[tuple] = []
    for sample in samples:
        response = responses[sample.image]
        true = true_class(store, sample, response.whole)
        rows.append(_row(plan, pool, store, layer, square, sample, response, true))
        table += _table(store, sample, response, true, square, plan.config.decode.crop)
    figure = plots.occlusion(_title(plan, store, layer, square), rows, plan.config.decode.crop, square.step)
    plots.save(figure, plan.folder / "figures", f"occlusion-layer{layer.title}", COLUMNS, table)


def occlude_image(
    sample: Sample, plan: Plan, classifier: Classifier, layer: Layer, square: Square, threads: int
) -> Response:
    """Run an image with the square at every place (a task)."""
    store, crop = Store.open(plan.config.store), plan.config.decode.crop
    source = read_images(store, plan.dataset, np.array([sample.image]), plan.config, threads)
    network, taps = plan.network(), {"layer": layer.tap}
    pixels = network.architecture.normalise(torch.from_numpy(source).to(plan.device))
    with repeatable(), one_batch(plan.device), torch.inference_mode():
        answer = classify(network.module, pixels, classifier, taps)
    filter, place = _strongest(answer.maps["layer"])

    def make(image: Tensor, corner: tuple[int, int]) -> Tensor:
        return occlude(image, *corner, square.side)

    def read(answer: Answer) -> tuple[np.ndarray, np.ndarray]:
        activity = answer.maps["layer"][1:, filter].sum(dim=(1, 2))
        return activity.cpu().numpy(), answer.probability[1:].cpu().numpy()

    parts = list(run_variants(plan, classifier, taps, pixels[0], _places(crop, square), make, read, threads))
    activity, probability = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    side = len(square_centres(crop, square.step))
    return Response(
        filter,
        _projection(plan, layer, pixels, filter, place),
        float(answer.maps["layer"][0, filter].sum()),
        answer.probability[0].cpu().numpy(),
        activity.reshape(side, side),
        probability.reshape(side, side, -1),
    )


def _strongest(maps: Tensor) -> tuple[int, tuple[int, int]]:
    """Give the filter with the largest activation in the maps of one image, and the activation's row and column."""
    activation, row, column = (found[0] for found in spatial_maximum(maps))
    filter = int(activation.argmax())
    return filter, (int(row[filter]), int(column[filter]))


def _projection(plan: Plan, layer: Layer, pixels: Tensor, filter: int, place: tuple[int, int]) -> np.ndarray:
    """Project an activation of one image (image, rgb, y, x); give the window of its patch (y, x, rgb)."""
    hit = torch.tensor([filter, *place], device=plan.device)[:, None]
    with repeatable(), one_batch(plan.device):
        _, projected = project(plan.network().module, layer.tap, pixels, hit[0], hit[1], hit[2], plan.rules())
    top, left, bottom, right = layer.field.window(*place, *pixels.shape[2:])
    return projected[0].permute(1, 2, 0)[top:bottom, left:right].cpu().numpy()


def _places(crop: int, square: Square) -> list[tuple[int, int]]:
    """Give top and left of the square at every place, row by row; outside of the image it is cut off."""
    starts = (square_centres(crop, square.step) - square.side // 2).tolist()
    return [(top, left) for top in starts for left in starts]


def _row(
    plan: Plan, pool: Pool, store: Store, layer: Layer, square: Square, sample: Sample, found: Response, true: TrueClass
) -> Occluded:
    from pipeline.plots import Occluded, shortened

    classes = len(found.whole)
    likely = found.probability.argmax(axis=2)
    numbers, named = np.unique(likely).tolist(), shortened(true.name, 24)
    return Occluded(
        title=f"{shortened(sample.key, 30)}\n{'class' if true.source == 'label' else 'most likely'}: {named}",
        covered=_covered(plan, store, sample, found, square, pool.threads),
        projection=contrast(found.projection, plan.config.tile.quantile),
        patches=_patches(plan, pool, store, layer, sample, found.filter),
        filter=f"filter {found.filter}",
        followed=f"class {named}" if named.isdigit() else named,
        activity=found.activity,
        probability=found.probability[:, :, true.number],
        uncovered=(found.whole_activity, float(found.whole[true.number])),
        likely=likely,
        names={number: name_class(store, number, classes) for number in numbers},
    )


def _covered(plan: Plan, store: Store, sample: Sample, found: Response, square: Square, threads: int) -> np.ndarray:
    """Give the image with the square where the activity is least."""
    place = _places(plan.config.decode.crop, square)[int(found.activity.argmin())]
    source = read_images(store, plan.dataset, np.array([sample.image]), plan.config, threads)
    architecture = plan.network().architecture
    return picture(occlude(architecture.normalise(torch.from_numpy(source))[0], *place, square.side), architecture)


def _patches(plan: Plan, pool: Pool, store: Store, layer: Layer, sample: Sample, filter: int) -> list[np.ndarray]:
    """Cut the filter's strongest patches out of other images."""
    ranking = store.read_ranking(layer.name, slice(filter, filter + 1))
    others = np.nonzero((ranking.image[0] >= 0) & (ranking.image[0] != sample.image))[0][:PATCHES]
    boxes = windows(layer.field, ranking.row[0][others], ranking.column[0][others], plan.config.decode.crop)
    pixels = read_images(store, plan.dataset, ranking.image[0][others], plan.config, pool.threads)
    return [pixels[i, box[0] : box[2], box[1] : box[3]] for i, box in enumerate(boxes)]


def _table(
    store: Store, sample: Sample, found: Response, true: TrueClass, square: Square, crop: int
) -> Iterator[tuple]:
    activity, probability = found.activity.ravel(), found.probability.reshape(-1, len(found.whole))
    for i, (top, left) in enumerate(_places(crop, square)):
        likely = int(probability[i].argmax())
        followed = true.number, true.name, true.source, probability[i, true.number]
        name = name_class(store, likely, len(found.whole))
        yield sample.key, found.filter, top, left, activity[i], *followed, likely, name


def _title(plan: Plan, store: Store, layer: Layer, square: Square) -> str:
    return (
        f"{plan.config.network.name} · layer {layer.title} ({layer.name}) · "
        f"{plan.dataset.name}, {store.images:,} images · a grey square of {square.side} pixels, moved by {square.step}"
    )
