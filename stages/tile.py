"""Stage tile: sheets of the filters, as PNG files with their facts in the picture and in its metadata."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline import figures
from pipeline.cluster import Pool
from pipeline.errors import InputError
from pipeline.figures import Cell
from pipeline.layers import Layer, pixel_weights
from pipeline.patches import strongest_patches
from pipeline.plan import Plan
from pipeline.store import Store

from .progress import Progress

PDF_DPI = 300
WEBP_PX = 16_383  # the longest side that the format can have


def tile(
    plan: Plan,
    pool: Pool,
    filters: Sequence[int] = (),
    single: int | None = None,
    grid: int | None = None,
    form: str = "png",
) -> Iterator[Progress]:
    """Draw the sheets of every layer asked for; always done again.

    Parameters
    ----------
    filters : sequence of int
        To be shown in this order; none = a seeded random subset of the live ones, as many as the paper shows.
    single : int, optional
        One filter, for a sheet of its own instead.
    grid : int, optional
        With ``single``: its so many strongest patches as one grid instead.
    form : str
        ``png``, ``pdf`` or ``webp``.
    """
    store = Store.open(plan.config.store)
    check_filters(plan, [*filters, *([] if single is None else [single])])
    for layer in plan.layers:
        if store.fingerprint("deconvolve", layer.name) != plan.deconvolve_fingerprint(layer):
            raise InputError(f"layer {layer.name} is not deconvolved with these settings: `topnine deconvolve` first.")
    folder = plan.folder / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    yield Progress("tile", 0, len(plan.layers), "layers")
    for done, layer in enumerate(plan.layers, 1):
        for path, picture, shown in _draw(plan, pool, store, layer, filters, single, grid):
            _save(picture, folder / f"{path}.{form}", {**_facts(plan, store, layer), "filters": shown})
        yield Progress("tile", done, len(plan.layers), "layers")


def sheet_paths(
    plan: Plan, layer: Layer, single: int | None = None, grid: int | None = None, form: str = "png"
) -> list[Path]:
    """Give the paths of the files that tile makes for a layer."""
    return [plan.folder / "figures" / f"{name}.{form}" for name in _sheet_names(plan, layer, single, grid)]


def _sheet_names(plan: Plan, layer: Layer, single: int | None, grid: int | None) -> list[str]:
    stem = f"layer{layer.title}"
    if single is not None:
        return [f"{stem}-filter{single}" if grid is None else f"{stem}-filter{single}-grid{grid}"]
    return [stem, *([f"{stem}-filters"] if _pixel_weights(plan, layer) is not None else [])]


def _draw(
    plan: Plan, pool: Pool, store: Store, layer: Layer, filters: Sequence[int], single: int | None, grid: int | None
) -> Iterator[tuple[str, Image.Image, str]]:
    facts = _facts(plan, store, layer)
    title = " · ".join(facts.values())
    quantile = plan.config.tile.quantile
    names = _sheet_names(plan, layer, single, grid)
    if single is not None:
        title = f"{title} · filter {single}"
        if grid is not None:
            patches = strongest_patches(store, plan.dataset, layer, single, grid, plan.config, pool.threads)
            if not len(patches):
                raise InputError(
                    f"filter {single} of layer {layer.name} is not active on any image: there is nothing to draw."
                )
            picture = figures.patch_grid(patches, f"{title}, its {len(patches)} strongest")
        else:
            (cell,) = _cells(store, layer, [single])
            picture = figures.filter_sheet(cell, _captions(store, layer, single), title, quantile)
        yield names[0], picture, str(single)
        return
    rows, columns = figures.PAPER_GRIDS.get(layer.number or 0, figures.OTHER_GRID)
    ranked = store.read_ranking(layer.name).image[:, 0] >= 0
    chosen = (
        list(filters) or figures.choose_filters(np.nonzero(ranked)[0], rows * columns, plan.config.tile.seed).tolist()
    )
    if not chosen:
        raise InputError(f"no filter of layer {layer.name} is active on any image: there is nothing to draw.")
    yield (
        names[0],
        figures.sheet(_cells(store, layer, chosen), (rows, columns), title, quantile),
        " ".join(map(str, chosen)),
    )
    weights = _pixel_weights(plan, layer)
    if weights is not None:
        yield names[1], figures.first_filters(weights, f"{facts['network']} · {facts['layer']}"), "all"


def check_filters(plan: Plan, filters: Sequence[int]) -> None:
    """Check that every layer asked for has some filters; InputError names one that it has not."""
    for layer in plan.layers:
        for number in filters:
            if not 0 <= number < layer.filters:
                raise InputError(
                    f"layer {layer.name} has no filter {number}: its filters are 0 to {layer.filters - 1}."
                )


def _pixel_weights(plan: Plan, layer: Layer) -> np.ndarray | None:
    return pixel_weights(plan.network().module, layer) if layer.number == 1 else None


def _facts(plan: Plan, store: Store, layer: Layer) -> dict[str, str]:
    number = f"layer {layer.number} ({layer.name})" if layer.number else f"layer {layer.name}"
    return {
        "network": plan.config.network.name,
        "layer": number,
        "data": plan.dataset.name,
        "images": f"{store.images:,} images",
        "rule": plan.config.deconvolve.rule,
    }


def _cells(store: Store, layer: Layer, filters: Sequence[int]) -> list[Cell]:
    numbers = np.asarray(filters)
    patch, projection, image = (
        store.read_layer(layer.name, name, numbers) for name in ("patch", "projection", "top_image")
    )
    return [Cell(f, patch[i], projection[i], image[i] >= 0) for i, f in enumerate(filters)]


def _captions(store: Store, layer: Layer, number: int) -> list[str]:
    ranking = store.read_ranking(layer.name, slice(number, number + 1))
    keys, labels = store.image_columns(("key", "label"), np.maximum(ranking.image[0], 0))
    classes = store.attributes["dataset"]["classes"]
    names = [classes[label] if 0 <= label < len(classes) else key for key, label in zip(keys, labels, strict=True)]
    return [
        f"{activation:.3g}  {name}" if image >= 0 else ""
        for activation, image, name in zip(ranking.activation[0], ranking.image[0], names, strict=True)
    ]


def _save(picture: Image.Image, path: Path, facts: dict[str, str]) -> None:
    match path.suffix:
        case ".png":
            metadata = PngInfo()
            for name, value in facts.items():
                metadata.add_text(name, value)
            picture.save(path, pnginfo=metadata)
        case ".pdf":
            # Pillow keeps colours as JPEG; a date would make the same sheet another file.
            text = {
                "title": f"{facts['network']}, {facts['layer']}",
                "subject": "; ".join(f"{name}: {value}" for name, value in facts.items()),
            }
            dates = {"creationDate": None, "modDate": None}
            picture.save(path, resolution=PDF_DPI, quality=95, subsampling=0, **text, **dates)
        case ".webp":
            if max(picture.size) > WEBP_PX:
                raise InputError(f"{path} would have {max(picture.size):,} pixels, WebP has {WEBP_PX:,}: --format png.")
            picture.save(path, lossless=True)
