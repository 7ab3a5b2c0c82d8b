"""What the stages share: groups of items, records of images, layers out of date, patches read again, previews."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np

from topnine.pipeline.compute.activations import BlockResult
from topnine.pipeline.compute.patches import cut, patch_boxes, patch_size, source_boxes
from topnine.pipeline.compute.projections import ProjectionSettings, make_projections, ranked_images
from topnine.pipeline.data.decoding.preparation import Geometry, Preparation
from topnine.pipeline.data.fetching import ImageRecord, Look
from topnine.pipeline.data.images import ImageSource
from topnine.pipeline.errors import InputError
from topnine.pipeline.fingerprints import Fingerprints
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.ranking.topk import top
from topnine.pipeline.store.schema import OK, UNDECODABLE
from topnine.pipeline.store.store import Store
from topnine.pipeline.store.verification import list_marked_layers

RECORD_COLUMNS = ("shard", "offset", "byte_count", "key", "reason")
LOOK_COLUMNS = ("difference_hash", "source_height", "source_width")  # of a Look


def groups(total: int, size: int) -> list[range]:
    """Divide the numbers below a total into groups of consecutive ones.

    >>> groups(5, 2)
    [range(0, 2), range(2, 4), range(4, 5)]
    """
    return [range(first, min(first + size, total)) for first in range(0, total, size)]


@dataclass(frozen=True)
class ShardFinder:
    """Finds the shards of images, so that a task is handed those that it reads and no others.

    Attributes
    ----------
    images : ImageSource
        With all shards.
    shard : ndarray (image) int32
        The number of each image's shard.
    """

    images: ImageSource
    shard: np.ndarray

    @classmethod
    def read(cls, store: Store, images: ImageSource) -> ShardFinder:
        """Read from the index in which shard each image is."""
        (shard,) = store.images.columns(["shard"])
        return cls(images, shard)

    def select(self, ids: np.ndarray | slice | list[int]) -> ImageSource:
        """Return the images with those shards alone that images of some ids are in."""
        return self.images.select(np.unique(self.shard[ids]).tolist())


@dataclass(frozen=True)
class Preview:
    """What is shown of a layer before all of its filters are projected.

    Attributes
    ----------
    filters : callable
        Returns the filters of a layer, of a store, that are projected first.
    draw : callable
        Draws them from what the store has of the layer; returns the file.
    """

    filters: Callable[[Store, Layer], Sequence[int]]
    draw: Callable[[Store, Layer], Path]


def read_records(store: Store, images: np.ndarray) -> list[ImageRecord]:
    """Read where some images are, by their ids (image), which were decoded when they were mined, and their looks."""
    columns = store.images.columns((*RECORD_COLUMNS[:-1], *LOOK_COLUMNS), images)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [ImageRecord(shard, offset, size, key, "", Look(*look)) for shard, offset, size, key, *look in rows]


def iterate_records(store: Store, runs: list[slice], mined: Collection[int] = ()) -> Iterator[ImageRecord]:
    """Yield where the images of runs of ids are. The runs are read at once, as chunks of the index are large.

    Parameters
    ----------
    mined : collection of int
        Blocks that were mined before: the images of runs that begin in them have their looks.
    """
    if not runs:
        return
    first = runs[0].start
    rows = slice(first, runs[-1].stop)
    columns = store.images.columns(RECORD_COLUMNS[:-1], rows) + store.images.columns_so_far(["reason"], rows)
    for run in runs:
        lists = (column[run.start - first : run.stop - first].tolist() for column in columns)
        looks = _read_looks(store, run) if run.start // store.images.block in mined else repeat(None)
        for shard, offset, size, key, reason, look in zip(*lists, looks, strict=False):
            yield ImageRecord(shard, offset, size, key, reason, look)


def _read_looks(store: Store, run: slice) -> Iterator[Look | None]:
    """Yield what mined images looked like, None for those that could not be decoded."""
    status, *looks = (column.tolist() for column in store.images.columns(("status", *LOOK_COLUMNS), run))
    for state, *look in zip(status, *looks, strict=True):
        yield Look(*look) if state == OK else None


def find_mined(store: Store) -> set[int]:
    """Return the blocks that are mined for any layer of the store."""
    return set().union(*(store.progress.done_blocks(name) for name in list_marked_layers(store)))


def image_columns(result: BlockResult) -> dict[str, np.ndarray]:
    """Return what the store keeps of mined images (image): their status beside the columns of mining."""
    status = np.where(result.columns["reason"] == "", OK, UNDECODABLE).astype(np.uint8)
    return {"status": status, **result.columns}


def describe_lost(lost: Sequence[str]) -> str:
    """Return a line about parts of a store that are made again.

    >>> describe_lost(["a/c/0 is missing", "b/c/0 is missing"])
    '2 parts of the store were lost or damaged and are made again: a/c/0 is missing, and others.'
    """
    others = ", and others" if len(lost) > 1 else ""
    return f"{len(lost):,} parts of the store were lost or damaged and are made again: {lost[0]}{others}."


def find_stale(store: Store, fingerprints: Fingerprints, stage: str, layers: Iterable[Layer]) -> list[Layer]:
    """List the layers whose results of a stage are missing, or were made with other settings."""
    return [layer for layer in layers if not is_current(store, fingerprints, stage, layer)]


def is_current(store: Store, fingerprints: Fingerprints, stage: str, layer: Layer) -> bool:
    """Return whether a layer's results of a stage are there, and were made with the run's settings."""
    return store.fingerprint(stage, layer.name) == fingerprints.of(stage, layer)


def check_ranked(store: Store, fingerprints: Fingerprints, layer: Layer) -> None:
    """Raise InputError where a layer is not ranked with the run's settings."""
    if not is_current(store, fingerprints, "rank", layer):
        raise InputError(f"layer {layer.name} is not ranked: `topnine rank` first.")


def project_filters(
    filters: range, store: Store, settings: ProjectionSettings, should_stop: Callable[[], bool]
) -> dict[str, np.ndarray] | None:
    """Compute what the store keeps of some filters' recorded hits, by name; None where ``should_stop`` said so.

    Returns
    -------
    dict of str to ndarray (filter, rank, …)
        patch, projection, box, source_box, footprint, mask and tie: see ``schema.patch_arrays``.
    """
    ranking = store.layer(settings.layer.name).read_ranking(slice(filters.start, filters.stop))
    records = read_records(store, ranked_images(ranking))
    result = make_projections(ranking, filters.start, records, settings, should_stop)
    if result is None:
        return None
    is_filled = ranking.image >= 0
    geometries = read_geometries(store, ranking.image[is_filled], settings.images.preparation)
    source_box = np.full(result.box.shape, np.nan, np.float32)
    source_box[is_filled] = source_boxes(result.box[is_filled], geometries)
    return {**vars(result), "source_box": source_box}


def read_geometries(store: Store, images: np.ndarray, preparation: Preparation) -> list[Geometry]:
    """Read how some images, by their ids (image), became the network's input when they were mined."""
    sizes = store.images.columns(("source_height", "source_width"), images)
    return [preparation.place(height, width) for height, width in zip(*sizes, strict=True)]


@dataclass(frozen=True)
class PatchReader:
    """Cuts patches out of images that are decoded again, in the process that calls."""

    store: Store
    images: ImageSource
    threads: int

    def read_pixels(self, images: np.ndarray) -> np.ndarray:
        """Return the pixels (image, y, x, channel) uint8 of images by their ids (image)."""
        with self.images.open() as reader:
            return reader.read_pixels(read_records(self.store, images), self.threads)

    def read_strongest(self, layer: Layer, filter: int, count: int) -> np.ndarray:
        """Return the patches (patch, y, x, channel) of a filter's strongest positive activations: at most ``count``."""
        arrays, preparation = self.store.layer(layer.name), self.images.preparation
        strongest = top(arrays.read_filter(filter)[:, None], ranks=min(count, len(self.store.images)))
        ranking = arrays.locate(strongest, filter)
        filled = ranking.image[0] >= 0
        if not filled.any():
            return np.empty((0, *patch_size(layer.field, preparation.size), preparation.channels), np.uint8)
        boxes = patch_boxes(layer.field, ranking.row[0][filled], ranking.column[0][filled], preparation.size)
        return cut(list(self.read_pixels(ranking.image[0][filled])), boxes)
