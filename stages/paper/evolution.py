"""Stage evolution: Figure 4, the strongest activation of a few filters over the checkpoints of a training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.drawing.contrast import contrast
from topnine.pipeline.drawing.sheets import choose_filters
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.names import quote
from topnine.pipeline.store.store import Store
from topnine.stages.progress import Progress

RANDOM_FILTERS = 6  # unless filters are named
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
        To be drawn in this order; none = a seeded random subset of those that are live at the last checkpoint.
    """
    yield Progress("evolution", 0, len(plan.layers), "layers")
    for done, layer in enumerate(plan.layers, 1):
        stores = {Path(c.config.network.weights).stem: Store.open(c.config.store) for c in checkpoints}
        last = stores[Path(checkpoints[-1].config.network.weights).stem]
        numbers = list(filters) or pick_live(last, layer, plan.config.tile.seed)
        strongest = [read_strongest(name, store, layer, numbers) for name, store in stores.items()]
        title = (
            f"{plan.config.network.name} · layer {layer.title} ({layer.name}) · "
            f"{plan.dataset.name}, {len(last.images):,} images\n"
            f"projection ({plan.config.deconvolve.rule}) of each filter's strongest activation, below it its value"
        )
        draw_layer(layer, strongest, title, plan.config.tile.quantile, plan.folder / "figures")
        yield Progress("evolution", done, len(plan.layers), "layers")


def draw_layer(
    layer: Layer, by_checkpoint: Sequence[Sequence[Strongest]], title: str, quantile: float, folder: Path
) -> None:
    """Draw a layer's filters over the checkpoints, and write the figure and its data into a folder."""
    from topnine.pipeline.drawing import paper, style

    by_filter = list(zip(*by_checkpoint, strict=True))
    pictures = [
        [None if cell.projection is None else contrast(cell.projection, quantile) for cell in row] for row in by_filter
    ]
    captions = [["dead" if cell.activation is None else f"{cell.activation:.3g}" for cell in row] for row in by_filter]
    numbers = [cell.filter for cell in by_checkpoint[0]]
    names = [column[0].checkpoint for column in by_checkpoint]
    figure = paper.evolution(title, numbers, names, pictures, captions)
    table = [(layer.name, cell.filter, cell.checkpoint, cell.activation, cell.key) for row in by_filter for cell in row]
    style.save(figure, folder, f"evolution-layer{quote(layer.title)}", COLUMNS, table)


def pick_live(store: Store, layer: Layer, seed: int) -> list[int]:
    """Return a seeded random subset of the filters that are live at a checkpoint; InputError where none is."""
    ranking = store.layer(layer.name).read_ranking()
    live = np.nonzero(ranking.image[:, 0] >= 0)[0]
    if not len(live):
        raise InputError(f"no filter of layer {layer.name} is active on any image: there is nothing to draw.")
    numbers: list[int] = choose_filters(live, RANDOM_FILTERS, seed).tolist()
    return numbers


def read_strongest(name: str, store: Store, layer: Layer, filters: Sequence[int]) -> list[Strongest]:
    """Read the strongest activations of some filters at a checkpoint of a name."""
    arrays, numbers = store.layer(layer.name), np.asarray(filters)
    activation, image, projection = (
        arrays.read(name, numbers)[:, 0] for name in ("top_activation", "top_image", "projection")
    )
    (keys,) = store.images.columns(["key"], np.maximum(image, 0))
    return [
        Strongest(name, f, float(activation[i]), str(keys[i]), projection[i])
        if image[i] >= 0
        else Strongest(name, f, None, None, None)
        for i, f in enumerate(filters)
    ]
