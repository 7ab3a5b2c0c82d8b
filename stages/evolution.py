"""Stage evolution: Figure 4, the strongest activation of a few filters over the checkpoints of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.figures import choose_filters, contrast
from pipeline.layers import Layer
from pipeline.plan import Plan
from pipeline.store import Store

from .progress import Progress

FILTERS = 6  # shown, unless they are named
COLUMNS = ("layer", "filter", "checkpoint", "activation", "image")


@dataclass(frozen=True)
class Strongest:
    """A filter's strongest activation at a checkpoint, the image's key and the projection: None where it is dead."""

    checkpoint: str
    filter: int
    activation: float | None
    key: str | None
    projection: np.ndarray | None


def evolution(plan: Plan, pool: Pool, checkpoints: Sequence[Plan], filters: Sequence[int] = ()) -> Iterator[Progress]:
    """Draw the layers asked for; always done again.

    Parameters
    ----------
    checkpoints : sequence of Plan
        In the order of training; their stores are deconvolved.
    filters : sequence of int
        To be shown in this order; none = a seeded random subset of those live at the last checkpoint.
    """
    from pipeline import plots

    yield Progress("evolution", 0, len(plan.layers), "layers")
    for done, layer in enumerate(plan.layers, 1):
        chosen = list(filters) or _live(plan, checkpoints[-1], layer)
        found = [_strongest(own, layer, chosen) for own in checkpoints]
        names = [column[0].checkpoint for column in found]
        rows = list(zip(*found, strict=True))  # of filters
        pictures = [[_picture(plan, cell) for cell in row] for row in rows]
        captions = [["dead" if cell.activation is None else f"{cell.activation:.3g}" for cell in row] for row in rows]
        figure = plots.evolution(_title(plan, checkpoints, layer), chosen, names, pictures, captions)
        table = [(layer.name, c.filter, c.checkpoint, c.activation, c.key) for row in rows for c in row]
        plots.save(figure, plan.folder / "figures", f"evolution-layer{layer.title}", COLUMNS, table)
        yield Progress("evolution", done, len(plan.layers), "layers")


def _live(plan: Plan, last: Plan, layer: Layer) -> list[int]:
    live = np.nonzero(Store.open(last.config.store).read_ranking(layer.name).image[:, 0] >= 0)[0]
    if not len(live):
        raise InputError(f"no filter of layer {layer.name} is active on any image: there is nothing to draw.")
    return choose_filters(live, FILTERS, plan.config.tile.seed).tolist()


def _strongest(checkpoint: Plan, layer: Layer, filters: Sequence[int]) -> list[Strongest]:
    store, numbers = Store.open(checkpoint.config.store), np.asarray(filters)
    activation, image = (store.read_layer(layer.name, f"top_{name}", numbers)[:, 0] for name in ("activation", "image"))
    projection = store.read_layer(layer.name, "projection", numbers)[:, 0]
    (keys,) = store.image_columns(["key"], np.maximum(image, 0))
    name = Path(checkpoint.config.network.weights).stem
    return [
        Strongest(name, f, float(activation[i]), str(keys[i]), projection[i])
        if image[i] >= 0
        else Strongest(name, f, None, None, None)
        for i, f in enumerate(filters)
    ]


def _picture(plan: Plan, cell: Strongest) -> np.ndarray | None:
    return None if cell.projection is None else contrast(cell.projection, plan.config.tile.quantile)


def _title(plan: Plan, checkpoints: Sequence[Plan], layer: Layer) -> str:
    images = Store.open(checkpoints[-1].config.store).images
    return (
        f"{plan.config.network.name} · layer {layer.title} ({layer.name}) · {plan.dataset.name}, {images:,} images\n"
        f"projection ({plan.config.deconvolve.rule}) of each filter's strongest activation, below it its value"
    )
