"""Stage tile: sheets of the filters, with their facts in the picture and in the file's metadata."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.config.sections import RunConfig, TileConfig
from topnine.pipeline.drawing import sheets
from topnine.pipeline.drawing.bands import to_rgb
from topnine.pipeline.drawing.sheets import Cell, View
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.layers import StoredLayer
from topnine.pipeline.store.names import quote
from topnine.pipeline.store.store import Store
from topnine.pipeline.stored_plan import StoredPlan
from topnine.stages.changes import check_touched_shards
from topnine.stages.progress import Progress
from topnine.stages.work import PatchReader, Preview, is_current

PDF_DPI = 300
WEBP_SIDE_PX = 16_383  # the longest side that the format can have


@dataclass(frozen=True)
class SheetChoice:
    """Which sheets of a layer are drawn, and in which format.

    Attributes
    ----------
    filters : tuple of int
        The filters of the sheet, in this order; none = a seeded random subset of the live ones, as many as the paper
        shows.
    single : int, optional
        One filter, for an enlarged sheet of its own instead.
    grid : int, optional
        With ``single``: a grid of so many of its strongest patches instead.
    form : str
        ``png``, ``pdf`` or ``webp``.
    """

    filters: tuple[int, ...] = ()
    single: int | None = None
    grid: int | None = None
    form: str = "png"

    @property
    def named_filters(self) -> tuple[int, ...]:
        """All filters that are named."""
        return self.filters if self.single is None else (*self.filters, self.single)


@dataclass(frozen=True)
class Sheet:
    """A sheet that was drawn: its picture, and its filters as the metadata names them."""

    picture: Image.Image
    filters: str


@dataclass(frozen=True)
class LayerSheets:
    """What the sheets of a layer are drawn from.

    Attributes
    ----------
    store : Store
    layer : Layer
    facts : dict
        For titles and metadata.
    config : TileConfig
    weights : ndarray (filter, channel, y, x), optional
        Of layer 1, where it works on pixels, and they are known.
    patches : PatchReader, optional
        Of the store, for a grid of more patches than it keeps.
    """

    store: Store
    layer: Layer
    facts: dict[str, str]
    config: TileConfig
    weights: np.ndarray | None
    patches: PatchReader | None

    @classmethod
    def of(cls, plan: StoredPlan, store: Store, layer: Layer, threads: int) -> LayerSheets:
        """Return what the sheets of a plan's layer are drawn from; ``threads`` decode the patches of a grid."""
        facts = describe_layer(plan.config, plan.dataset.name, len(store.images), layer)
        patches = PatchReader(store, plan.images, threads) if isinstance(plan, Plan) else None
        return cls(store, layer, facts, plan.config.tile, plan.first_weights(layer), patches)

    @property
    def title(self) -> str:
        """The title of every sheet."""
        return " · ".join(self.facts.values())

    @property
    def view(self) -> View:
        """How nines are drawn."""
        return View(self.config.view == "footprints", self.config.quantile)

    @property
    def arrays(self) -> StoredLayer:
        """The layer's arrays."""
        return self.store.layer(self.layer.name)


def tile(plan: StoredPlan, pool: Pool, choice: SheetChoice = SheetChoice()) -> Iterator[Progress]:
    """Draw the sheets of every layer asked for; always done again."""
    store = Store.open(plan.config.store)
    check_filters(plan.layers, choice.named_filters)
    for layer in plan.layers:
        if not is_current(store, plan.fingerprints, "deconvolve", layer):
            raise InputError(f"layer {layer.name} is not deconvolved with these settings: `topnine deconvolve` first.")
    if choice.grid is not None and isinstance(plan, Plan):
        check_touched_shards(plan.dataset, store, pool)
    yield Progress("tile", 0, len(plan.layers), "layers")
    for done, layer in enumerate(plan.layers, 1):
        write_sheets(LayerSheets.of(plan, store, layer, pool.threads), plan.folder, choice)
        yield Progress("tile", done, len(plan.layers), "layers")


def preview(plan: Plan, choice: SheetChoice) -> Preview | None:
    """Return what is shown of a layer before all its filters are projected; None where no projection is drawn."""
    if choice.grid is not None:
        return None

    def draw(store: Store, layer: Layer) -> Path:
        """Write the sheets of a layer whose shown filters are projected; return the first."""
        return write_sheets(LayerSheets.of(plan, store, layer, 1), plan.folder, choice)[0]

    return Preview(lambda store, layer: choose_shown(store, layer, choice, plan.config.tile.seed), draw)


def choose_shown(store: Store, layer: Layer, choice: SheetChoice, seed: int) -> list[int]:
    """Return the filters whose projections the sheets of a layer show; none where no filter is active."""
    if choice.single is not None:
        return [choice.single]
    rows, columns = _grid(layer)
    live = np.nonzero(store.layer(layer.name).read_ranking().image[:, 0] >= 0)[0]
    return list(choice.filters) or sheets.choose_filters(live, rows * columns, seed).tolist()


def write_sheets(source: LayerSheets, folder: Path, choice: SheetChoice) -> list[Path]:
    """Draw the sheets of a layer and write them into the run's folder; list the files."""
    paths = sheet_paths(folder, source.layer, choice, source.weights is not None)
    for path, sheet in zip(paths, _draw(source, choice), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        save_sheet(sheet.picture, path, {**source.facts, "filters": sheet.filters})
    return paths


def sheet_paths(folder: Path, layer: Layer, choice: SheetChoice, with_weights: bool) -> list[Path]:
    """List the files that tile writes for a layer, in the run's folder; those of its weights, where they are known."""
    stem = f"layer{quote(layer.title)}"
    if choice.single is None:
        stems = [stem, *([f"{stem}-filters"] if with_weights else [])]
    elif choice.grid is None:
        stems = [f"{stem}-filter{choice.single}"]
    else:
        stems = [f"{stem}-filter{choice.single}-grid{choice.grid}"]
    return [folder / "figures" / f"{stem}.{choice.form}" for stem in stems]


def check_filters(layers: Sequence[Layer], filters: Sequence[int]) -> None:
    """Check that every layer has some filters; InputError names one that it does not have."""
    for layer in layers:
        for number in filters:
            if not 0 <= number < layer.filters:
                raise InputError(
                    f"layer {layer.name} has no filter {number}: its filters are 0 to {layer.filters - 1}."
                )


def describe_layer(config: RunConfig, dataset: str, images: int, layer: Layer) -> dict[str, str]:
    """Return the facts that stand in the titles and metadata of a layer's sheets."""
    return {
        "network": config.network.name,
        "layer": f"layer {layer.number} ({layer.name})" if layer.number else f"layer {layer.name}",
        "data": dataset,
        "images": f"{images:,} images",
        "rule": config.deconvolve.rule,
    }


def _draw(source: LayerSheets, choice: SheetChoice) -> Iterator[Sheet]:
    """Draw a layer's sheets, in the order of ``sheet_paths``."""
    if choice.single is not None and choice.grid is not None:
        yield _draw_grid(source, choice.single, choice.grid)
    elif choice.single is not None:
        yield _draw_filter(source, choice.single)
    else:
        yield _draw_layer(source, choose_shown(source.store, source.layer, choice, source.config.seed))
        if source.weights is not None:
            title = f"{source.facts['network']} · {source.facts['layer']}"
            yield Sheet(
                sheets.first_filters(to_rgb(source.weights.transpose(0, 2, 3, 1), source.config.bands), title), "all"
            )


def _draw_layer(source: LayerSheets, numbers: list[int]) -> Sheet:
    if not numbers:
        raise InputError(f"no filter of layer {source.layer.name} is active on any image: there is nothing to draw.")
    cells = _read_cells(source, numbers)
    return Sheet(sheets.sheet(cells, _grid(source.layer), source.title, source.view), " ".join(map(str, numbers)))


def _grid(layer: Layer) -> tuple[int, int]:
    """Return the rows and columns of filters of a layer's sheet."""
    return sheets.PAPER_GRIDS.get(layer.number or 0, sheets.OTHER_GRID)


def _draw_filter(source: LayerSheets, number: int) -> Sheet:
    (cell,) = _read_cells(source, [number])
    captions, title = _caption_hits(source.store, source.layer, number), f"{source.title} · filter {number}"
    return Sheet(sheets.filter_sheet(cell, captions, title, source.view), str(number))


def _draw_grid(source: LayerSheets, number: int, count: int) -> Sheet:
    if source.patches is None:
        raise InputError("a grid needs the images: give --data, or --trust if the store is yours.")
    strongest = source.patches.read_strongest(source.layer, number, count)
    if not len(strongest):
        raise InputError(
            f"filter {number} of layer {source.layer.name} is not active on any image: there is nothing to draw."
        )
    title = f"{source.title} · filter {number}, its {len(strongest)} strongest"
    return Sheet(sheets.patch_grid(to_rgb(strongest, source.config.bands), title), str(number))


def _read_cells(source: LayerSheets, filters: Sequence[int]) -> list[Cell]:
    store, arrays, bands, numbers = source.store, source.arrays, source.config.bands, np.asarray(filters)
    patch, projection, mask, box, footprint, image = (
        arrays.read(name, numbers) for name in ("patch", "projection", "mask", "box", "footprint", "top_image")
    )
    within = footprint - box[..., [0, 1, 0, 1]]
    filled = (image >= 0).sum(axis=1)
    classes = [_name_classes(store, images[images >= 0]) for images in image]
    return [
        Cell(
            filter, to_rgb(patch[i], bands), to_rgb(projection[i], bands), within[i], mask[i], int(filled[i]),
            tuple(name for name in classes[i] if name),
        )
        for i, filter in enumerate(filters)
    ]  # fmt: skip


def _name_classes(store: Store, images: np.ndarray) -> list[str]:
    """Return the names of the classes of images by their ids (image); empty where one is not known."""
    (labels,) = store.images.columns(["label"], images)
    names = store.attributes["dataset"]["classes"]
    return [names[label] if 0 <= label < len(names) else "" for label in labels.tolist()]


def _caption_hits(store: Store, layer: Layer, number: int) -> list[str]:
    """Return captions of a filter's nine: activation, and class name or key."""
    ranking = store.layer(layer.name).read_ranking(slice(number, number + 1))
    images = np.maximum(ranking.image[0], 0)
    (keys,) = store.images.columns(["key"], images)
    names = [name or key for name, key in zip(_name_classes(store, images), keys, strict=True)]
    return [
        f"{activation:.3g}  {name}" if image >= 0 else ""
        for activation, image, name in zip(ranking.activation[0], ranking.image[0], names, strict=True)
    ]


def save_sheet(picture: Image.Image, path: Path, facts: Mapping[str, str]) -> None:
    """Write a sheet in the format of its path's ending, with the facts in its metadata."""
    match path.suffix:
        case ".png":
            metadata = PngInfo()
            for name, value in facts.items():
                metadata.add_text(name, value)
            picture.save(path, pnginfo=metadata)
        case ".pdf":
            # Pillow keeps colours as JPEG. Without dates the same sheet is the same file.
            text = {
                "title": f"{facts['network']}, {facts['layer']}",
                "subject": "; ".join(f"{name}: {value}" for name, value in facts.items()),
            }
            dates = {"creationDate": None, "modDate": None}
            picture.save(path, resolution=PDF_DPI, quality=95, subsampling=0, **text, **dates)
        case ".webp":
            if max(picture.size) > WEBP_SIDE_PX:
                raise InputError(
                    f"{path} would have {max(picture.size):,} pixels, WebP has {WEBP_SIDE_PX:,}: --format png."
                )
            picture.save(path, lossless=True)
