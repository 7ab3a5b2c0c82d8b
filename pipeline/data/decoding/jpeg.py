"""JPEGs by simplejpeg, which is libjpeg-turbo without the lock of Python; Pillow decides what it does not read."""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from simplejpeg import decode_jpeg

from .preparation import COLOURS, Encoded

MAGIC = b"\xff\xd8\xff"
FRAMES = (0xC0, 0xC1, 0xC2)  # markers of baseline, extended sequential and progressive
SCAN = 0xDA
# The least size of a segment that Pillow reads without an error, by its marker, where it looks into it: JFIF, XMP, ICC,
# Adobe. Others are tables, comments, and what is of no concern to either decoder.
SEGMENTS = {0xE0: 16, 0xE1: 2, 0xE2: 16, 0xEE: 14}
SEGMENTS |= dict.fromkeys((0xC4, 0xDB, 0xDD, 0xFE, *range(0xE3, 0xED), 0xEF), 2)
LOOKED_INTO = (b"Exif", b"MPF\0")  # what such a segment may begin with that Pillow parses, and may refuse
KEPT_BYTES = 2**22  # of each thread, for the pixels of an image; a larger one takes memory of its own
SHRUNK = (8, 4, 2)  # by what the decoder itself shrinks


class JpegHeader(NamedTuple):
    """The height and width of a JPEG in pixels, and its bands: 1 or 3."""

    height: int
    width: int
    bands: int


def read_header(data: Encoded) -> JpegHeader | None:
    """Return what a JPEG's header says; None of other data, and where Pillow has to be asked whether it is damaged.

    Pillow has to be asked where it parses metadata, which it may refuse, and of forms that are rare.
    """
    if data[:3] != MAGIC:
        return None
    header, start, last = None, 2, len(data) - 20
    while start < last and data[start] == 0xFF:
        marker, size = data[start + 1], data[start + 2] << 8 | data[start + 3]
        if marker == SCAN:
            return header
        if marker in FRAMES:
            depth, bands = data[start + 4], data[start + 9]
            if header is not None or depth != 8 or bands not in (1, COLOURS) or size != 8 + 3 * bands:
                return None
            height, width = data[start + 5] << 8 | data[start + 6], data[start + 7] << 8 | data[start + 8]
            header = JpegHeader(height, width, bands)
        elif size < SEGMENTS.get(marker, 2**16) or data[start + 4 : start + 8] in LOOKED_INTO:
            return None
        start += 2 + size
    return None


def decode_pixels(data: Encoded, header: JpegHeader, least: tuple[int, int] | None = None) -> np.ndarray | None:
    """Return the pixels (y, x, rgb) uint8 of a JPEG, the same as Pillow's; None where the decoder finds fault with it.

    They lie where the thread's next image will lie. With the ``least`` height and width that are needed, the decoder
    shrinks the image by the factor by which Pillow's ``draft`` does.
    """
    factor = 1 if least is None else choose_factor(header, least)
    height, width = -(-header.height // factor), -(-header.width // factor)
    room = _take_room(height * width * COLOURS)
    try:
        least_size = {} if factor == 1 else {"min_height": height, "min_width": width}
        pixels: np.ndarray = decode_jpeg(data, "RGB", buffer=room, **least_size)
    except (ValueError, RuntimeError, KeyError):  # damage, a warning, a form it does not read, or no memory
        return None
    return pixels if pixels.shape[:2] == (height, width) else None


def decode_values(data: Encoded, header: JpegHeader) -> np.ndarray | None:
    """Return the values (y, x, band) uint8 of a JPEG's own bands, else as ``decode_pixels``; they have own memory."""
    try:
        values: np.ndarray = decode_jpeg(data, "GRAY" if header.bands == 1 else "RGB")
    except (ValueError, RuntimeError, KeyError):
        return None
    return values


def choose_factor(header: JpegHeader, least: tuple[int, int]) -> int:
    """Return by how much a JPEG is shrunk while it is decoded, so that it keeps the least height and width.

    >>> choose_factor(JpegHeader(1200, 1600, 3), (256, 341))
    4
    """
    fits = min(header.height // least[0], header.width // least[1])
    return next((factor for factor in SHRUNK if factor <= fits), 1)


class _Room(threading.local):
    """Memory of a thread for the pixels of one image: without it each image has new pages, which cost a tenth."""

    def __init__(self) -> None:
        self.values = np.empty(KEPT_BYTES, np.uint8)


_room = _Room()


def _take_room(size: int) -> np.ndarray:
    return _room.values if size <= KEPT_BYTES else np.empty(size, np.uint8)
