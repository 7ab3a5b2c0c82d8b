"""The activations of images: decoded, in batches, through the network."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import torch

from . import shards
from .decode import Decoded, decode
from .device import check_precision, one_batch, repeatable, side_by_side, upload
from .errors import DecodeError, StopError, WorkError
from .layers import Layer
from .networks import Network
from .plan import Plan
from .store import OK, UNDECODABLE, Store
from .stream import ahead
from .taps import read_taps, spatial_maximum

Place = tuple[int, int, int, str, str]  # shard, offset, size, key, and what is known to be wrong


@dataclass(frozen=True)
class Mined:
    """What a run of consecutive images gave.

    Attributes
    ----------
    columns : dict
        What the store keeps of every image (image): status, reason, height, width, hash.
    layers : dict
        For every layer activation float32, row and column (image, filter).
    """

    columns: dict[str, np.ndarray]
    layers: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]


def join(parts: list[Mined]) -> Mined:
    """Join what consecutive runs gave."""
    columns = {name: np.concatenate([part.columns[name] for part in parts]) for name in parts[0].columns}
    layers = {
        name: tuple(np.concatenate(arrays) for arrays in zip(*(part.layers[name] for part in parts), strict=True))
        for name in parts[0].layers
    }
    return Mined(columns, layers)  # type: ignore[arg-type]


def run_images(
    plan: Plan, layers: tuple[Layer, ...], images: Iterable[Place], runs: list[slice], threads: int
) -> Generator[Mined, None, None]:
    """Decode images, runs of consecutive ones, and give what each run gave, in batches that never cross a run.

    The decoder runs ahead of the network, across the runs, as far as ``mine.queue_mib`` lets it.
    """
    ready = max(2, plan.config.mine.queue_mib * 2**20 // (plan.config.decode.crop**2 * 3))
    check_precision(plan.device, plan.config.mine.precision)
    forwards = side_by_side(plan.device, threads)
    network = plan.network()
    with repeatable(plan.config.mine.precision), shards.opened(plan.dataset) as reader, ExitStack() as streams:
        decoded = ahead(partial(read_image, reader, plan), images, threads, ready)
        batches = list_batches(streams.enter_context(closing(decoded)), runs, plan.config.mine.batch)
        mined = ahead(partial(run_batch, plan, network, layers), batches, forwards, forwards + 1)
        streams.enter_context(closing(mined))
        for rows in runs:
            yield join(list(islice(mined, -(-(rows.stop - rows.start) // plan.config.mine.batch))))


def list_images(store: Store, runs: list[slice]) -> Iterator[Place]:
    """Give where the images of runs are; read at once, as the chunks of the index are large."""
    if not runs:
        return
    first = runs[0].start
    columns = store.image_columns(("shard", "offset", "size", "key", "reason"), slice(first, runs[-1].stop))
    for own in runs:
        yield from zip(*(column[own.start - first : own.stop - first].tolist() for column in columns), strict=True)


def read_image(reader: shards.Reader, plan: Plan, place: Place) -> Decoded | DecodeError:
    """Read and decode an image."""
    shard, offset, size, key, reason = place
    name = plan.dataset.shards[shard].name
    try:
        if reason:
            raise DecodeError(reason)
        data = reader.read(shard, offset, size)
        to = plan.config.decode
        return decode(data, to.resize, to.crop, plan.config.data.max_pixels, to.fast)
    except DecodeError as error:
        if plan.config.data.on_damaged == "fail":
            raise StopError(
                f'shard {name}: image {key} cannot be decoded: {error}. Replace it, or set data.on_damaged = "skip".'
            ) from None
        return error
    except OSError as error:
        raise WorkError(f"shard {name}: image {key} cannot be read: {error}") from None


def list_batches(
    decoded: Iterator[Decoded | DecodeError], runs: Iterable[slice], batch: int
) -> Iterator[list[Decoded | DecodeError]]:
    """Divide a stream of the images of runs into batches that never cross a run."""
    for rows in runs:
        for start in range(rows.start, rows.stop, batch):
            yield list(islice(decoded, min(batch, rows.stop - start)))


def run_batch(plan: Plan, network: Network, layers: tuple[Layer, ...], batch: list[Decoded | DecodeError]) -> Mined:
    """Run a batch through the network; undecodable images are black there, and NaN at (0, 0) in what it gives.

    Raises
    ------
    WorkError
        Activations that are not finite.
    """
    crop = plan.config.decode.crop
    pixels = np.zeros((len(batch), crop, crop, 3), np.uint8)
    bad = np.array([isinstance(image, DecodeError) for image in batch])
    for i, image in enumerate(batch):
        if isinstance(image, Decoded):
            pixels[i] = image.pixels
    taps = {layer.name: layer.tap for layer in layers}
    with torch.inference_mode(), one_batch(plan.device, plan.config.mine.precision):
        normalised = network.architecture.normalise(upload(torch.from_numpy(pixels), plan.device))
        found = read_taps(network.module, normalised, taps, spatial_maximum)
        arrays = {
            name: (activation.float().cpu().numpy(), row.cpu().numpy(), column.cpu().numpy())
            for name, (activation, row, column) in found.items()
        }
    for name, (activation, row, column) in arrays.items():
        if not np.isfinite(activation[~bad]).all():
            raise WorkError(
                f"layer {name} gives activations that are not finite: "
                "its weights are damaged, or mine.precision is too coarse for it."
            )
        activation[bad], row[bad], column[bad] = np.nan, 0, 0
    return Mined(columns(batch), arrays)


def columns(batch: list[Decoded | DecodeError]) -> dict[str, np.ndarray]:
    """Give the columns (image) that the store keeps of images: status, reason, height, width, hash."""
    rows = [
        (UNDECODABLE, str(image), 0, 0, 0)
        if isinstance(image, DecodeError)
        else (OK, "", image.geometry.height, image.geometry.width, image.hash)
        for image in batch
    ]
    status, reason, height, width, look = zip(*rows, strict=True)
    return {
        "status": np.array(status, np.uint8),
        "reason": np.array(reason, np.dtypes.StringDType()),
        "height": np.array(height),
        "width": np.array(width),
        "hash": np.array(look, np.uint64),
    }
