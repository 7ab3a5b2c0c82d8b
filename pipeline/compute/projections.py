"""The patches and projections of ranked activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
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
from .footprints import trace
from .normalise import normalisation_rows, normalise
from .patches import cut, cut_into, exact_boxes, patch_boxes, patch_size
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
    footprint : ndarray (filter, rank, corner) int32
        The square in input pixels that has nearly all of the projection's energy: see ``find_footprint``.
    mask : ndarray (filter, rank, y, x) uint8
        How much of the patch the projection covers: see ``draw_mask``.
    """

    patch: np.ndarray
    projection: np.ndarray
    box: np.ndarray
    tie: np.ndarray
    footprint: np.ndarray
    mask: np.ndarray

    @classmethod
    def empty(cls, ranks: tuple[int, ...], shape: tuple[int, int, int]) -> Projections:
        """Return the arrays of no hit, for filters and ranks and a patch's height, width and channels."""
        pixels = (*ranks, *shape)
        box = np.full((*ranks, 4), -1, np.int32)
        patch, mask = np.zeros(pixels, np.uint8), np.zeros(pixels[:-1], np.uint8)
        return cls(patch, np.zeros(pixels, np.float32), box, np.zeros(ranks, bool), box.copy(), mask)

    def fill(self, at: tuple[np.ndarray, np.ndarray], images: Sequence[np.ndarray], projected: Projected) -> None:
        """Write the pictures of hits at (filter, rank), whose boxes are known: those of one batch, of these images.

        Threads may do so at once, as no two batches have a hit in common.
        """
        cut_into((self.patch[hit] for hit in zip(*at, strict=True)), images, self.box[at])
        self.projection[at] = projected.projection
        self.tie[at] = projected.tie
        for hit, projection in zip(zip(*at, strict=True), projected.projection, strict=True):
            self.footprint[hit], self.mask[hit] = trace(projection, self.box[hit])


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
    """Decode the images of some consecutive filters' hits, and compute the patches and projections of these.

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
    with settings.images.open() as reader:
        images = list(reader.read_pixels(records, settings.threads))
    return project_hits(ranking, first_filter, records, images, settings, should_stop)


def project_hits(
    ranking: Ranking,
    first_filter: int,
    records: Sequence[ImageRecord],
    images: Sequence[np.ndarray],
    settings: ProjectionSettings,
    should_stop: Callable[[], bool],
) -> Projections | None:
    """Compute what ``make_projections`` does, of decoded images (y, x, channel) uint8, one a record.

    Whatever a batch needs of the host is done in the thread that computes it: cutting its crops before, writing its
    pictures after. So another batch can be computed meanwhile.
    """
    hits, size = _Hits.of(ranking, first_filter), settings.images.preparation.size
    shape = *patch_size(settings.layer.field, size), settings.images.preparation.channels
    result = Projections.empty(ranking.image.shape, shape)
    result.box[hits.at] = patch_boxes(settings.layer.field, hits.row, hits.column, size)
    crops = exact_boxes(settings.layer.crops, hits.row, hits.column, size)
    device, network = open_device(settings.device), load_network(settings.network, settings.digest)
    projector = Projector(device, network, settings.layer, settings.rules, settings.precision)

    def project_batch(batch: np.ndarray) -> None:
        """Project a batch of hits, given by their numbers."""
        at, of_batch = (hits.at[0][batch], hits.at[1][batch]), [images[number] for number in hits.image[batch]]
        position = hits.filter[batch], hits.row[batch], hits.column[batch]
        projected = projector.project(of_batch, crops[batch], result.box[at], *position)
        _check_recomputed(hits, batch, projected.activation, records, settings)
        result.fill(at, of_batch, projected)

    batches, at_once = batches_of_one_shape(crops, settings.batch * math.prod(size)), device.backwards(settings.threads)
    with device.deterministic(), closing(map_ahead(project_batch, batches, at_once, 2 * at_once)) as done:
        for _ in done:
            if should_stop():
                return None
    return result


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
        self,
        images: Sequence[np.ndarray],
        crops: np.ndarray,
        boxes: np.ndarray,
        filter: np.ndarray,
        row: np.ndarray,
        column: np.ndarray,
    ) -> Projected:
        """Project an activation of each image, computed from a crop of it.

        Parameters
        ----------
        images : sequence of ndarray (y, x, channel) uint8
            One a hit.
        crops : ndarray (hit, corner)
            Of one size: see ``exact_boxes``; or the whole images.
        boxes : ndarray (hit, corner)
            Of the patches, inside of the crops.
        filter, row, column : ndarray (hit)
            In the map of the whole image.

        Returns
        -------
        Projected
            The activations computed anew, and the projections of the patches.

        Raises
        ------
        InputError
            The network cannot be run in the precision.
        """
        row = row - crops[:, 0] // max(1, self.layer.field.y.stride)
        column = column - crops[:, 1] // max(1, self.layer.field.x.stride)
        top, left = (boxes - crops)[:, :2].T
        position = np.stack([filter, row, column, top, left]).astype(np.int64)
        pixels = cut(images, crops)
        rows = normalisation_rows(self.network.architecture, pixels.shape[2], pixels.shape[3], self.precision)
        size = int(boxes[0, 2] - boxes[0, 0]), int(boxes[0, 3] - boxes[0, 1])
        key = "projections", self.network.config, self.layer, self.rules, size
        function = partial(self._project, size)
        return Projected(*self.device.run(key, function, pixels, position, *rows, precision=self.precision))

    def _project(
        self, size: tuple[int, int], pixels: Tensor, position: Tensor, mean: Tensor, std: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        module = self.device.place(self.network.module, self.precision)
        normalised, ties = normalise(pixels, mean, std), Ties(breaks=self.precision == "float64")
        filter, row, column, top, left = position
        with refused_in_double(self.network, self.precision):
            activation, projection = project(module, self.layer.tap, normalised, filter, row, column, self.rules, ties)
        patches = _cut_windows(projection.permute(0, 2, 3, 1).float(), top, left, size)
        return activation.float(), patches, ties.hits(len(pixels), pixels.device)


def _cut_windows(pictures: Tensor, top: Tensor, left: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut windows of one size out of pictures (picture, y, x, channel), on their device."""
    windows = pictures.unfold(1, size[0], 1).unfold(2, size[1], 1).permute(0, 1, 2, 4, 5, 3)
    return windows[torch.arange(len(pictures), device=pictures.device), top, left]


def project_image(image: np.ndarray, hit: tuple[int, int, int], projector: Projector) -> np.ndarray:
    """Project one activation of an image (y, x, channel) uint8; return the window of its patch (y, x, channel) float32.

    Parameters
    ----------
    hit : (int, int, int)
        Its filter, row and column.
    """
    filter, row, column = (np.array([value]) for value in hit)
    whole = np.array([[0, 0, *image.shape[:2]]])
    box = patch_boxes(projector.layer.field, row, column, image.shape[:2])
    with projector.device.deterministic():
        projected = projector.project([image], whole, box, filter, row, column)
    picture: np.ndarray = projected.projection[0]
    return picture


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
