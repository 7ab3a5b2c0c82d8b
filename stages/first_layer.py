"""Stage first-layer: Figure 6, the filters of the first layer on one scale, of one network or of two side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.figures import contrast
from pipeline.layers import Layer, first_convolution, pixel_weights
from pipeline.plan import Plan
from pipeline.store import Store

from .progress import Progress

COLUMNS = ("network", "filter", "largest absolute weight", "L2 norm", "maximum activation", "dead")


def first_layer(plan: Plan, pool: Pool, beside: Plan | None = None) -> Iterator[Progress]:
    """Draw the filters of the network's first convolution, which has to be ranked; always done again.

    Parameters
    ----------
    beside : Plan, optional
        Of a second network, with its own store.

    Notes
    -----
    As in the paper there is one scale for all filters of a network: a filter that dominates the others is seen to.
    """
    from pipeline import plots

    plans = [plan, *([beside] if beside else [])]
    yield Progress("first-layer", 0, len(plans), "networks")
    banks, table = [], []
    for done, own in enumerate(plans, 1):
        layer, weights, dead, maximum = _read(own)
        largest, norm = np.abs(weights).max(axis=(1, 2, 3)), np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
        pictures = contrast(weights.transpose(0, 2, 3, 1), 1.0)  # one array, so one scale
        banks.append(plots.Bank(_bank_title(own, layer, dead, float(largest.max())), pictures, dead))
        for f in range(len(weights)):
            row = own.config.network.name, f, largest[f], norm[f], maximum[f], "yes" if dead[f] else "no"
            table.append(row)
        yield Progress("first-layer", done, len(plans), "networks")
    figure = plots.first_layer("First-layer filters, one scale for all filters of a network", banks)
    plots.save(figure, plan.folder / "figures", "first-layer", COLUMNS, table)


def _read(plan: Plan) -> tuple[Layer, np.ndarray, np.ndarray, np.ndarray]:
    """Give the layer, its weights (filter, rgb, y, x), whether filters are dead, and their maxima (filter)."""
    layer = first_convolution(plan.graph(), plan.network().architecture.layers)
    weights = pixel_weights(plan.network().module, layer)
    if weights is None:
        raise InputError(
            f"the first convolution of {plan.config.network.name}, {layer.name}, does not work on the three colours of "
            "the image: there is nothing to draw."
        )
    store = Store.open(plan.config.store)
    if store.fingerprint("rank", layer.name) != plan.rank_fingerprint(layer):
        raise InputError(
            f"layer {layer.name} is not ranked in store {plan.config.store}: "
            f"`topnine run --layer {layer.name}` with its configuration first."
        )
    return layer, weights, store.read_ranking(layer.name).image[:, 0] < 0, store.read_layer(layer.name, "maximum")


def _bank_title(plan: Plan, layer: Layer, dead: np.ndarray, largest: float) -> str:
    images, height, width = Store.open(plan.config.store).images, layer.field.y.size, layer.field.x.size
    share = f"{dead.sum()} of {len(dead)} filters dead ({dead.mean():.0%})"
    return (
        f"{plan.config.network.name} · {layer.name} · {height}×{width} pixels, stride {layer.field.y.stride}\n"
        f"{share} on {plan.dataset.name}, {images:,} images\nfull contrast = weight ±{largest:.3g}"
    )
