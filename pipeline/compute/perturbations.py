"""One image through a whole classifier, with changes: transformed (Figure 5), or with a square over it (Figure 7)."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..config.sections import NetworkConfig
from ..errors import WorkError
from ..network.classifier import Classifier, ClassifierOutput, classify
from ..network.loading import load_network
from ..network.taps import Tap
from ..prefetch import map_ahead
from .devices import Device, open_device
from .normalise import normalisation_rows, normalise, to_picture

Variant = TypeVar("Variant")

PAPER_INPUT_PX = 224  # of the paper's network
FARTHEST_PX = 60  # of these: how far Figure 5 translates


@dataclass(frozen=True)
class Transformation:
    """A transformation in steps, as Figure 5 has three.

    Attributes
    ----------
    name : str
    axis : str
        What its values mean, with the unit.
    unit : str
    values : tuple of float
        In order.
    neutral : float
        The value that changes nothing.
    shown : tuple of float
        The values whose pictures are shown.
    """

    name: str
    axis: str
    unit: str
    values: tuple[float, ...]
    neutral: float
    shown: tuple[float, ...]


def transformations(height: int) -> tuple[Transformation, ...]:
    """Return the transformations of Figure 5 for an input of a height in pixels.

    Translation is by whole pixels: up to 60 of 224, and the same fraction of other sizes.

    >>> [values[0] for values in (t.values for t in transformations(224))]
    [-60, 1.0, 0]
    >>> transformations(96)[0].shown
    (-26, -13, 0, 13, 26)
    """
    far = round(FARTHEST_PX / PAPER_INPUT_PX * height)
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
    """Transform normalised pixels (channel, y, x) about their centre, bilinearly; the neutral value changes nothing.

    Notes
    -----
    The paper does not say what fills the area that the image no longer covers. Here it is zero, which is the dataset's
    mean. The image is the network's input: pixels that the crop cut away before do not come back.
    """
    from torchvision.transforms import InterpolationMode  # importing it takes seconds
    from torchvision.transforms.v2 import functional

    if value == transformation.neutral:
        return pixels
    argument = {transformation.name: value}
    transformed: Tensor = functional.affine(
        pixels,
        angle=argument.get("rotation", 0),
        translate=[0, int(argument.get("translation", 0))],
        scale=argument.get("scale", 1),
        shear=[0, 0],
        interpolation=InterpolationMode.BILINEAR,
    )
    return transformed


def square_centres(length: int, step: int) -> np.ndarray:
    """Return the positions (centre) of the centre of Figure 7's square along an axis: every ``step`` pixels of it.

    >>> square_centres(12, 4)
    array([ 2,  6, 10])
    """
    return np.arange(step // 2, length, step)


def occlude(pixels: Tensor, top: int, left: int, side: int) -> Tensor:
    """Return normalised pixels (channel, y, x) with a square of zeros, the dataset's mean, over them.

    Parameters
    ----------
    top, left : int
        The square's first row and column. At the borders of the image the square is clipped.
    """
    covered = pixels.clone()
    covered[:, max(0, top) : max(0, top + side), max(0, left) : max(0, left + side)] = 0
    return covered


@dataclass(frozen=True)
class ClassifierRun:
    """All that running images through a whole classifier depends on.

    Attributes
    ----------
    network : NetworkConfig
    digest : str
        Of the network that the run was planned with.
    classifier : Classifier
    taps : dict of layer name to Tap
        The layers whose maps are wanted.
    batch : int
        Images a forward pass.
    device : str
        As torch names it, or ``auto``.
    threads : int
        That compute, on a CPU.
    """

    network: NetworkConfig
    digest: str
    classifier: Classifier
    taps: Mapping[str, Tap]
    batch: int
    device: str
    threads: int


def run_image(run: ClassifierRun, image: np.ndarray, read: Callable[[ClassifierOutput], Any]) -> Any:
    """Run one image (y, x, channel) uint8, unmodified; return what ``read`` takes, with arrays for its tensors."""
    device, compute = _prepare(run, image)
    with device.deterministic():
        return compute((), lambda pixels, _: pixels, read)


def run_variants(
    run: ClassifierRun,
    image: np.ndarray,
    variants: Iterable[Variant],
    make: Callable[[Tensor, Variant], Tensor],
    read: Callable[[ClassifierOutput], Any],
    should_stop: Callable[[], bool],
) -> Generator[Any, None, None]:
    """Run variants of an image through the network, in batches; yield what ``read`` takes of each batch.

    Each batch starts with the unmodified image, so that reference and variants are computed by identical arithmetic.

    Parameters
    ----------
    image : ndarray (y, x, channel) uint8
        At the network's input size.
    make : callable
        Makes a variant of the normalised image (channel, y, x).
    read : callable
        Takes what is wanted of a batch. Its first image is the unmodified one. Tensors that it returns are yielded as
        arrays.
    should_stop : callable
        Asked between batches.

    Raises
    ------
    WorkError
        ``should_stop`` said so.
    """
    remaining = iter(variants)
    batches = iter(lambda: list(islice(remaining, max(1, run.batch - 1))), [])
    device, compute = _prepare(run, image)
    forwards = device.forwards(run.threads)
    work = partial(compute, make=make, read=read)
    with device.deterministic(), closing(map_ahead(work, batches, forwards, forwards + 1)) as results:
        for result in results:
            if should_stop():
                raise WorkError("the result of this image is no longer wanted")
            yield result


def draw_variants(
    run: ClassifierRun, image: np.ndarray, variants: Sequence[Variant], make: Callable[[Tensor, Variant], Tensor]
) -> np.ndarray:
    """Return pixels (variant, y, x, channel) uint8 of variants of such an image; computed on the CPU."""
    architecture = load_network(run.network, run.digest).architecture
    mean, std = normalisation_rows(architecture, *image.shape[1:])
    pixels = normalise(*(torch.from_numpy(array) for array in (image[None], mean, std)))[0]
    return np.stack([to_picture(make(pixels, variant), architecture).numpy() for variant in variants])


def _prepare(run: ClassifierRun, image: np.ndarray) -> tuple[Device, Callable[..., Any]]:
    """Return the device, and a function of variants, ``make`` and ``read`` that runs a batch on it."""
    device, network = open_device(run.device), load_network(run.network, run.digest)
    rows = normalisation_rows(network.architecture, *image.shape[1:])

    def compute(batch: Sequence[Variant], make: Callable[..., Tensor], read: Callable[[ClassifierOutput], Any]) -> Any:
        """Run a batch of variants."""

        def classified(pixels: Tensor, mean: Tensor, std: Tensor) -> Any:
            """Normalise the image, make its variants and classify them, on the device."""
            with torch.inference_mode():
                unmodified = normalise(pixels, mean, std)[0]
                images = torch.stack([unmodified, *(make(unmodified, variant) for variant in batch)])
                return read(classify(device.place(network.module), images, run.classifier, run.taps))

        key = "classifier", network.config, tuple(run.taps.values()), len(batch)
        return device.run(key, classified, image[None], *rows)

    return device, compute
