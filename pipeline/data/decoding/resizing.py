"""Resizing an image of which a crop is kept, with Pillow's filters or with torch's."""

from __future__ import annotations

from importlib.metadata import version

import numpy as np
from PIL import Image

from ...errors import first_line
from .channels import split_planes
from .preparation import COLOURS, Geometry, Preparation

ORDERS_PASSES = int(version("pillow").split(".")[0]) >= 13  # before, rows always came first
LONGEST = 8  # crops, of a side that is resized in full: a long strip would take memory for what is cropped away


def resize_crop(image: Image.Image | np.ndarray, geometry: Geometry, preparation: Preparation) -> np.ndarray:
    """Return the crop (y, x, channel) uint8 of the resized image, without borders."""
    if preparation.resample == "torch" and not _is_strip(geometry):
        return resize_with_torch(np.asarray(image), geometry, preparation.interpolation)
    filter = Image.Resampling[preparation.interpolation.upper()]
    planes = [np.asarray(resize_with_pillow(plane, geometry, filter)) for plane in split_planes(image)]
    pixels = planes[0] if len(planes) == 1 else np.stack(planes, axis=-1)
    return pixels if pixels.ndim == 3 else pixels[..., None]


def _is_strip(geometry: Geometry) -> bool:
    return any(side > LONGEST * kept for side, kept in zip(geometry.resized, geometry.size, strict=True))


# -- torch -------------------------------------------------------------------------------------------------------------


def resize_with_torch(pixels: np.ndarray, geometry: Geometry, interpolation: str) -> np.ndarray:
    """Return the crop of the resized image, a view of all of it.

    torch resizes images of 8 bits in whole numbers, the same ones with and without AVX2, and however many threads it
    has. With AVX2 it resizes three channels in the calling thread, whereas others start threads: so they go by threes.

    Raises
    ------
    MemoryError
        torch got no memory.
    """
    count = pixels.shape[2]
    if count != COLOURS:
        threes = [[min(first + i, count - 1) for i in range(COLOURS)] for first in range(0, count, COLOURS)]
        resized = [resize_with_torch(pixels[..., three], geometry, interpolation) for three in threes]
        return np.concatenate(resized, axis=-1)[..., :count]
    (height, width), corner, (rows, columns) = geometry.resized, geometry.crop_corner, geometry.size
    top, left = max(0, corner[0]), max(0, corner[1])
    if pixels.shape[:2] != (height, width):
        pixels = _interpolate(pixels, height, width, interpolation)
    return pixels[top : top + rows, left : left + columns]


def _interpolate(pixels: np.ndarray, height: int, width: int, interpolation: str) -> np.ndarray:
    import torch

    pixels = np.require(pixels, requirements=("C", "W"))  # torch warns of an array that cannot be written to
    try:
        images = torch.from_numpy(pixels)[None].permute(0, 3, 1, 2)  # strided as channels last: the fast way
        resized = torch.nn.functional.interpolate(images, (height, width), mode=interpolation, antialias=True)
    except RuntimeError as error:
        raise MemoryError(first_line(error)) from None
    return resized.permute(0, 2, 3, 1)[0].numpy()


# -- Pillow ------------------------------------------------------------------------------------------------------------


def resize_with_pillow(image: Image.Image, geometry: Geometry, filter: Image.Resampling) -> Image.Image:
    """Return the crop of the resized image, without borders, to the last bit that of resizing all of it.

    Pillow resizes rows and columns one after the other, and rounds to grey levels in between. So do these two passes,
    in its order, and the second one has only what the crop leaves of the first.
    """
    (height, width), (top, left), crop = geometry.resized, geometry.crop_corner, geometry.size
    rows, columns = (width, max(0, left), min(crop[1], width)), (height, max(0, top), min(crop[0], height))
    shrunk = image.height - height
    if ORDERS_PASSES and shrunk > 0 and shrunk > 2 * (image.width - width):
        return _resize_rows(_resize_columns(image, *columns, filter), *rows, filter)
    return _resize_columns(_resize_rows(image, *rows, filter), *columns, filter)


def _resize_rows(image: Image.Image, width: int, left: int, kept: int, filter: Image.Resampling) -> Image.Image:
    """Resize the rows of an image to a width, and keep some pixels of them from the left one on."""
    if width > LONGEST * kept:
        scale = image.width / width
        return image.resize((kept, image.height), filter, box=(left * scale, 0, (left + kept) * scale, image.height))
    return image.resize((width, image.height), filter).crop((left, 0, left + kept, image.height))


def _resize_columns(image: Image.Image, height: int, top: int, kept: int, filter: Image.Resampling) -> Image.Image:
    """Resize the columns of an image to a height, and keep some pixels of them from the top one on."""
    if height > LONGEST * kept:
        scale = image.height / height
        return image.resize((image.width, kept), filter, box=(0, top * scale, image.width, (top + kept) * scale))
    return image.resize((image.width, height), filter).crop((0, top, image.width, top + kept))
