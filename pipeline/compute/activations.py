"""The strongest activation of every filter on images: decoded, in batches, through the network."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from ..config.sections import NetworkConfig
from ..data.decoding.decode import Decoded
from ..data.fetching import ImageRecord
from ..data.images import DecodedBatch, ImageSource
from ..errors import DecodeError, InputError, StopError, WorkError
from ..network.layers import Layer
from ..network.loading import Network, load_network
from ..network.taps import read_taps, spatial_maximum
from ..prefetch import map_ahead
from .devices import Device, open_device
from .normalise import normalisation_rows, normalise
from .probing.references import References, find_difference, reference_images

LayerResult = tuple[np.ndarray, np.ndarray, np.ndarray]  # activation float32, row, column (image, filter)


@dataclass(frozen=True)
class MiningSettings:
    """All that mining images depends on.

    Attributes
    ----------
    images : ImageSource
    network : NetworkConfig
    digest : str
        Of the network that the run was planned with.
    references : mapping of layer name to activations
        What that network gives on the fixed input: see ``probing.references``.
    device : str
        As torch names it, or ``auto``.
    precision : str
        Of the forward pass.
    batch : int
        Images a forward pass.
    queue_bytes : int
        Of the decoded images that wait for the network.
    threads : int
        That decode, and on a CPU that compute.
    stop_at_damage : bool
        Whether the first damaged image ends the run.
    """

    images: ImageSource
    network: NetworkConfig
    digest: str
    references: References
    device: str
    precision: str
    batch: int
    queue_bytes: int
    threads: int
    stop_at_damage: bool


@dataclass(frozen=True)
class BlockResult:
    """What mining a run of consecutive images found.

    Attributes
    ----------
    columns : dict
        What is recorded of every image (image): reason ("" where it was decoded), height, width, hash.
    layers : dict
        For every layer activation float32, row and column (image, filter).
    """

    columns: dict[str, np.ndarray]
    layers: dict[str, LayerResult]


def join(results: list[BlockResult]) -> BlockResult:
    """Return the results of consecutive runs of images as one."""
    columns = {name: np.concatenate([result.columns[name] for result in results]) for name in results[0].columns}
    layers: dict[str, LayerResult] = {}
    for name in results[0].layers:
        activation, row, column = zip(*(result.layers[name] for result in results), strict=True)
        layers[name] = np.concatenate(activation), np.concatenate(row), np.concatenate(column)
    return BlockResult(columns, layers)


def run_images(
    settings: MiningSettings,
    layers: tuple[Layer, ...],
    records: Iterable[ImageRecord],
    runs: list[slice],
    count: Callable[[int], None] = lambda images: None,
) -> Generator[BlockResult, None, None]:
    """Decode images and run them through the network; yield the result of each run of consecutive images.

    Batches never cross a run. The decoder runs ahead of the network, across the runs, as far as ``queue_bytes`` lets
    it. ``count`` is told the number of images of every batch that is through.

    Raises
    ------
    WorkError
        An image that cannot be read, or activations that are not finite.
    StopError
        A damaged image, with ``stop_at_damage``.
    InputError
        The network is not the one that the run was planned with.
    """
    device = open_device(settings.device)
    device.check_precision(settings.precision)
    forward = Forward.of(settings, layers, device)
    forwards = device.forwards(settings.threads)
    shape = settings.images.preparation.shape
    waiting = max(2, settings.queue_bytes // math.prod(shape))
    buffers = Buffers(device, shape)

    def run_batch(batch: DecodedBatch) -> BlockResult:
        """Run a batch, and give its pixels back."""
        result = forward.run_batch(batch)
        buffers.give(batch.pixels)
        return result

    with device.deterministic(settings.precision), settings.images.open() as reader, ExitStack() as streams:
        forward.check_references(settings.references)
        batches = list_batches(records, runs, settings.batch)
        decoded = streams.enter_context(
            closing(reader.decode_batches(batches, settings.threads, waiting, buffers.take))
        )
        if settings.stop_at_damage:
            decoded = stop_at_damage(decoded, settings.images)
        results = streams.enter_context(closing(map_ahead(run_batch, decoded, forwards, forwards + 1)))
        for rows in runs:
            of_run = []
            for result in islice(results, -(-(rows.stop - rows.start) // settings.batch)):
                of_run.append(result)
                count(len(result.columns["reason"]))
            yield join(of_run)


def stop_at_damage(batches: Iterable[DecodedBatch], images: ImageSource) -> Generator[DecodedBatch, None, None]:
    """Yield batches; StopError at the first damaged image."""
    for batch in batches:
        for record, image in zip(batch.records, batch.images, strict=True):
            if isinstance(image, DecodeError):
                raise StopError(
                    f"shard {images.dataset.shards[record.shard].name}: image {record.key} cannot be decoded: {image}. "
                    'Replace it, or set data.on_damaged = "skip".'
                )
        yield batch


def list_batches(
    records: Iterable[ImageRecord], runs: Iterable[slice], batch: int
) -> Generator[list[ImageRecord], None, None]:
    """Yield images as batches that never cross a run."""
    images = iter(records)
    for rows in runs:
        for start in range(rows.start, rows.stop, batch):
            yield list(islice(images, min(batch, rows.stop - start)))


class Buffers:
    """Arrays (image, y, x, channel) uint8 for decoded images, in memory from where a device takes them fast.

    They are made once and used again, so that memory has no holes to grow by.
    """

    def __init__(self, device: Device, shape: tuple[int, int, int]) -> None:
        self._device = device
        self._shape = shape
        self._free: dict[int, list[np.ndarray]] = {}

    def take(self, images: int) -> np.ndarray:
        """Return an array for so many images; what it holds is of no meaning."""
        free = self._free.setdefault(images, [])
        return free.pop() if free else self._device.empty((images, *self._shape))

    def give(self, pixels: np.ndarray) -> None:
        """Keep an array that nobody uses any more, for a batch to come."""
        self._free[len(pixels)].append(pixels)


@dataclass(frozen=True)
class Forward:
    """A network and a device, ready to run batches up to the deepest of some layers.

    ``shape`` is the height, width and channels of its input.
    """

    device: Device
    network: Network
    rows: tuple[np.ndarray, np.ndarray]
    layers: tuple[Layer, ...]
    shape: tuple[int, int, int]
    precision: str

    @classmethod
    def of(cls, settings: MiningSettings, layers: tuple[Layer, ...], device: Device) -> Forward:
        """Load the network; InputError says what is wrong with it."""
        network, shape = load_network(settings.network, settings.digest), settings.images.preparation.shape
        rows = normalisation_rows(network.architecture, *shape[1:])
        return cls(device, network, rows, layers, shape, settings.precision)

    @classmethod
    def on_cpu(cls, network: Network, layers: tuple[Layer, ...], shape: tuple[int, int, int]) -> Forward:
        """Return a network on the CPU, in float32."""
        rows = normalisation_rows(network.architecture, *shape[1:])
        return cls(open_device("cpu"), network, rows, layers, shape, "float32")

    def run_batch(self, batch: DecodedBatch) -> BlockResult:
        """Run a batch through the network. Damaged images are NaN at (0, 0) in the result.

        Raises
        ------
        WorkError
            Activations that are not finite.
        """
        layers = self.run_pixels(batch.pixels)
        damaged = np.array([isinstance(image, DecodeError) for image in batch.images])
        for name, (activation, row, column) in layers.items():
            if not np.isfinite(activation[~damaged]).all():
                raise WorkError(
                    f"layer {name} gives activations that are not finite: "
                    "its weights are damaged, or mine.precision is too coarse for it."
                )
            activation[damaged], row[damaged], column[damaged] = np.nan, 0, 0
        return BlockResult(image_columns(batch.images), layers)

    def run_pixels(self, pixels: np.ndarray) -> dict[str, LayerResult]:
        """Run images (image, y, x, channel) uint8 through the network; return each layer's activations and places."""
        key = "activations", self.network.config, self.layers
        layers: dict[str, LayerResult] = self.device.run(
            key, self._maxima, pixels, *self.rows, precision=self.precision
        )
        return layers

    def references(self) -> dict[str, tuple[float, ...]]:
        """Return what the network gives on the fixed input."""
        with self.device.deterministic(self.precision):
            layers = self.run_pixels(reference_images(self.shape))
        return {name: tuple(activation.flatten().tolist()) for name, (activation, _, _) in layers.items()}

    def check_references(self, recorded: References) -> None:
        """Raise InputError where the network gives something else on the fixed input than was recorded."""
        difference = find_difference(recorded, self.references(), self.precision)
        if difference:
            raise InputError(
                f"a worker's network is not the one that the run was planned with: {difference}. Give every worker the "
                "same code, weights and versions, and have the network compute the same wherever it is built."
            )

    def _maxima(self, pixels: Tensor, mean: Tensor, std: Tensor) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
        taps = {layer.name: layer.tap for layer in self.layers}
        module = self.device.place(self.network.module)
        with torch.inference_mode():
            maxima = read_taps(module, normalise(pixels, mean, std), taps, spatial_maximum)
            return {name: (activation.float(), row, column) for name, (activation, row, column) in maxima.items()}


def image_columns(images: list[Decoded | DecodeError]) -> dict[str, np.ndarray]:
    """Return the columns (image) that are recorded of images: see ``store.schema.image_arrays``."""
    rows = [
        (str(image), 0, 0, 0)
        if isinstance(image, DecodeError)
        else ("", image.geometry.height, image.geometry.width, image.hash)
        for image in images
    ]
    reason, height, width, hashes = zip(*rows, strict=True)
    return {
        "reason": np.array(reason, np.dtypes.StringDType()),
        "source_height": np.array(height),
        "source_width": np.array(width),
        "difference_hash": np.array(hashes, np.uint64),
    }
