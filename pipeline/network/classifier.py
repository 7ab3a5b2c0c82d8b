"""A whole network, run once: maps of some layers, the last hidden feature, and the probabilities of the classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import InputError
from .graph import Graph
from .taps import Tap, read_taps, tap_value

WEIGHTED = ("linear", "conv2d")
# Keys that cannot clash with a layer's name, because of the spaces.
HIDDEN, SCORES = "last hidden feature", "class scores"


@dataclass(frozen=True)
class Classifier:
    """Where in a network's graph its classifier is read.

    Attributes
    ----------
    hidden : Tap
        The input of the last weighted layer: layer 7 of AlexNet and ZFNet, a map where that layer is a convolution.
    scores : Tap
        The network's last operation: (class) scores, or probabilities where it is a softmax.
    """

    hidden: Tap
    scores: Tap

    @property
    def classes(self) -> int:
        """How many classes it knows."""
        return self.scores.shape[0]


@dataclass(frozen=True)
class ClassifierOutput:
    """The maps, features and class probabilities of some images.

    Attributes
    ----------
    maps : dict of layer name to Tensor (image, filter, row, column)
    hidden : Tensor (image, feature)
        The input of the last weighted layer, flattened.
    probability : Tensor (image, class)
    """

    maps: dict[str, Tensor]
    hidden: Tensor
    probability: Tensor


def find_classifier(graph: Graph) -> Classifier:
    """Find the last hidden feature and the class scores of a network.

    Raises
    ------
    InputError
        Its classifier does not take this input size, or it is no classifier.
    """
    if graph.broken_off:
        height, width = graph.input_shape[2:]
        raise InputError(
            f"the network's classifier does not take an input of {height}×{width} pixels ({graph.broken_off}): "
            "give decode.size the one that it was trained for, and another STORE."
        )
    operations = graph.operations
    weighted = [i for i, operation in enumerate(operations) if operation.name in WEIGHTED]
    shape = operations[-1].shape if operations else ()
    if len(shape) != 2 or not weighted or operations[weighted[-1]].inputs[0] == 0:
        raise InputError(
            f"the network gives {shape or 'nothing'}, not scores (image, class) behind a hidden layer: "
            "this figure needs a whole classifier."
        )
    hidden = operations[weighted[-1]].inputs[0] - 1
    return Classifier(_tap(graph, hidden), _tap(graph, len(operations) - 1))


def classify(network: nn.Module, pixels: Tensor, classifier: Classifier, taps: Mapping[str, Tap]) -> ClassifierOutput:
    """Run a whole network once.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode; it is not changed.
    pixels : Tensor (image, rgb, y, x)
        Its normalised input.
    taps : mapping of layer name to Tap
        The layers whose maps are wanted; it may be empty.
    """
    outputs = read_taps(network, pixels, {**taps, HIDDEN: classifier.hidden, SCORES: classifier.scores}, torch.clone)
    hidden, scores = outputs.pop(HIDDEN), outputs.pop(SCORES)
    probability = scores if classifier.scores.follows == "softmax" else scores.softmax(dim=1)
    return ClassifierOutput(outputs, hidden.flatten(1), probability)


def _tap(graph: Graph, operation: int) -> Tap:
    return replace(tap_value(graph, operation + 1), rectifiers=())
