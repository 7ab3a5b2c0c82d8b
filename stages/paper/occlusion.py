"""Stage occlusion: Figure 7, how a filter and the classifier respond to a grey square moved over an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from topnine.pipeline.cluster.pool import Pool, abandoned
from topnine.pipeline.compute.deconvnet import Rules
from topnine.pipeline.compute.devices import open_device
from topnine.pipeline.compute.patches import cut, patch_boxes
from topnine.pipeline.compute.perturbations import (
    ClassifierRun,
    draw_variants,
    occlude,
    run_image,
    run_variants,
    square_centres,
)
from topnine.pipeline.compute.projections import Projector, project_image
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.drawing.bands import to_rgb
from topnine.pipeline.drawing.contrast import contrast
from topnine.pipeline.drawing.texts import shorten
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.classifier import ClassifierOutput
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.taps import spatial_maximum
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.names import quote
from topnine.pipeline.store.store import Store
from topnine.stages.changes import check_touched_shards
from topnine.stages.paper.samples import Sample, TrueClass, name_class, pick_images, true_class
from topnine.stages.progress import Progress
from topnine.stages.settings import classifier_run
from topnine.stages.work import PatchReader, ShardFinder, check_ranked

if TYPE_CHECKING:
    from topnine.pipeline.drawing.paper import Occluded

RANDOM_IMAGES = 3  # as in the paper, unless images are named
POSITIONS = 28  # of the square along an axis, unless the step is given
OTHER_PATCHES = 3  # of the filter, from other images
COLUMNS = (
    "image", "filter", "top", "left", "activity", "class", "class name", "class from", "probability",
    "most likely class", "most likely class name",
)  # fmt: skip


@dataclass(frozen=True)
class Square:
    """The grey square: its side, and how far it is moved at a time, in pixels of the input."""

    side: int
    step: int

    def corners(self, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
        """Yield top and left of the square at every position, row by row; they can lie outside of the image."""
        height, width = size
        return product(self.starts(height), self.starts(width))

    def starts(self, length: int) -> list[int]:
        """List the square's first pixels along an axis of a length at every position."""
        starts: list[int] = (square_centres(length, self.step) - self.side // 2).tolist()
        return starts


@dataclass(frozen=True)
class OccludeTask:
    """What every task that occludes an image is handed beside it."""

    store: str
    images: ImageSource
    run: ClassifierRun  # whose tap is called "layer"
    layer: Layer
    rules: Rules
    precision: str
    square: Square


@dataclass(frozen=True)
class Response:
    """How a network responds to an image with the square at every position, and to the unmodified image.

    Attributes
    ----------
    true : TrueClass
        Whose probability is followed.
    filter : int
        The one with the largest activation on the unmodified image.
    projection : ndarray (y, x, channel) float32
        Of that activation, in the window of its patch.
    classes : int
        Of the network.
    unmodified_activity, unmodified_probability : float
    activity : ndarray (row, column) float32
        The sum of the filter's map.
    probability : ndarray (row, column) float32
        Of the class that is followed.
    likely : ndarray (row, column) int64
        The most likely class.
    covered : ndarray (y, x, channel) uint8
        The image with the square where the activity is least.
    """

    true: TrueClass
    filter: int
    projection: np.ndarray
    classes: int
    unmodified_activity: float
    unmodified_probability: float
    activity: np.ndarray
    probability: np.ndarray
    likely: np.ndarray
    covered: np.ndarray


def choose_square(size: tuple[int, int], side: int | None, step: int | None) -> Square:
    """Return the square: a quarter of the input's shorter side, at 28 positions along it, unless given.

    Raises
    ------
    InputError
        It is larger than the input.

    Examples
    --------
    >>> choose_square((224, 224), None, None)
    Square(side=56, step=8)
    """
    shortest = min(size)
    square = Square(side or max(1, shortest // 4), step or max(1, shortest // POSITIONS))
    for name, value in (("--side", square.side), ("--step", square.step)):
        if value > shortest:
            raise InputError(f"{name} {value} is more than the input's side, {shortest} pixels: give a smaller one.")
    return square


def occlusion(
    plan: Plan, pool: Pool, keys: Sequence[str] = (), side: int | None = None, step: int | None = None
) -> Iterator[Progress]:
    """Move a grey square over some images, for the deepest layer asked for; always done again.

    The square's centre stands every ``step`` pixels over the whole image. The square is clipped at the borders. Its
    value is the dataset's mean.

    Parameters
    ----------
    keys : sequence of str
        Of the images; none = a seeded random three.
    side, step : int, optional
        In pixels of the input.
    """
    from topnine.pipeline.drawing import paper, style

    store, layer, size = Store.open(plan.config.store), plan.layers[-1], plan.config.decode.size
    square = choose_square(size, side, step)
    check_ranked(store, plan.fingerprints, layer)
    samples = pick_images(store, keys, RANDOM_IMAGES, plan.config.tile.seed)
    check_touched_shards(plan.dataset, store, pool)
    run = classifier_run(plan, plan.classifier(), {"layer": layer}, pool.threads)
    task = OccludeTask(store.path, plan.images, run, layer, plan.rules, plan.config.deconvolve.precision, square)
    responses, finder = dict[int, Response](), ShardFinder.read(store, plan.images)

    def narrow(sample: Sample, task: OccludeTask) -> tuple[OccludeTask]:
        """Return the task of an image, with its shard alone."""
        return (replace(task, images=finder.select([sample.image])),)

    yield Progress("occlusion", 0, len(samples), "images")
    for sample, response in pool.run(occlude_image, samples, task, narrow=narrow):
        responses[sample.image] = response
        yield Progress("occlusion", len(responses), len(samples), "images")
    rows: list[Occluded] = []
    for sample in samples:
        response = responses[sample.image]
        patches = read_other_patches(PatchReader(store, plan.images, pool.threads), layer, sample, response.filter)
        shown = [response.projection, *patches, response.covered]
        projection, *patches, covered = (to_rgb(pixels, plan.config.tile.bands) for pixels in shown)
        picture = contrast(projection, plan.config.tile.quantile)
        rows.append(_row(store, sample, response, [covered, picture, *patches]))
    table = chain.from_iterable(_table(store, s, responses[s.image], square.corners(size)) for s in samples)
    title = (
        f"{plan.config.network.name} · layer {layer.title} ({layer.name}) · "
        f"{plan.dataset.name}, {len(store.images):,} images · "
        f"a grey square of {square.side} pixels, moved by {square.step}"
    )
    figure = paper.occlusion(title, rows, size, square.step)
    style.save(figure, plan.folder / "figures", f"occlusion-layer{quote(layer.title)}", COLUMNS, table)


def occlude_image(sample: Sample, task: OccludeTask) -> Response:
    """Run an image with the square at every position (a task); of each, three numbers are kept."""
    store, size = Store.open(task.store), task.images.preparation.size
    (image,) = PatchReader(store, task.images, task.run.threads).read_pixels(np.array([sample.image]))
    activation, row, column, activities, unmodified = run_image(task.run, image, _read_unmodified)
    filter, true = int(activation[0].argmax()), true_class(store, sample, unmodified[0])

    def read(output: ClassifierOutput) -> tuple[Tensor, Tensor, Tensor]:
        """Return the activity, the followed class's probability and the likeliest class of a batch's variants."""
        probability = output.probability[1:]
        activity = output.maps["layer"][1:, filter].sum(dim=(1, 2))
        return activity, probability[:, true.number], probability.argmax(dim=1)

    def make(pixels: Tensor, corner: tuple[int, int]) -> Tensor:
        """Cover the image with the square at a corner."""
        return occlude(pixels, *corner, task.square.side)

    corners = list(task.square.corners(size))
    shape = len(task.square.starts(size[0])), len(task.square.starts(size[1]))
    activity, probability, likely = np.empty(shape, np.float32), np.empty(shape, np.float32), np.empty(shape, np.int64)
    done = 0
    for part in run_variants(task.run, image, corners, make, read, abandoned):
        responses: tuple[np.ndarray, ...] = (activity, probability, likely)
        for values, of_batch in zip(responses, part, strict=True):
            values.ravel()[done : done + len(of_batch)] = of_batch
        done += len(part[0])
    hit = filter, int(row[0, filter]), int(column[0, filter])
    network = load_network(task.run.network, task.run.digest)
    projector = Projector(open_device(task.run.device), network, task.layer, task.rules, task.precision)
    return Response(
        true,
        filter,
        project_image(image, hit, projector),
        len(unmodified[0]),
        float(activities[0, filter]),
        float(unmodified[0, true.number]),
        activity,
        probability,
        likely,
        draw_variants(task.run, image, [corners[activity.argmin()]], make)[0],
    )


def _read_unmodified(output: ClassifierOutput) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return activation, row and column (image, filter), the sums of the maps, and the probabilities (image, class)."""
    maps = output.maps["layer"]
    activation, row, column = spatial_maximum(maps)
    return activation, row, column, maps.sum(dim=(2, 3)), output.probability


def read_other_patches(reader: PatchReader, layer: Layer, sample: Sample, filter: int) -> list[np.ndarray]:
    """Read a filter's strongest patches from images other than the sample's."""
    ranking = reader.store.layer(layer.name).read_ranking(slice(filter, filter + 1))
    others = np.nonzero((ranking.image[0] >= 0) & (ranking.image[0] != sample.image))[0][:OTHER_PATCHES]
    if not len(others):
        return []
    boxes = patch_boxes(layer.field, ranking.row[0][others], ranking.column[0][others], reader.images.preparation.size)
    return list(cut(list(reader.read_pixels(ranking.image[0][others])), boxes))


def _row(store: Store, sample: Sample, response: Response, pictures: Sequence[np.ndarray]) -> Occluded:
    """Return a row of the figure; ``pictures`` are the covered image, the projection and the patches from others."""
    from topnine.pipeline.drawing.paper import LABEL_CHARACTERS, Occluded

    true, followed = response.true, shorten(response.true.name, LABEL_CHARACTERS)
    return Occluded(
        title=f"{shorten(sample.key, 30)}\n{'class' if true.source == 'label' else 'most likely'}: {followed}",
        covered=pictures[0],
        projection=pictures[1],
        patches=pictures[2:],
        filter=f"filter {response.filter}",
        followed=f"class {followed}" if followed.isdigit() else followed,
        activity=response.activity,
        probability=response.probability,
        uncovered=(response.unmodified_activity, response.unmodified_probability),
        likely=response.likely,
        names={number: name_class(store, number, response.classes) for number in np.unique(response.likely).tolist()},
    )


def _table(
    store: Store, sample: Sample, response: Response, corners: Iterable[tuple[int, int]]
) -> Iterator[tuple[Any, ...]]:
    true = response.true
    maps = response.activity.ravel(), response.probability.ravel(), response.likely.ravel()
    names = {number: name_class(store, number, response.classes) for number in np.unique(response.likely).tolist()}
    for (top, left), activity, probability, likely in zip(corners, *maps, strict=True):
        followed = true.number, true.name, true.source, probability
        yield sample.key, response.filter, top, left, activity, *followed, int(likely), names[int(likely)]
