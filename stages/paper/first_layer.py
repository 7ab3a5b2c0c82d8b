"""Stage first-layer: Figure 6, the filters of the first layer on one scale, of one network or of two side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.drawing.bands import to_rgb
from topnine.pipeline.drawing.contrast import contrast
from topnine.pipeline.errors import InputError
from topnine.pipeline.fingerprints import Fingerprints
from topnine.pipeline.network.graph import Graph
from topnine.pipeline.network.layers import Layer, first_convolution, pixel_weights
from topnine.pipeline.network.loading import Network
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store
from topnine.stages.progress import Progress
from topnine.stages.work import is_current

COLUMNS = ("network", "filter", "largest absolute weight", "L2 norm", "maximum activation", "dead")


@dataclass(frozen=True)
class FirstLayer:
    """The first convolution of a network: its layer, weights (filter, channel, y, x), dead filters, maxima (filter)."""

    layer: Layer
    weights: np.ndarray
    dead: np.ndarray
    maximum: np.ndarray


def first_layer(plan: Plan, pool: Pool, beside: Plan | None = None) -> Iterator[Progress]:
    """Draw the filters of the network's first convolution, which has to be ranked; always done again.

    Parameters
    ----------
    beside : Plan, optional
        Of a second network, with its own store.

    Notes
    -----
    As in the paper, all filters of a network have one scale, so that a dominating filter is visible as such.
    """
    from topnine.pipeline.drawing import paper, style

    plans = [plan, *([beside] if beside else [])]
    yield Progress("first-layer", 0, len(plans), "networks")
    banks: list[paper.Bank] = []
    table: list[tuple[Any, ...]] = []
    for done, network in enumerate(plans, 1):
        store = Store.open(network.config.store)
        first = read_first_layer(store, network.graph, network.network, network.fingerprints)
        pictures = contrast(
            to_rgb(first.weights.transpose(0, 2, 3, 1), network.config.tile.bands), 1.0
        )  # one array, so one scale
        banks.append(
            paper.Bank(
                _bank_title(network.config.network.name, network.dataset.name, len(store.images), first),
                pictures,
                first.dead,
            )
        )
        table += _rows(network.config.network.name, first)
        yield Progress("first-layer", done, len(plans), "networks")
    figure = paper.first_layer("First-layer filters, one scale for all filters of a network", banks)
    style.save(figure, plan.folder / "figures", "first-layer", COLUMNS, table)


def read_first_layer(store: Store, graph: Graph, network: Network, fingerprints: Fingerprints) -> FirstLayer:
    """Return a network's first convolution; InputError where it does not work on pixels, or is not ranked."""
    layer = first_convolution(graph, network.architecture.layers)
    weights = pixel_weights(network.module, layer)
    if weights is None:
        raise InputError(
            f"the first convolution, {layer.name}, of the network of store {store.path} does not work on the "
            "pixels of the image: there is nothing to draw."
        )
    if not is_current(store, fingerprints, "rank", layer):
        raise InputError(
            f"layer {layer.name} is not ranked in store {store.path}: "
            f"`topnine run --layer {layer.name}` with its configuration first."
        )
    arrays = store.layer(layer.name)
    return FirstLayer(layer, weights, arrays.read_ranking().image[:, 0] < 0, arrays.read("max_activation"))


def _rows(network: str, first: FirstLayer) -> Iterator[tuple[Any, ...]]:
    largest = np.abs(first.weights).max(axis=(1, 2, 3))
    norm = np.linalg.norm(first.weights.reshape(len(first.weights), -1), axis=1)
    for f in range(len(first.weights)):
        yield network, f, largest[f], norm[f], first.maximum[f], "yes" if first.dead[f] else "no"


def _bank_title(network: str, dataset: str, images: int, first: FirstLayer) -> str:
    field = first.layer.field
    share = f"{first.dead.sum()} of {len(first.dead)} filters dead ({first.dead.mean():.0%})"
    return (
        f"{network} · {first.layer.name} · "
        f"{field.y.size}×{field.x.size} pixels, stride {field.y.stride}\n"
        f"{share} on {dataset}, {images:,} images\n"
        f"full contrast = weight ±{float(np.abs(first.weights).max()):.3g}"
    )
