"""Images of more than three bands, or of more than 8 bits a value: TIFF, NumPy's ``.npy`` and PNG of 16 bits.

TIFF is read with tifffile, which is Python and checks what it reads; the library that Pillow reads it with prints what
it finds wrong.
"""

from __future__ import annotations

import io
import logging
import threading
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from ...errors import DecodeError, InputError, first_line
from .preparation import Encoded

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF's
NPY_MAGIC = b"\x93NUMPY"
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
PNG_COLOURED = (2, 4, 6)  # colour types of more than one value a pixel; Pillow reads those of one in 16 bits itself
PNG_WITH_ALPHA = (4, 6)
MINISWHITE, MINISBLACK, RGB, PALETTE, SEPARATED, YCBCR = 0, 1, 2, 3, 5, 6  # photometric interpretations
JPEG_COMPRESSIONS = (6, 7)
OPACITY = (1, 2)  # values of the tag ExtraSamples
BYTES_A_PIXEL = 16  # of max_pixels: a larger array is refused
NUMBERS = "buif"  # kinds of dtype
INK_BANDS = 4
DIMENSIONS = 3  # y, x, band
MAX_PAGES = 4096  # of a TIFF


class Bands(NamedTuple):
    """The values of an image: ``values`` (y, x, band) of any type of number, and whether the last band is opacity."""

    values: np.ndarray
    has_alpha: bool = False


class Header(NamedTuple):
    """What an array takes once it is decoded: its height and width in pixels, and its size in bytes."""

    height: int
    width: int
    size: int


def is_array(data: Encoded) -> bool:
    """Return whether an image is one that ``read_bands`` reads, by its first bytes."""
    return data[:4] in TIFF_MAGIC or data[:6] == NPY_MAGIC or _is_deep_png(data)


def read_bands(data: Encoded, max_pixels: int) -> Bands:
    """Decode such an image.

    Raises
    ------
    DecodeError
        It is damaged, too large, or none of one picture.
    InputError
        The package that reads it is not installed.
    """
    header = read_header(data)
    if header.height * header.width > max_pixels:
        raise DecodeError(f"{header.width} x {header.height} pixels are more than {max_pixels}")
    if header.size > BYTES_A_PIXEL * max_pixels:
        raise DecodeError(f"{header.size} bytes are more than {BYTES_A_PIXEL} for each of {max_pixels} pixels")
    if data[:4] in TIFF_MAGIC:
        bands = _read_tiff(data)
    else:
        bands = _read_npy(data) if data[:6] == NPY_MAGIC else _read_png(data)
    if bands.values.shape[:2] != (header.height, header.width) or bands.values.ndim != DIMENSIONS:
        raise DecodeError(f"its values have the shape {bands.values.shape}, its header says otherwise")
    return bands


def read_header(data: Encoded) -> Header:
    """Return what an image takes, as its header says; errors as ``read_bands``."""
    if data[:4] in TIFF_MAGIC:
        with _damage_logged(), _open_tiff(data) as file:
            pages = _list_pages(file)
            height, width = pages[0].imagelength, pages[0].imagewidth
            return Header(height, width, sum(page.nbytes for page in pages))
    if data[:6] == NPY_MAGIC:
        shape, dtype = _read_npy_header(io.BytesIO(data))
        height, width = _order_npy(np.empty(0, np.uint8), shape)[1]
        return Header(height, width, int(np.prod(shape, dtype=object)) * dtype.itemsize)
    width, height = (int.from_bytes(data[start : start + 4], "big") for start in (16, 20))
    return Header(height, width, height * width * 8)


# -- NumPy -------------------------------------------------------------------------------------------------------------


def _read_npy(data: Encoded) -> Bands:
    file = io.BytesIO(data)
    shape, _ = _read_npy_header(file)
    file.seek(0)
    return Bands(_order_npy(np.load(file, allow_pickle=False), shape)[0])


def _read_npy_header(file: io.BytesIO) -> tuple[tuple[int, ...], np.dtype[Any]]:
    read: Any = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    major, _ = np.lib.format.read_magic(file)
    if major not in read:
        raise DecodeError(f"version {major} of .npy")
    shape, _, dtype = read[major](file)
    if dtype.kind not in NUMBERS:
        raise DecodeError(f"an array of {dtype}, not of numbers")
    return shape, dtype


def _order_npy(values: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[int, int]]:
    """Return an array as (y, x, band), where it has values, and its height and width.

    Of three dimensions the first or the last is that of the bands: the shorter one.
    """
    if len(shape) not in (2, 3) or not all(shape):
        raise DecodeError(f"an array of shape {shape}, not (y, x), (y, x, band) or (band, y, x)")
    if len(shape) == 2:
        return values[..., None] if values.size else values, (shape[0], shape[1])
    if shape[0] == shape[2]:
        raise DecodeError(f"an array of shape {shape}: its first dimension or its last may be that of the bands")
    if shape[2] < shape[0]:
        return values, (shape[0], shape[1])
    return np.moveaxis(values, 0, -1) if values.size else values, (shape[1], shape[2])


# -- PNG ---------------------------------------------------------------------------------------------------------------


def _is_deep_png(data: Encoded) -> bool:
    return data[:8] == PNG_MAGIC and len(data) > 25 and data[24] == 16 and data[25] in PNG_COLOURED


def _read_png(data: Encoded) -> Bands:
    try:
        from imagecodecs import png_decode
    except ImportError as error:
        raise _missing("PNG of 16 bits a channel", error) from None
    return Bands(png_decode(bytes(data)), data[25] in PNG_WITH_ALPHA)


# -- TIFF --------------------------------------------------------------------------------------------------------------


def _read_tiff(data: Encoded) -> Bands:
    with _damage_logged(), _open_tiff(data) as file:
        pages = _list_pages(file)
        _check_segments(pages, len(data))
        planes = [_read_page(page) for page in pages]
    if len(planes) == 1:
        return planes[0]
    return Bands(np.concatenate([plane.values for plane in planes], axis=2))


def _open_tiff(data: Encoded) -> Any:
    try:
        import imagecodecs  # noqa: F401 - tifffile takes it for a damaged file where it is not there
        import tifffile
    except ImportError as error:
        raise _missing("TIFF", error) from None
    _log.install()
    return tifffile.TiffFile(io.BytesIO(data))


def _list_pages(file: Any) -> list[Any]:
    """Return the pages of a TIFF whose values are its bands: one, or more of one size and of one value a pixel."""
    pages = [page for page in islice(file.pages, MAX_PAGES) if not page.is_reduced and not page.is_mask]
    if not pages:
        raise DecodeError("a TIFF without an image")
    if len({(page.shape, page.dtype) for page in pages}) > 1 or (len(pages) > 1 and pages[0].ndim > 2):
        raise DecodeError(f"a TIFF of {len(pages)} images, which are no bands of one")
    if pages[0].dtype is None or pages[0].dtype.kind not in NUMBERS or pages[0].imagedepth > 1:
        raise DecodeError("a TIFF of values that are no numbers in rows and columns")
    return pages


def _check_segments(pages: list[Any], size: int) -> None:
    """Raise DecodeError where a part of a TIFF's pixels is not in the file: tifffile may fill it with zeros."""
    for page in pages:
        for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
            if not count or offset + count > size:
                raise DecodeError("a part of its pixels is missing")


def _read_page(page: Any) -> Bands:
    values = page.asarray(maxworkers=1)
    if page.axes.startswith("S"):
        values = np.moveaxis(values, 0, -1)
    elif page.axes == "YX":
        values = values[..., None]
    elif page.axes != "YXS":
        raise DecodeError(f"a TIFF with the axes {page.axes}")
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    photometric, has_alpha = int(page.photometric), bool(page.extrasamples) and int(page.extrasamples[-1]) in OPACITY
    if values.dtype == bool:
        values = values * np.uint8(255)
    if photometric == MINISWHITE and values.dtype.kind == "u":
        values = np.iinfo(values.dtype).max - values
    elif photometric == PALETTE:
        values = (page.colormap.T >> 8).astype(np.uint8)[values[..., 0]]
    elif photometric == SEPARATED:
        values = _mix_inks(values)
    elif photometric not in (MINISBLACK, RGB) and not (photometric == YCBCR and page.compression in JPEG_COMPRESSIONS):
        raise DecodeError(f"a TIFF of colours that are not read: {page.photometric.name}")
    return Bands(values, has_alpha)


def _mix_inks(values: np.ndarray) -> np.ndarray:
    if values.dtype != np.uint8 or values.shape[2] != INK_BANDS:
        raise DecodeError("a TIFF of inks that are not cyan, magenta, yellow and black in 8 bits")
    from PIL import Image

    return np.asarray(Image.fromarray(np.ascontiguousarray(values), "CMYK").convert("RGB"))


class _Log(logging.Handler):
    """What tifffile logs, by the thread it reads in: where it logs an error it goes on without what it could not read.

    It is not printed.
    """

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._of_thread = threading.local()

    def install(self) -> None:
        """Take the place of the printing of tifffile's log."""
        logger = logging.getLogger("tifffile")
        if self not in logger.handlers:
            logger.addHandler(self)
            logger.propagate = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the first error."""
        if not getattr(self._of_thread, "error", ""):
            self._of_thread.error = record.getMessage().partition("\n")[0]

    def __enter__(self) -> None:
        self._of_thread.error = ""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        error = self._of_thread.error
        if kind is None and error:
            raise DecodeError(error.partition("> ")[2] or error)


_log = _Log()


def _damage_logged() -> _Log:
    """Return a context in which an error that tifffile only logs becomes a DecodeError."""
    return _log


def _missing(what: str, error: ImportError) -> InputError:
    return InputError(f"{what} needs tifffile and imagecodecs ({first_line(error)}): pip install 'topnine[tiff]'.")
