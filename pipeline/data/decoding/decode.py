"""Decoding an image to the pixels of the network's input."""

from __future__ import annotations

import io
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import BandsError, DecodeError, InputError, first_line
from .arrays import Bands, is_array, read_bands, read_header
from .channels import DEEP, to_channels
from .jpeg import JpegHeader, decode_pixels, decode_values
from .jpeg import read_header as read_jpeg_header
from .preparation import COLOURS, MAX_PIXELS, Encoded, Geometry, Preparation
from .resizing import resize_crop

Result = TypeVar("Result")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "PPM")  # not EPS, which runs a program; not TIFF, whose library prints
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
COPIES = 4  # of an array, the same
SPARE_BYTES = 64 * 2**20  # and whatever the size
JPEG_BANDS = {"L": 1, "RGB": 3}  # of Pillow's modes that simplejpeg decodes to the same pixels

warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")  # about metadata, which is not used here
Image.MAX_IMAGE_PIXELS = None  # of the whole process, and only a warning: max_pixels is checked instead


@dataclass(frozen=True)
class Decoded:
    """An image at the network's input size.

    Attributes
    ----------
    pixels : ndarray (y, x, channel) uint8
    geometry : Geometry
        Where in the source image the pixels come from.
    hash : int
        The ``difference_hash`` of the pixels.
    """

    pixels: np.ndarray
    geometry: Geometry
    hash: int


def decode(data: Encoded, preparation: Preparation, out: np.ndarray | None = None) -> Decoded:
    """Decode an image to the network's input: it is resized, then its centre is cropped, as ``Geometry`` says.

    An image that has the right size is not resampled. The format is taken from the content, never from a file's
    extension. The orientation in EXIF is ignored, as it is in training.

    Parameters
    ----------
    data : bytes
        An encoded image.
    preparation : Preparation
    out : ndarray (y, x, channel) uint8, optional
        Where the pixels are written, and which ``Decoded.pixels`` then is. After an error it holds anything.

    Raises
    ------
    DecodeError
        The image is damaged, too large, or has other bands than are wanted; the reason depends on the bytes alone.
    MemoryError
        Memory ran out, or a decoder failed where it might have.
    InputError
        The package that reads its format is not installed.
    """
    return _believe(data, preparation.max_pixels, lambda: _to_input(data, preparation, out))


def difference_hash(pixels: np.ndarray) -> int:
    """Return the difference hash of an image: 64 bits, of which few change when the image is encoded again.

    The image is turned to grey, of other channels than red, green and blue to their mean, and shrunk to 8 rows of 9
    pixels. A bit says whether a pixel is brighter than its left neighbour.

    Parameters
    ----------
    pixels : ndarray (y, x, channel) uint8
    """
    step = max(1, min(pixels.shape[:2]) // HASHED_PX)
    if pixels.shape[2] == COLOURS:
        grey = _thin(pixels, step).convert("L")
    else:
        grey = Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]).mean(axis=2).astype(np.uint8))
    small = np.asarray(grey.resize((9, 8), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(small[:, 1:] > small[:, :-1]).tobytes(), "big")


def _thin(pixels: np.ndarray, step: int) -> Image.Image:
    """Return every so many pixels of an image (y, x, rgb), along both axes.

    numpy copies pixels of three bytes one byte at a time, but four bytes at once: those of a pixel, and of the next one
    that Pillow ignores. The last pixel has no next one.
    """
    height, width = (-(-side // step) for side in pixels.shape[:2])
    rest = (pixels.shape[0] - 1) % step or (pixels.shape[1] - 1) % step
    if not (rest and pixels.flags.c_contiguous):
        return Image.fromarray(np.ascontiguousarray(pixels[::step, ::step]))
    strides = tuple(step * stride for stride in pixels.strides[:2])
    thinned = np.ndarray((height, width), np.uint32, pixels, strides=strides).copy()
    return Image.frombuffer("RGBX", (width, height), thinned, "raw", "RGBX", 0, 1)


def open_image(data: Encoded, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode an image that Pillow reads to RGB at its own size; errors as ``decode``."""
    image = _believe(data, max_pixels, lambda: _decode(data, max_pixels, None)[0])
    return Image.fromarray(image) if isinstance(image, np.ndarray) else image


def _believe(data: Encoded, max_pixels: int, decode: Callable[[], Result]) -> Result:
    """Return what decoding some data gives; its errors are raised where they are the data's.

    Decoders call it damage, too, where memory runs out. An error is believed only if it comes again while this process
    decodes nothing else and could have had the memory.
    """
    if not data:
        raise DecodeError("no bytes")
    try:
        with _decoders:
            return decode()
    except (DecodeError, MemoryError):
        pass
    with _decoders.alone():
        try:
            return decode()
        except DecodeError:
            _check_memory(_count_bytes(data, max_pixels))
            raise


def _to_input(data: Encoded, preparation: Preparation, out: np.ndarray | None) -> Decoded:
    image, height, width = _read(data, preparation)
    geometry = preparation.place(height, width)
    crop = resize_crop(image, geometry, preparation)
    pixels = np.empty(preparation.shape, np.uint8) if out is None else out
    if crop.shape == pixels.shape:
        pixels[...] = crop
    else:
        pixels[...] = preparation.fill or 0
        top, left = (max(0, -corner) for corner in geometry.crop_corner)
        pixels[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    return Decoded(pixels, geometry, difference_hash(pixels))


def read_values(data: Encoded, max_pixels: int = MAX_PIXELS) -> Bands:
    """Decode an image to the values of its own bands, at its own size; errors as ``decode``."""
    return _believe(data, max_pixels, lambda: _read_values(data, max_pixels, None)[0])


def _read(data: Encoded, preparation: Preparation) -> tuple[Image.Image | np.ndarray, int, int]:
    """Return an image in the channels that are wanted, of 8 bits, and the height and width that the file has."""
    place = preparation.place if preparation.fast else None
    if not is_array(data) and preparation.channels == COLOURS and not (preparation.bands or preparation.range):
        return _decode(data, preparation.max_pixels, place)
    bands, height, width = _read_values(data, preparation.max_pixels, place)
    return to_channels(bands, preparation), height, width


def _read_values(
    data: Encoded, max_pixels: int, place: Callable[[int, int], Geometry] | None
) -> tuple[Bands, int, int]:
    """Return the values of an image's bands, and the height and width that the file has; ``place`` as ``_decode``."""
    if is_array(data):
        with _array_damage():
            bands = read_bands(data, max_pixels)
        return bands, *bands.values.shape[:2]
    image, height, width = _decode(data, max_pixels, place, as_it_is=True)
    values = np.asarray(image)
    has_alpha = isinstance(image, Image.Image) and image.mode.endswith(("A", "a"))
    return Bands(values[..., None] if values.ndim == 2 else values, has_alpha), height, width


def _decode(
    data: Encoded, max_pixels: int, place: Callable[[int, int], Geometry] | None, as_it_is: bool = False
) -> tuple[Image.Image | np.ndarray, int, int]:
    """Return an image in red, green and blue, or in its own bands ``as_it_is``, and the height and width it has.

    With ``place``, which takes these, the decoder may halve it, but not below the size that it is resized to.

    A JPEG is an array of pixels, unless it has four inks or there is any fault with it: then Pillow judges it.
    """

    def from_jpeg(header: JpegHeader) -> np.ndarray | None:
        """Return the pixels or the values of a JPEG; None where Pillow has to decode it."""
        if as_it_is:
            return None if place else decode_values(data, header)
        return decode_pixels(data, header, place(header.height, header.width).resized if place else None)

    header = read_jpeg_header(data)
    if header is not None:
        _check_size(header.height, header.width, max_pixels)
        pixels = from_jpeg(header)
        if pixels is not None:
            return pixels, header.height, header.width
    with _damage(), Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        _check_size(height, width, max_pixels)
        if header is None and image.format == "JPEG" and image.mode in JPEG_BANDS:
            pixels = from_jpeg(JpegHeader(height, width, JPEG_BANDS[image.mode]))
            if pixels is not None:
                return pixels, height, width
        if place is not None:
            image.draft(None, place(height, width).resized[::-1])
        return (_as_it_is if as_it_is else _rgb)(image), height, width


def _check_size(height: int, width: int, max_pixels: int) -> None:
    if height * width > max_pixels:
        raise DecodeError(f"{width} x {height} pixels are more than {max_pixels}")


@contextmanager
def _damage() -> Iterator[None]:
    """Have whatever a decoder raises on damaged bytes become a DecodeError."""
    try:
        yield
    except UnidentifiedImageError:
        raise DecodeError("not an image") from None
    except DECODER_ERRORS as error:
        raise DecodeError(f"{type(error).__name__}: {error}".removesuffix(": ")) from None


@contextmanager
def _array_damage() -> Iterator[None]:
    """Have what numpy and tifffile raise on damaged bytes become a DecodeError: it may be anything."""
    try:
        yield
    except (DecodeError, InputError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - whatever numpy, tifffile and its codecs raise
        raise DecodeError(f"{type(error).__name__}: {first_line(error)}") from None


def _count_bytes(data: Encoded, max_pixels: int) -> int:
    """Return the bytes that decoding an image may take; few where its header claims too many pixels."""
    if is_array(data):
        try:
            with _array_damage():
                header = read_header(data)
        except DecodeError:
            return SPARE_BYTES
        height, width, size = header.height, header.width, COPIES * header.size
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        width, height = _webp_size(data)  # Pillow takes memory for all pixels before it says how many there are
        size = width * height * BYTES_A_PIXEL
    else:
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
        except DECODER_ERRORS:
            return SPARE_BYTES
        size = width * height * BYTES_A_PIXEL
    return SPARE_BYTES + (size if width * height <= max_pixels else 0)


def _webp_size(data: Encoded) -> tuple[int, int]:
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

    def __enter__(self) -> None:
        """Let others decode meanwhile."""
        with self._changed:
            while self._waiting:
                self._changed.wait()
            self._sharing += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._sharing -= 1
            if self._waiting:
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
    if image.mode.startswith(("I", "F")):  # Pillow would clip them at 255
        raise BandsError(DEEP)
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # so that transparency is dropped as in other modes
    return image.convert("RGB")


def _as_it_is(image: Image.Image) -> Image.Image:
    """Return an image of any mode in one whose bands are its own: of colours, grey, or deeper values."""
    if image.mode in ("P", "PA"):
        return image.convert("RGBA" if "transparency" in image.info or image.mode == "PA" else "RGB")
    if image.mode in ("1", "CMYK", "YCbCr", "HSV", "LAB"):
        return image.convert("L" if image.mode == "1" else "RGB")
    image.load()
    return image.copy()
