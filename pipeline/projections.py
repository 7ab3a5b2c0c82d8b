"""The patches and projections of ranked activations."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import torch

from .cluster import abandoned
from .deconvnet import project
from .device import one_batch, repeatable, side_by_side, upload
from .errors import WorkError
from .layers import Layer
from .networks import Network
from .patches import crops, cut, read_images, window_size, windows
from .plan import Plan
from .ranking import Ranking
from .store import Store
from .stream import ahead

FILTERS_A_TASK = 16

# How far the activation computed anew may be from the recorded one, as a fraction of the filter's strongest.
# float32 is what other batches and crops give. The others are about three times the largest difference from float32
# over 500 photographs: 0.035 in bfloat16, 0.0046 in float16, both in SqueezeNet; tf32 has float16's digits.
TOLERANCE = {"float32": 1e-4, "tf32": 0.015, "bfloat16": 0.1, "float16": 0.015}


def make_patches(
    filters: range, plan: Plan, layer: Layer, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Give the patches and projections (filter, rank, y, x, rgb) and boxes (filter, rank, corner) of some filters.

    Nothing, if nobody waits for them any more.
    """
    store = Store.open(plan.config.store)
    crop = plan.config.decode.crop
    ranking = store.read_ranking(layer.name, slice(filters.start, filters.stop))
    shape = (*ranking.image.shape, *window_size(layer.field, crop), 3)
    patch, projection = np.zeros(shape, np.uint8), np.zeros(shape, np.float32)
    box = np.full((*ranking.image.shape, 4), -1, np.int32)
    filled = np.nonzero(ranking.image >= 0)
    images = np.unique(ranking.image[filled])
    source = read_images(store, plan.dataset, images, plan.config, threads)
    box[filled] = windows(layer.field, ranking.row[filled], ranking.column[filled], crop)
    parts = crops(layer.field, ranking.row[filled], ranking.column[filled], crop)
    network = plan.network()

    def work(batch: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        at = filled[0][batch], filled[1][batch]
        pixels = source[np.searchsorted(images, ranking.image[at])]
        with one_batch(plan.device):
            found = project_parts(plan, network, layer, pixels, parts[batch], at[0] + filters.start, ranking, at)
        return at, cut(pixels, box[at]), *found

    batches = batches_of_one_shape(parts, plan.config.deconvolve.batch * crop**2)
    forwards = side_by_side(plan.device, threads)
    with repeatable(), closing(ahead(work, batches, forwards, forwards + 1)) as worked:
        for batch, (at, patches, activation, projected) in zip(batches, worked, strict=True):
            if abandoned():
                return None
            check_recomputed(plan, store, layer, filters.start, ranking, at, activation)
            patch[at] = patches
            projection[at] = cut(projected, box[at] - np.tile(parts[batch, :2], 2))
    return patch, projection, box


def batches_of_one_shape(boxes: np.ndarray, pixels: int) -> list[np.ndarray]:
    """Divide boxes (hit, corner) into batches of one shape, of at most so many pixels; give their indices.

    The largest come first: what several workers share out is done sooner.
    """
    sizes = boxes[:, 2:] - boxes[:, :2]
    batches = []
    for height, width in np.unique(sizes, axis=0):
        alike = np.nonzero((sizes == (height, width)).all(axis=1))[0]
        batch = max(1, pixels // (height * width))
        batches += [(part, len(part) * height * width) for part in np.array_split(alike, -(-len(alike) // batch))]
    return [part for part, _ in sorted(batches, key=lambda pair: -pair[1])]


def project_parts(
    plan: Plan,
    network: Network,
    layer: Layer,
    images: np.ndarray,
    parts: np.ndarray,
    filters: np.ndarray,
    ranking: Ranking,
    at: tuple[np.ndarray, ...],
) -> tuple[np.ndarray, np.ndarray]:
    """Give activations (hit) and projections (hit, y, x, rgb) within parts (hit, corner) of images (hit, y, x, rgb)."""
    pixels = network.architecture.normalise(upload(torch.from_numpy(cut(images, parts)), plan.device))
    row = ranking.row[at] - parts[:, 0] // max(1, layer.field.y.stride)
    column = ranking.column[at] - parts[:, 1] // max(1, layer.field.x.stride)
    f, y, x = torch.from_numpy(np.stack([filters, row, column]).astype(np.int64)).to(plan.device)
    activation, projection = project(network.module, layer.tap, pixels, f, y, x, plan.rules())
    return activation.cpu().numpy(), projection.permute(0, 2, 3, 1).cpu().numpy()


def check_recomputed(
    plan: Plan,
    store: Store,
    layer: Layer,
    first: int,
    ranking: Ranking,
    at: tuple[np.ndarray, ...],
    activation: np.ndarray,
) -> None:
    """Compare activations (hit) computed anew with the recorded ones at (filter, rank); WorkError if one differs."""
    recorded, strongest = ranking.activation[at], ranking.activation[at[0], 0]
    wrong = np.nonzero(~(np.abs(activation - recorded) <= TOLERANCE[plan.config.mine.precision] * strongest))[0]
    if len(wrong):
        i = wrong[0]
        (key,) = store.image_columns(["key"], ranking.image[at][i : i + 1])[0]
        raise WorkError(
            f"image {key}, layer {layer.name}, filter {first + at[0][i]}: the activation is now {activation[i]:.6g}, "
            f"mine recorded {recorded[i]:.6g}. The images, the weights or the versions of torch and Pillow have "
            "changed since: mine into another STORE."
        )
