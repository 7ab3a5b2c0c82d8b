"""Encoded image bytes to the pixels of the network's input, and the geometry back to the source image."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from .errors import DecodeError

MAX_PIXELS = 178_956_970  # one 24-bit image of this size takes 512 MiB
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")  # not EPS, which runs a program, nor TIFF, whose library prints
HASHED_PX = 56  # along an axis: every so many pixels are enough for a hash
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
    MemoryError,
    AssertionError,
    RuntimeError,
    ZeroDivisionError,
    struct.error,
    zlib.error,
)  # what Pillow's decoders have raised on damaged bytes

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # of EXIF and the like, unused here
Image.MAX_IMAGE_PIXELS = None  # Pillow's limit warns and cannot be set by a caller: data.max_pixels is checked instead


@dataclass(frozen=True)
class Geometry:
    """How a source image is brought to the network's input: shortest side to ``resize``, then the centre ``crop``.

    All in pixels; ``height`` and ``width`` are the source's. Rounding is torchvision's (Resize, CenterCrop).
    """

    height: int
    width: int
    resize: int
    crop: int

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width after resizing.

        >>> Geometry(height=375, width=500, resize=256, crop=224).resized
        (256, 341)
        """
        short = min(self.height, self.width)
        return self.resize * self.height // short, self.resize * self.width // short

    @property
    def crop_corner(self) -> tuple[int, int]:
        """Top and left of the crop in the resized image."""
        height, width = self.resized
        return round((height - self.crop) / 2), round((width - self.crop) / 2)

    def to_source(self, top: float, left: float, bottom: float, right: float) -> tuple[float, float, float, float]:
        """Give the place in the source image of a box in network input pixels."""
        height, width = self.resized
        crop_top, crop_left = self.crop_corner
        y, x = self.height / height, self.width / width
        return (top + crop_top) * y, (left + crop_left) * x, (bottom + crop_top) * y, (right + crop_left) * x


@dataclass(frozen=True)
class Decoded:
    """An image at the network's input size: pixels (y, x, rgb) uint8, where they come from, and a hash of its look."""

    pixels: np.ndarray
    geometry: Geometry
    hash: int


def decode(data: bytes, resize: int, crop: int, max_pixels: int = MAX_PIXELS, fast: bool = False) -> Decoded:
    """Decode an image, shortest side to ``resize``, centre ``crop``, by Pillow's bilinear filter.

    Only the pixels that survive the crop are resized. An image that has the size already is not resampled. What the
    bytes are counts, not what they are called. An orientation in EXIF is ignored, as it is in training. With ``fast`` a
    JPEG of at least twice the size is decoded at a half, a quarter or an eighth of it, and resized from there.

    Raises
    ------
    DecodeError
        With the reason, which depends on the bytes alone; also for more than ``max_pixels``, before they are decoded.
    """
    image, height, width = _decode(data, max_pixels, resize if fast else None)
    geometry = Geometry(height, width, resize, crop)
    top, left, bottom, right = geometry.to_source(0, 0, crop, crop)
    y, x = image.height / height, image.width / width  # 1, or what the decoder shrank it by
    box = left * x, top * y, min(right * x, image.width), min(bottom * y, image.height)  # an ulp outside, by rounding
    pixels = np.asarray(image.resize((crop, crop), Image.Resampling.BILINEAR, box=box))
    return Decoded(pixels, geometry, difference_hash(pixels))


def difference_hash(pixels: np.ndarray) -> int:
    """Give the difference hash of an image (y, x, rgb) uint8: 64 bits, few of which change when it is encoded anew.

    Grey, shrunk to 8 rows of 9: a bit is whether a place is brighter than the one to its left.
    """
    step = max(1, min(pixels.shape[:2]) // HASHED_PX)
    grey = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step])).convert("L")
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def open_image(data: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image of any kind to RGB, in its own size; errors as ``decode``."""
    return _decode(data, max_pixels, None)[0]


def _decode(data: bytes, max_pixels: int, shortest: int | None) -> tuple[Image.Image, int, int]:
    """Decode an image to RGB, no smaller than a shortest side where one is given; its own height and width."""
    if not data:
        raise DecodeError("no bytes")
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > max_pixels:
                raise DecodeError(f"{image.width} x {image.height} pixels are more than {max_pixels}")
            width, height = image.size
            if shortest is not None:
                image.draft(None, Geometry(height, width, shortest, shortest).resized[::-1])
            return _rgb(image), height, width
    except Image.UnidentifiedImageError:
        raise DecodeError("not an image") from None
    except DECODER_ERRORS as error:
        raise DecodeError(f"{type(error).__name__}: {error}".removesuffix(": ")) from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: Pillow would clip them at 255
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # a palette's transparent colour is dropped like any other alpha
    return image.convert("RGB")
