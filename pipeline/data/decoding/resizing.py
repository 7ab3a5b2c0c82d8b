"""Resizing an image of which a crop is kept, with Pillow's filters."""

from __future__ import annotations

from importlib.metadata import version

from PIL import Image

from .preparation import Geometry

ORDERS_PASSES = int(version("pillow").split(".")[0]) >= 13  # before, rows always came first
LONGEST = 8  # crops, of a side that is resized in full: a long strip would take memory for what is cropped away


def resize(image: Image.Image, geometry: Geometry, filter: Image.Resampling) -> Image.Image:
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
