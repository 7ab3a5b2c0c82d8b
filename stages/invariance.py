"""Stage invariance: Figure 5, what translation, scale and rotation of an image do to its features."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pipeline.classifier import Answer, Classifier, find_classifier
from pipeline.cluster import Pool
from pipeline.layers import Layer, find_layers, first_convolution
from pipeline.patches import read_images
from pipeline.plan import Plan
from pipeline.samples import Sample, TrueClass, choose_images, true_class
from pipeline.store import Store
from pipeline.variants import Transformation, picture, run_variants, transform, transformations

from .progress import Progress

if TYPE_CHECKING:
    from pipeline.plots import Curves

IMAGES = 5  # as in the paper, unless they are named
COLUMNS = (
    "image", "transformation", "value", "unit", "first layer distance", "last hidden distance",
    "class", "class name", "class from", "probability",
)  # fmt: skip


@dataclass(frozen=True)
class Sweep:
    """One image under one transformation: distances and the probabilities of all classes, for every value.

    Attributes
    ----------
    first, hidden : ndarray (value)
        Euclidean distance to the untransformed image's feature, in the first layer and before the last one.
    probability : ndarray (value, class)
    pictures : ndarray (shown, y, x, rgb) uint8
    """

    first: np.ndarray
    hidden: np.ndarray
    probability: np.ndarray
    pictures: np.ndarray


def invariance(plan: Plan, pool: Pool, keys: Sequence[str] = ()) -> Iterator[Progress]:
    """Draw the features of some images under three transformations; always done again.

    The whole classifier runs. The first layer is layer 1, after its activation function; the last hidden feature is
    what the last weighted layer reads (layer 7 of AlexNet and ZFNet).

    Parameters
    ----------
    keys : sequence of str
        Of the images; none = a seeded random five.
    """
    from pipeline import plots

    store = Store.open(plan.config.store)
    samples = choose_images(store, keys, IMAGES, plan.config.tile.seed)
    graph = plan.graph()
    classifier, layer = find_classifier(graph), _first_layer(plan)
    sweeps: dict[int, list[Sweep]] = {}
    yield Progress("invariance", 0, len(samples), "images")
    for finished in pool.run(sweep_image, samples, plan, classifier, layer, pool.threads):
        if finished:
            sweeps[finished[0].image] = finished[1]
            yield Progress("invariance", len(sweeps), len(samples), "images")
    found = [sweeps[sample.image] for sample in samples]
    classes = [true_class(store, s, _unchanged(plan, own)) for s, own in zip(samples, found, strict=True)]
    figure = plots.invariance(
        _title(plan, store, classes),
        [_name(sample, own) for sample, own in zip(samples, classes, strict=True)],
        [
            f"distance in layer {layer.title} ({layer.name})",
            f"distance in the last hidden layer ({int(np.prod(classifier.hidden.shape)):,} features)",
            "probability of the class",
        ],
        [_curves(number, own, found, classes) for number, own in enumerate(_transformations(plan))],
    )
    plots.save(figure, plan.folder / "figures", "invariance", COLUMNS, _table(plan, samples, found, classes))


def sweep_image(sample: Sample, plan: Plan, classifier: Classifier, layer: Layer, threads: int) -> list[Sweep]:
    """Run an image under every transformation (a task)."""
    source = read_images(Store.open(plan.config.store), plan.dataset, np.array([sample.image]), plan.config, threads)
    architecture = plan.network().architecture
    pixels = architecture.normalise(torch.from_numpy(source).to(plan.device))[0]
    sweeps = []
    for own in _transformations(plan):

        def make(image: Tensor, value: float, own: Transformation = own) -> Tensor:
            return transform(image, own, value)

        parts = list(run_variants(plan, classifier, {"first": layer.tap}, pixels, own.values, make, _compare, threads))
        first, hidden, probability = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        pictures = [picture(transform(pixels, own, value), architecture) for value in own.shown]
        sweeps.append(Sweep(first, hidden, probability, np.stack(pictures)))
    return sweeps


def _compare(answer: Answer) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give the distances of a batch's images from its first, in both layers, and their probabilities."""
    features = answer.maps["first"].flatten(1), answer.hidden
    distances = [torch.linalg.vector_norm(feature[1:] - feature[:1], dim=1) for feature in features]
    first, hidden, probability = (found.cpu().numpy() for found in (*distances, answer.probability[1:]))
    return first, hidden, probability


def _first_layer(plan: Plan) -> Layer:
    """Give layer 1, or where no layers are numbered the first convolution."""
    numbered = plan.network().architecture.layers
    return find_layers(plan.graph(), numbered, "1")[0] if numbered else first_convolution(plan.graph(), numbered)


def _transformations(plan: Plan) -> tuple[Transformation, ...]:
    return transformations(plan.config.decode.crop)


def _unchanged(plan: Plan, sweeps: list[Sweep]) -> np.ndarray:
    """Give the probabilities (class) of the image as it is."""
    own = _transformations(plan)[0]
    return sweeps[0].probability[own.values.index(own.neutral)]


def _curves(number: int, own: Transformation, found: list[list[Sweep]], classes: list[TrueClass]) -> Curves:
    """Give a row of the figure, of the transformation of a number."""
    from pipeline.plots import Curves

    sweeps = [image[number] for image in found]
    probability = [sweep.probability[:, true.number] for sweep, true in zip(sweeps, classes, strict=True)]
    lines = [np.stack([s.first for s in sweeps]), np.stack([s.hidden for s in sweeps]), np.stack(probability)]
    return Curves(own.axis, own.values, own.shown, np.stack([s.pictures for s in sweeps]), lines)


def _table(plan: Plan, samples: list[Sample], found: list[list[Sweep]], classes: list[TrueClass]) -> Iterator[tuple]:
    for sample, sweeps, true in zip(samples, found, classes, strict=True):
        for own, sweep in zip(_transformations(plan), sweeps, strict=True):
            for i, value in enumerate(own.values):
                distances = sweep.first[i], sweep.hidden[i]
                named = true.number, true.name, true.source, sweep.probability[i, true.number]
                yield sample.key, own.name, value, own.unit, *distances, *named


def _name(sample: Sample, true: TrueClass) -> str:
    """Name an image by its class; by its key where the class has no name or is not what the dataset says."""
    text = true.name if true.source == "label" and not true.name.isdigit() else sample.key
    return fill(text, width=18, max_lines=2, placeholder="…")


def _title(plan: Plan, store: Store, classes: list[TrueClass]) -> str:
    sources = {
        "label": "the dataset's label",
        "most likely": "the most likely one of the untransformed image, where the dataset has no label",
    }
    said = "; ".join(text for source, text in sources.items() if source in {true.source for true in classes})
    return f"{plan.config.network.name} · {plan.dataset.name}, {store.images:,} images · class: {said}"
