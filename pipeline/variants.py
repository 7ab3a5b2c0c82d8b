"""Variants of one image through the whole network: transformed (Figure 5), or with a square over them (Figure 7)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from .classifier import Answer, Classifier, classify
from .cluster import abandoned
from .device import one_batch, repeatable, side_by_side
from .errors import WorkError
from .networks import Architecture
from .plan import Plan
from .stream import ahead
from .taps import Tap

Variant = TypeVar("Variant")
Result = TypeVar("Result")

PAPER_INPUT = 224  # pixels, of the paper's network
FARTHEST = 60  # pixels of these that Figure 5 translates by


@dataclass(frozen=True)
class Transformation:
    """A transformation in steps, as Figure 5 has three.

    Attributes
    ----------
    name : str
    axis : str
        What its values are, with the unit.
    unit : str
    values : tuple of float
        In order.
    neutral : float
        The value that changes nothing.
    shown : tuple of float
        Those of which pictures are shown.
    """

    name: str
    axis: str
    unit: str
    values: tuple[float, ...]
    neutral: float
    shown: tuple[float, ...]


def transformations(crop: int) -> tuple[Transformation, ...]:
    """Give the transformations of Figure 5 for an input of a side in pixels.

    Translation is by whole pixels: of 224 by up to 60, of other sizes by as large a part.

    >>> [values[0] for values in (t.values for t in transformations(224))]
    [-60, 1.0, 0]
    >>> transformations(96)[0].shown
    (-26, -13, 0, 13, 26)
    """
    far = round(FARTHEST / PAPER_INPUT * crop)
    moves = np.unique(np.round(np.linspace(-far, far, 25)).astype(int)).tolist()
    steps = tuple(round(far * part / 2) for part in (-2, -1, 0, 1, 2))
    scales = tuple(round(1 + 0.05 * i, 2) for i in range(17))
    return (
        Transformation("translation", "vertical translation [pixels, down]", "pixels", tuple(moves), 0, steps),
        Transformation("scale", "scale [times]", "times", scales, 1, (1.0, 1.2, 1.4, 1.6, 1.8)),
        Transformation(
            "rotation", "rotation [degrees, clockwise]", "degrees", tuple(range(0, 361, 5)), 0, (0, 90, 180, 270, 360)
        ),
    )


def transform(pixels: Tensor, transformation: Transformation, value: float) -> Tensor:
    """Transform normalised pixels (rgb, y, x) about their centre, bilinearly; at the neutral value they are returned.

    Notes
    -----
    The paper does not say what is where the image no longer is. Here it is zero, the grey that normalisation takes
    for the mean, and the image is the network's input: what the crop cut away before does not come back.
    """
    from torchvision.transforms import InterpolationMode  # takes seconds
    from torchvision.transforms.v2 import functional

    if value == transformation.neutral:
        return pixels
    given = {transformation.name: value}
    return functional.affine(
        pixels,
        angle=given.get("rotation", 0),
        translate=[0, int(given.get("translation", 0))],
        scale=given.get("scale", 1),
        shear=[0, 0],
        interpolation=InterpolationMode.BILINEAR,
    )


def square_centres(crop: int, step: int) -> np.ndarray:
    """Give the places (centre) along one axis at which the centre of Figure 7's square stands: every ``step`` pixels.

    >>> square_centres(12, 4)
    array([ 2,  6, 10])
    """
    return np.arange(step // 2, crop, step)


def occlude(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    """Lay a square over normalised pixels (rgb, y, x): zero, the grey that normalisation takes for the mean.

    Parameters
    ----------
    top, left : int
        Its first row and column; what is outside of the image is cut off.
    """
    covered = pixels.clone()
    covered[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
    return covered


def picture(pixels: Tensor, architecture: Architecture) -> np.ndarray:
    """Give normalised pixels (rgb, y, x) as a picture (y, x, rgb) uint8."""
    mean, std = (torch.tensor(values, device=pixels.device) for values in (architecture.mean, architecture.std))
    return ((pixels.permute(1, 2, 0) * std + mean) * 255).round().clamp(0, 255).byte().cpu().numpy()


def run_variants(
    plan: Plan,
    classifier: Classifier,
    taps: Mapping[str, Tap],
    pixels: Tensor,
    variants: Sequence[Variant],
    make: Callable[[Tensor, Variant], Tensor],
    read: Callable[[Answer], Result],
    threads: int,
) -> Generator[Result, None, None]:
    """Run variants of an image through the network, in batches of ``mine.batch``; give what ``read`` takes of each.

    The image as it is leads every batch: what is compared with it has gone the same way, to the last bit.

    Parameters
    ----------
    pixels : Tensor (rgb, y, x)
        The normalised image, on the plan's device.
    make : callable
        Makes a variant of it.
    read : callable
        Takes what is wanted of a batch, whose first image is the one as it is.

    Raises
    ------
    WorkError
        Nobody waits any more for the task that it runs in.
    """
    size = max(1, plan.config.mine.batch - 1)
    batches = [variants[start : start + size] for start in range(0, len(variants), size)]
    forwards = side_by_side(plan.device, threads)
    work = partial(_run_batch, plan.network().module, classifier, taps, pixels, make, read)
    with repeatable(), closing(ahead(work, batches, forwards, forwards + 1)) as worked:
        for result in worked:
            if abandoned():
                raise WorkError("nobody waits for this image any more")
            yield result


def _run_batch(
    module: nn.Module,
    classifier: Classifier,
    taps: Mapping[str, Tap],
    pixels: Tensor,
    make: Callable[[Tensor, Variant], Tensor],
    read: Callable[[Answer], Result],
    batch: Sequence[Variant],
) -> Result:
    with one_batch(str(pixels.device)), torch.inference_mode():
        images = torch.stack([pixels, *(make(pixels, variant) for variant in batch)])
        return read(classify(module, images, classifier, taps))
