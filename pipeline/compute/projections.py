"""The patches and projections of ranked activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..config.sections import NetworkConfig
from ..data.fetching import ImageRecord
from ..data.images import ImageSource
from ..errors import WorkError
from ..network.layers import Layer
from ..network.loading import Network, load_network
from ..prefetch import map_ahead
from ..ranking.topk import Ranking
from .deconvnet import Rules, project
from .devices import Device, open_device
from .doubles import refused_in_double
from .normalise import normalisation_rows, normalise
from .patches import cut, exact_boxes, patch_boxes, patch_size
from .pooling import Ties
from .probing.references import TOLERANCE

FILTERS_A_TASK = 16


@dataclass(frozen=True)
class ProjectionSettings:
    """All that the patches and projections of a layer's ranked activations depend on.

    Attributes
    ----------
    images : ImageSource
    network : NetworkConfig
    digest : str
        Of the network that the run was planned with.
    layer : Layer
    rules : Rules
        Of the deconvnet.
    precision : {"float32", "float64"}
        In which they are computed.
    batch : int
        Whole images a backward pass, or as many pixels of crops.
    mined_precision : str
        In which the activations were recorded: it sets how far those computed anew may differ.
    device : str
        As torch names it, or ``auto``.
    threads : int
        That decode, and on a CPU that compute.
    """

    images: ImageSource
    network: NetworkConfig
    digest: str
    layer: Layer
    rules: Rules
    precision: str
    batch: int
    mined_precision: str
    device: str
    threads: int


@dataclass(frozen=True)
class Projections:
    """The pictures of some filters' hits; zeros, and boxes of -1, where fewer than nine images activate a filter.

    Attributes
    ----------
    patch : ndarray (filter, rank, y, x, channel) uint8
    projection : ndarray (filter, rank, y, x, channel) float32
        In units of the normalised input.
    box : ndarray (filter, rank, corner) int32
        Top, left, bottom, right in input pixels.
    tie : ndarray (filter, rank) bool
        Whether the projection hangs on a near-tie of a pooling region: see ``pooling``.
    """

    patch: np.ndarray
    projection: np.ndarray
    box: np.ndarray
    tie: np.ndarray

    @classmethod
    def empty(cls, ranks: tuple[int, ...], shape: tuple[int, int, int]) -> Projections:
        """Return the arrays of no hit, for filters and ranks and a patch's height, width and channels."""
        pixels = (*ranks, *shape)
        box = np.full((*ranks, 4), -1, np.int32)
        return cls(np.zeros(pixels, np.uint8), np.zeros(pixels, np.float32), box, np.zeros(ranks, bool))

    def fill(
        self, at: tuple[np.ndarray, np.ndarray], images: np.ndarray, projected: Projected, crops: np.ndarray
    ) -> None:
        """Cut the pictures of hits at (filter, rank), whose boxes are known, out of images and projections of crops."""
        self.patch[at] = cut(images, self.box[at])
        self.projection[at] = cut(projected.projection, self.box[at] - np.tile(crops[:, :2], 2))
        self.tie[at] = projected.tie


@dataclass(frozen=True)
class Projected:
    """What a batch gives: ``activation`` (hit), ``projection`` (hit, y, x, channel) float32, and ``tie`` (hit) bool."""

    activation: np.ndarray
    projection: np.ndarray
    tie: np.ndarray


@dataclass(frozen=True)
class _Hits:
    """The filled ranks of some filters as one list: their filter, row and column, image, and recorded activation."""

    at: tuple[np.ndarray, np.ndarray]  # (filter less the first, rank) of each
    filter: np.ndarray
    row: np.ndarray
    column: np.ndarray
    image: np.ndarray  # the number of its record
    activation: np.ndarray
    strongest: np.ndarray  # of its filter

    @classmethod
    def of(cls, ranking: Ranking, first_filter: int) -> _Hits:
        """List the filled ranks of a ranking."""
        filter, rank = np.nonzero(ranking.image >= 0)
        at = filter, rank
        image = np.searchsorted(ranked_images(ranking), ranking.image[at])
        recorded, strongest = ranking.activation[at], ranking.activation[filter, 0]
        return cls(at, filter + first_filter, ranking.row[at], ranking.column[at], image, recorded, strongest)


def ranked_images(ranking: Ranking) -> np.ndarray:
    """List the ids of the images that are ranked, each once, ascending."""
    return np.unique(ranking.image[ranking.image >= 0])


def projection_cost(layer: Layer, size: Sequence[int]) -> int:
    """Return what a projection of a layer costs beside one of another: the pixels of its crop times the operations.

    To decode its image and to write the result costs about what three operations on the whole image do.
    """
    zero = np.zeros(1, int)
    ((top, left, bottom, right),) = exact_boxes(layer.crops, zero, zero, size).tolist()
    return int((bottom - top) * (right - left) * layer.tap.operation + 3 * size[0] * size[1])


def make_projections(
    ranking: Ranking,
    first_filter: int,
    records: Sequence[ImageRecord],
    settings: ProjectionSettings,
    should_stop: Callable[[], bool],
) -> Projections | None:
    """Compute the patches and projections of some consecutive filters' hits.

    Parameters
    ----------
    ranking : Ranking (filter, rank)
        Of these filters, whose first has the number ``first_filter``.
    records : sequence of ImageRecord
        Of ``ranked_images(ranking)``.
    should_stop : callable
        Asked between batches. Where it says so, None is returned.

    Raises
    ------
    WorkError
        An image cannot be read as it was mined, or an activation computed anew differs from the recorded one.
    """
    layer, hits = settings.layer, _Hits.of(ranking, first_filter)
    height, width, channels = settings.images.preparation.shape
    size = height, width
    result = Projections.empty(ranking.image.shape, (*patch_size(layer.field, size), channels))
    with settings.images.open() as reader:
        images = reader.read_pixels(records, settings.threads)
    result.box[hits.at] = patch_boxes(layer.field, hits.row, hits.column, size)
    crops = exact_boxes(layer.crops, hits.row, hits.column, size)
    with closing(_project_hits(hits, images, crops, settings)) as projected:
        for batch, of_batch in projected:
            if should_stop():
                return None
            _check_recomputed(hits, batch, of_batch.activation, records, settings)
            at = hits.at[0][batch], hits.at[1][batch]
            result.fill(at, images[hits.image[batch]], of_batch, crops[batch])
    return result


def _project_hits(
    hits: _Hits, images: np.ndarray, crops: np.ndarray, settings: ProjectionSettings
) -> Generator[tuple[np.ndarray, Projected], None, None]:
    """Project hits on crops of their images in batches; yield the hits' numbers and what they give."""
    device, network = open_device(settings.device), load_network(settings.network, settings.digest)
    projector = Projector(device, network, settings.layer, settings.rules, settings.precision)
    batches = batches_of_one_shape(crops, settings.batch * math.prod(settings.images.preparation.size))
    backwards = device.backwards(settings.threads)

    def project_batch(batch: np.ndarray) -> Projected:
        """Project a batch of hits, given by their numbers."""
        position = hits.filter[batch], hits.row[batch], hits.column[batch]
        return projector.project(images[hits.image[batch]], crops[batch], *position)

    with device.deterministic(), closing(map_ahead(project_batch, batches, backwards, backwards + 1)) as results:
        yield from zip(batches, results, strict=True)


def batches_of_one_shape(boxes: np.ndarray, pixels: int) -> list[np.ndarray]:
    """Divide boxes (hit, corner) into batches of one shape and at most so many pixels; return their indices.

    The largest batches come first, so that threads that share them out finish at about the same time.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    batches = []
    for height, width in np.unique(sizes, axis=0):
        same_size = np.nonzero((sizes == (height, width)).all(axis=1))[0]
        batch = max(1, pixels // (height * width))
        batches += [
            (part, len(part) * height * width) for part in np.array_split(same_size, -(-len(same_size) // batch))
        ]
    return [part for part, _ in sorted(batches, key=lambda pair: -pair[1])]


@dataclass(frozen=True)
class Projector:
    """A network on a device, ready to project activations of a layer back to the pixels."""

    device: Device
    network: Network
    layer: Layer
    rules: Rules
    precision: str = "float32"

    def project(
        self, images: np.ndarray, crops: np.ndarray, filter: np.ndarray, row: np.ndarray, column: np.ndarray
    ) -> Projected:
        """Project an activation of each image, computed from a crop of it.

        Parameters
        ----------
        images : ndarray (hit, y, x, channel) uint8
        crops : ndarray (hit, corner)
            Of one size: see ``exact_boxes``; or the whole images.
        filter, row, column : ndarray (hit)
            In the map of the whole image.

        Returns
        -------
        Projected
            The activations computed anew, and the projections of the crops.

        Raises
        ------
        InputError
            The network cannot be run in the precision.
        """
        row = row - crops[:, 0] // max(1, self.layer.field.y.stride)
        column = column - crops[:, 1] // max(1, self.layer.field.x.stride)
        position = np.stack([filter, row, column]).astype(np.int64)
        pixels = cut(images, crops)
        rows = normalisation_rows(self.network.architecture, pixels.shape[2], pixels.shape[3], self.precision)
        key = "projections", self.network.config, self.layer, self.rules
        return Projected(*self.device.run(key, self._project, pixels, position, *rows, precision=self.precision))

    def _project(self, pixels: Tensor, position: Tensor, mean: Tensor, std: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        module = self.device.place(self.network.module, self.precision)
        normalised, ties = normalise(pixels, mean, std), Ties(breaks=self.precision == "float64")
        filter, row, column = position[0], position[1], position[2]
        with refused_in_double(self.network, self.precision):
            activation, projection = project(module, self.layer.tap, normalised, filter, row, column, self.rules, ties)
        return activation.float(), projection.permute(0, 2, 3, 1).float(), ties.hits(len(pixels), pixels.device)


def project_image(image: np.ndarray, hit: tuple[int, int, int], projector: Projector) -> np.ndarray:
    """Project one activation of an image (y, x, channel) uint8; return the window of its patch (y, x, channel) float32.

    Parameters
    ----------
    hit : (int, int, int)
        Its filter, row and column.
    """
    whole = np.array([[0, 0, *image.shape[:2]]])
    with projector.device.deterministic():
        projected = projector.project(image[None], whole, *(np.array([value]) for value in hit))
    top, left, bottom, right = projector.layer.field.window(hit[1], hit[2], *image.shape[:2])
    return projected.projection[0, top:bottom, left:right]


def _check_recomputed(
    hits: _Hits,
    batch: np.ndarray,
    activation: np.ndarray,
    records: Sequence[ImageRecord],
    settings: ProjectionSettings,
) -> None:
    """Compare activations (hit) computed anew with the recorded ones; WorkError where one differs."""
    recorded, strongest = hits.activation[batch], hits.strongest[batch]
    near = np.abs(activation - recorded) <= TOLERANCE[settings.mined_precision] * strongest
    if not near.all():
        i = np.nonzero(~near)[0][0]
        hit = batch[i]
        raise WorkError(
            f"image {records[hits.image[hit]].key}, layer {settings.layer.name}, filter {hits.filter[hit]}: "
            f"the activation is now {activation[i]:.6g}, mine recorded {recorded[i]:.6g}. "
            "The images, the weights or the versions of torch and Pillow have changed since: mine into another STORE."
        )
