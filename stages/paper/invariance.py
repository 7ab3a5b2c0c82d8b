"""Stage invariance: Figure 5, how translation, scale and rotation of an image change its features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from topnine.pipeline.cluster.pool import Pool, abandoned
from topnine.pipeline.compute.perturbations import (
    ClassifierRun,
    Transformation,
    draw_variants,
    run_variants,
    transform,
    transformations,
)
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.drawing.bands import to_rgb
from topnine.pipeline.network.classifier import ClassifierOutput
from topnine.pipeline.network.graph import Graph
from topnine.pipeline.network.layers import Layer, find_layers, first_convolution
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.changes import check_touched_shards
from topnine.stages.paper.samples import Sample, TrueClass, pick_images, true_class
from topnine.stages.progress import Progress
from topnine.stages.settings import classifier_run
from topnine.stages.work import PatchReader, ShardFinder

if TYPE_CHECKING:
    from topnine.pipeline.drawing.paper import Curves

RANDOM_IMAGES = 5  # as in the paper, unless images are named
COLUMNS = (
    "image", "transformation", "value", "unit", "first layer distance", "last hidden distance",
    "class", "class name", "class from", "probability",
)  # fmt: skip


@dataclass(frozen=True)
class SweepTask:
    """What every task that transforms an image is handed beside it."""

    store: str
    images: ImageSource
    run: ClassifierRun  # whose tap is called "first"


@dataclass(frozen=True)
class Sweep:
    """One image under one transformation: distances and the probabilities of all classes, for every value.

    Attributes
    ----------
    first, hidden : ndarray (value)
        Euclidean distance to the unmodified image's feature, in the first layer and before the last one.
    probability : ndarray (value, class)
    pictures : ndarray (pictured value, y, x, channel) uint8
    """

    first: np.ndarray
    hidden: np.ndarray
    probability: np.ndarray
    pictures: np.ndarray


@dataclass(frozen=True)
class Swept:
    """An image under all transformations, and the class whose probability is followed."""

    sample: Sample
    sweeps: list[Sweep]
    true: TrueClass


def invariance(plan: Plan, pool: Pool, keys: Sequence[str] = ()) -> Iterator[Progress]:
    """Draw the features of some images under three transformations; always done again.

    The whole classifier runs. The first layer is layer 1, after its activation function; the last hidden feature is
    the input of the last weighted layer (layer 7 of AlexNet and ZFNet).

    Parameters
    ----------
    keys : sequence of str
        Of the images; none = a seeded random five.
    """
    store = Store.open(plan.config.store)
    samples = pick_images(store, keys, RANDOM_IMAGES, plan.config.tile.seed)
    check_touched_shards(plan.dataset, store, pool)
    classifier, layer = plan.classifier(), _first_layer(plan.graph, plan.network.architecture.layers)
    changes = transformations(plan.config.decode.size[0])
    run = classifier_run(plan, classifier, {"first": layer}, pool.threads)
    sweeps: dict[int, list[Sweep]] = {}
    yield Progress("invariance", 0, len(samples), "images")
    task, finder = SweepTask(store.path, plan.images, run), ShardFinder.read(store, plan.images)

    def narrow(sample: Sample, task: SweepTask) -> tuple[SweepTask]:
        """Return the task of an image, with its shard alone."""
        return (replace(task, images=finder.select([sample.image])),)

    for sample, swept in pool.run(sweep_image, samples, task, narrow=narrow):
        bands = plan.config.tile.bands
        sweeps[sample.image] = [replace(each, pictures=to_rgb(each.pictures, bands)) for each in swept]
        yield Progress("invariance", len(sweeps), len(samples), "images")
    images = [
        Swept(sample, sweeps[sample.image], true_class(store, sample, _unmodified(changes[0], sweeps[sample.image])))
        for sample in samples
    ]
    title = f"{plan.config.network.name} · {plan.dataset.name}, {len(store.images):,} images"
    headings = [
        f"distance in layer {layer.title} ({layer.name})",
        f"distance in the last hidden layer ({int(np.prod(classifier.hidden.shape)):,} features)",
        "probability of the class",
    ]
    draw_figure(title, headings, changes, images, plan.folder / "figures")


def draw_figure(
    title: str, headings: Sequence[str], changes: Sequence[Transformation], images: Sequence[Swept], folder: Path
) -> None:
    """Draw the figure and write it with its data into a folder; ``headings`` are of the columns of curves."""
    from topnine.pipeline.drawing import paper, style

    rows = [_curves(number, transformation, images) for number, transformation in enumerate(changes)]
    title = f"{title} · class: {_describe_classes(images)}"
    figure = paper.invariance(title, [_name(image) for image in images], headings, rows)
    style.save(figure, folder, "invariance", COLUMNS, _table(changes, images))


def sweep_image(sample: Sample, task: SweepTask) -> list[Sweep]:
    """Run an image under every transformation (a task)."""
    reader = PatchReader(Store.open(task.store), task.images, task.run.threads)
    (image,) = reader.read_pixels(np.array([sample.image]))
    return [_sweep(image, change, task.run) for change in transformations(task.images.preparation.size[0])]


def _sweep(image: np.ndarray, transformation: Transformation, run: ClassifierRun) -> Sweep:
    def make(pixels: Tensor, value: float) -> Tensor:
        """Transform the image by a value."""
        return transform(pixels, transformation, value)

    parts = list(run_variants(run, image, transformation.values, make, _compare, abandoned))
    first, hidden, probability = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    return Sweep(first, hidden, probability, draw_variants(run, image, transformation.shown, make))


def _compare(output: ClassifierOutput) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distances of a batch's images from its first, in both layers, and their probabilities."""
    features = output.maps["first"].flatten(1), output.hidden
    first, hidden = (torch.linalg.vector_norm(feature[1:] - feature[:1], dim=1) for feature in features)
    return first, hidden, output.probability[1:]


def _first_layer(graph: Graph, numbered: Mapping[str, str]) -> Layer:
    """Return layer 1, or where no layers are numbered the first convolution."""
    return find_layers(graph, numbered, "1")[0] if numbered else first_convolution(graph, numbered)


def _unmodified(first: Transformation, sweeps: list[Sweep]) -> np.ndarray:
    """Return the probabilities (class) of the unmodified image, from the sweep of the first transformation."""
    probability: np.ndarray = sweeps[0].probability[first.values.index(first.neutral)]
    return probability


def _curves(number: int, transformation: Transformation, images: Sequence[Swept]) -> Curves:
    """Return a row of the figure: the transformation of a number."""
    from topnine.pipeline.drawing.paper import Curves

    sweeps = [image.sweeps[number] for image in images]
    probability = [sweep.probability[:, image.true.number] for sweep, image in zip(sweeps, images, strict=True)]
    lines = [np.stack([s.first for s in sweeps]), np.stack([s.hidden for s in sweeps]), np.stack(probability)]
    pictures = np.stack([s.pictures for s in sweeps])
    return Curves(transformation.axis, transformation.values, transformation.shown, pictures, lines)


def _table(changes: Sequence[Transformation], images: Sequence[Swept]) -> Iterator[tuple[Any, ...]]:
    for image in images:
        true = image.true
        for transformation, sweep in zip(changes, image.sweeps, strict=True):
            for i, value in enumerate(transformation.values):
                distances = sweep.first[i], sweep.hidden[i]
                followed = true.number, true.name, true.source, sweep.probability[i, true.number]
                yield image.sample.key, transformation.name, value, transformation.unit, *distances, *followed


def _name(image: Swept) -> str:
    """Label an image with the class name; with its key if the class is unnamed or only predicted."""
    named = image.true.source == "label" and not image.true.name.isdigit()
    return fill(image.true.name if named else image.sample.key, width=18, max_lines=2, placeholder="…")


def _describe_classes(images: Sequence[Swept]) -> str:
    sources = {
        "label": "the dataset's label",
        "most likely": "the most likely one of the untransformed image, where the dataset has no label",
    }
    occurring = {image.true.source for image in images}
    return "; ".join(text for source, text in sources.items() if source in occurring)
