"""Decoding an image to the pixels of the network's input, and the geometry from there back to the source image."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import DecodeError

Result = TypeVar("Result")

MAX_PIXELS = 178_956_970  # of an image; 24-bit pixels of this number take 512 MiB
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")  # not EPS, which runs a program; not TIFF, whose library prints
ORDERS_PASSES = int(version("pillow").split(".")[0]) >= 13  # before, rows always came first
BLACK = (0, 0, 0)
LONGEST = 8  # crops, of a side that is resized in full: a long strip would take memory for what is cropped away
HASHED_PX = 56  # along the shorter axis: a hash needs no more of the pixels
DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    AttributeError,
    OverflowError,
    AssertionError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)  # that Pillow's decoders have raised on damaged bytes, and some of them where memory ran out
BYTES_A_PIXEL = 16  # that decoding may take, converting included
SPARE_BYTES = 64 * 2**20  # and whatever the size

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about metadata, which is not used here
Image.MAX_IMAGE_PIXELS = None  # of the whole process, and only a warning: max_pixels is checked instead


@dataclass(frozen=True)
class Geometry:
    """How an image becomes the network's input: it is resized, then its centre is cropped.

    Sizes are rounded as torchvision's Resize and CenterCrop round them, and those of ``pad`` as timm's ResizeKeepRatio
    and CenterCropOrPad.

    Attributes
    ----------
    height, width : int
        Of the source image, in pixels.
    resize : int
        A side after resizing, in pixels: see ``fit``.
    crop : int
        Height and width of the network's input, in pixels.
    fit : {"crop", "squash", "pad"}
        Which side that is: the shortest, both, or the longest. With ``pad`` borders fill what the crop has beyond it.
    """

    height: int
    width: int
    resize: int
    crop: int
    fit: str = "crop"

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width after resizing, in pixels.

        >>> Geometry(height=375, width=500, resize=256, crop=224).resized
        (256, 341)
        """
        if self.fit == "squash":
            return self.resize, self.resize
        if self.fit == "pad":
            ratio = max(self.height / self.resize, self.width / self.resize)
            return max(1, round(self.height / ratio)), max(1, round(self.width / ratio))
        short = min(self.height, self.width)
        return self.resize * self.height // short, self.resize * self.width // short

    @property
    def crop_corner(self) -> tuple[int, int]:
        """Top and left of the crop in the resized image, in pixels; negative where there is a border."""
        top, left = (
            round((side - self.crop) / 2) if side >= self.crop else -((self.crop - side) // 2) for side in self.resized
        )
        return top, left

    def to_source(self, top: float, left: float, bottom: float, right: float) -> tuple[float, float, float, float]:
        """Return the box in the source image that a box in the network's input came from; both in pixels."""
        height, width = self.resized
        crop_top, crop_left = self.crop_corner
        y, x = self.height / height, self.width / width
        return (top + crop_top) * y, (left + crop_left) * x, (bottom + crop_top) * y, (right + crop_left) * x


@dataclass(frozen=True)
class Decoded:
    """An image at the network's input size.

    Attributes
    ----------
    pixels : ndarray (y, x, rgb) uint8
    geometry : Geometry
        Where in the source image the pixels come from.
    hash : int
        The ``difference_hash`` of the pixels.
    """

    pixels: np.ndarray
    geometry: Geometry
    hash: int


def decode(
    data: bytes,
    resize: int,
    crop: int,
    max_pixels: int = MAX_PIXELS,
    fast: bool = False,
    interpolation: str = "bilinear",
    fit: str = "crop",
    fill: tuple[int, int, int] = BLACK,
) -> Decoded:
    """Decode an image to the network's input: it is resized, then its centre is cropped, as ``Geometry`` says.

    An image that has the right size is not resampled. The format is taken from the content, never from a file's
    extension. The orientation in EXIF is ignored, as it is in training.

    Parameters
    ----------
    data : bytes
        An encoded image.
    resize, crop : int
        See ``Geometry``.
    max_pixels : int
        A larger image is refused before it is decoded.
    fast : bool
        Let the JPEG decoder halve an image of at least twice the size, once or up to three times.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        Pillow's filter of the resizing.
    fit : {"crop", "squash", "pad"}
        See ``Geometry``.
    fill : (red, green, blue)
        Of the borders of ``pad``.

    Raises
    ------
    DecodeError
        The image is damaged or too large; the reason depends on the bytes alone.
    MemoryError
        Memory ran out, or a decoder failed where it might have.
    """
    return _believe(data, max_pixels, lambda: _to_input(data, resize, crop, max_pixels, fast, interpolation, fit, fill))


def difference_hash(pixels: np.ndarray) -> int:
    """Return the difference hash of an image: 64 bits, of which few change when the image is encoded again.

    The image is turned to grey and shrunk to 8 rows of 9 pixels. A bit says whether a pixel is brighter than its left
    neighbour.

    Parameters
    ----------
    pixels : ndarray (y, x, rgb) uint8
    """
    step = max(1, min(pixels.shape[:2]) // HASHED_PX)
    grey = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image to RGB at its own size; errors as ``decode``."""
    return _believe(data, max_pixels, lambda: _decode(data, max_pixels, None)[0])


def _believe(data: bytes, max_pixels: int, decode: Callable[[], Result]) -> Result:
    """Return what decoding some data gives; its errors are raised where they are the data's.

    Decoders call it damage, too, where memory runs out. An error is believed only if it comes again while this process
    decodes nothing else and could have had the memory.
    """
    if not data:
        raise DecodeError("no bytes")
    try:
        with _decoders.shared():
            return decode()
    except (DecodeError, MemoryError):
        pass
    with _decoders.alone():
        try:
            return decode()
        except DecodeError:
            _check_memory(_count_pixels(data, max_pixels) * BYTES_A_PIXEL + SPARE_BYTES)
            raise


def _to_input(
    data: bytes,
    resize: int,
    crop: int,
    max_pixels: int,
    fast: bool,
    interpolation: str,
    fit: str,
    fill: tuple[int, int, int],
) -> Decoded:
    place = partial(Geometry, resize=resize, crop=crop, fit=fit)
    image, height, width = _decode(data, max_pixels, place if fast else None)
    geometry = place(height, width)
    pixels = np.asarray(_resize(image, geometry, Image.Resampling[interpolation.upper()]))
    if pixels.shape[:2] != (crop, crop):
        top, left = (max(0, -corner) for corner in geometry.crop_corner)
        bordered = np.full((crop, crop, 3), fill, np.uint8)
        bordered[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
        pixels = bordered
    return Decoded(pixels, geometry, difference_hash(pixels))


def _resize(image: Image.Image, geometry: Geometry, filter: Image.Resampling) -> Image.Image:
    """Return the crop of the resized image, without borders, to the last bit that of resizing all of it.

    Pillow resizes rows and columns one after the other, and rounds to grey levels in between. So do these two passes,
    in its order, and the second one has only what the crop leaves of the first.
    """
    (height, width), (top, left), crop = geometry.resized, geometry.crop_corner, geometry.crop
    rows, columns = (width, max(0, left), min(crop, width)), (height, max(0, top), min(crop, height))
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


def _decode(data: bytes, max_pixels: int, place: Callable[[int, int], Geometry] | None) -> tuple[Image.Image, int, int]:
    """Return an image in RGB, and the height and width it has.

    With ``place``, which takes these, the decoder may halve it, but not below the size that it is resized to.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DecodeError(f"{image.width} x {image.height} pixels are more than {max_pixels}")
            width, height = image.size
            if place is not None:
                image.draft(None, place(height, width).resized[::-1])
            return _rgb(image), height, width
    except UnidentifiedImageError:
        raise DecodeError("not an image") from None
    except DECODER_ERRORS as error:
        raise DecodeError(f"{type(error).__name__}: {error}".removesuffix(": ")) from None


def _count_pixels(data: bytes, max_pixels: int) -> int:
    """Return the pixels that decoding an image may take memory for; 0 where its header claims too many."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = _webp_size(data)  # Pillow takes memory for all pixels before it says how many there are
    else:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
        except DECODER_ERRORS:
            return 0
    return width * height if width * height <= max_pixels else 0


def _webp_size(data: bytes) -> tuple[int, int]:
    """Return the width and height in the header of a WebP: of its first chunk, which has one of three kinds.

    >>> _webp_size(b"RIFF....WEBPVP8X" + bytes(8) + (4).to_bytes(3, "little") + (6).to_bytes(3, "little"))
    (5, 7)
    """
    kind = data[12:16]
    if kind == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _check_memory(size: int) -> None:
    """Raise MemoryError where so many bytes cannot be allocated."""
    np.empty(size, np.uint8)


class _Decoders:
    """Lets threads decode side by side, or one of them alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0  # to be alone, or alone: no other begins

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Let others decode meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._waiting)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other decodes, and keep others from it."""
        with self._changed:
            self._waiting += 1
            try:
                self._changed.wait_for(lambda: not self._sharing)
                yield
            finally:
                self._waiting -= 1
                self._changed.notify_all()


_decoders = _Decoders()


def _rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to RGB."""
    if image.mode.startswith("I"):  # 16 bits, which Pillow would clip at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # so that transparency is dropped as in other modes
    return image.convert("RGB")
