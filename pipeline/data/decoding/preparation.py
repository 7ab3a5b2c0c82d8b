"""How an image becomes the network's input, and the geometry from there back to the source image."""

from __future__ import annotations

from dataclasses import dataclass

from ...config.sections import DataConfig, DecodeConfig

MAX_PIXELS = 178_956_970  # of an image; 24-bit pixels of this number take 512 MiB
COLOURS = 3

Encoded = bytes | memoryview  # an image as it is stored


@dataclass(frozen=True)
class Geometry:
    """Where the network's input lies in an image: it is resized, then its centre is cropped.

    Sizes are rounded as torchvision's Resize and CenterCrop round them, and those of ``pad`` and of a pair of sides as
    timm's ResizeKeepRatio and CenterCropOrPad.

    Attributes
    ----------
    height, width : int
        Of the source image, in pixels.
    resize : int or (int, int)
        A side after resizing, or height and width, in pixels: see ``fit``.
    size : (int, int)
        Height and width of the network's input, in pixels.
    fit : {"crop", "squash", "pad"}
        What is as long as ``resize``: the shortest side, both, or the longest; of a pair, with ``crop`` the side that
        lets the image cover it, with ``pad`` the one that keeps the image inside. With ``pad`` borders fill what the
        input has beyond it.
    """

    height: int
    width: int
    resize: int | tuple[int, int]
    size: tuple[int, int]
    fit: str = "crop"

    @property
    def resized(self) -> tuple[int, int]:
        """Height and width after resizing, in pixels.

        >>> Geometry(height=375, width=500, resize=256, size=(224, 224)).resized
        (256, 341)
        >>> Geometry(height=375, width=500, resize=(192, 640), size=(192, 640)).resized
        (480, 640)
        """
        if self.fit == "crop" and isinstance(self.resize, int):
            short = min(self.height, self.width)
            return self.resize * self.height // short, self.resize * self.width // short
        height, width = (self.resize, self.resize) if isinstance(self.resize, int) else self.resize
        if self.fit == "squash":
            return height, width
        ratio = (max if self.fit == "pad" else min)(self.height / height, self.width / width)
        return max(1, round(self.height / ratio)), max(1, round(self.width / ratio))

    @property
    def crop_corner(self) -> tuple[int, int]:
        """Top and left of the crop in the resized image, in pixels; negative where there is a border."""
        top, left = (
            round((side - crop) / 2) if side >= crop else -((crop - side) // 2)
            for side, crop in zip(self.resized, self.size, strict=True)
        )
        return top, left

    def to_source(self, top: float, left: float, bottom: float, right: float) -> tuple[float, float, float, float]:
        """Return the box in the source image that a box in the network's input came from; both in pixels."""
        height, width = self.resized
        crop_top, crop_left = self.crop_corner
        y, x = self.height / height, self.width / width
        return (top + crop_top) * y, (left + crop_left) * x, (bottom + crop_top) * y, (right + crop_left) * x


@dataclass(frozen=True)
class Preparation:
    """All that the network's input depends on beside the bytes of an image.

    Attributes
    ----------
    resize, size, fit
        See ``Geometry``.
    channels : int
        Of the network's input.
    interpolation : {"nearest", "bilinear", "bicubic", "lanczos"}
        Filter of the resizing.
    resample : {"pillow", "torch"}
        Whose filter it is; torch has bilinear and bicubic.
    fill : tuple of int (channel)
        Of the borders of ``pad``, 0 to 255; none = black.
    fast : bool
        Let the JPEG decoder halve an image of at least twice the size, once or up to three times.
    bands : tuple of int
        Which bands of an image are used, in this order, from 0; none = all.
    range : tuple of (float, float)
        The values that become 0 and 255, where they have more than 8 bits: of all bands, or of each.
    max_pixels : int
        A larger image is refused before it is decoded.
    """

    resize: int | tuple[int, int]
    size: tuple[int, int]
    channels: int = COLOURS
    fit: str = "crop"
    interpolation: str = "bilinear"
    resample: str = "pillow"
    fill: tuple[int, ...] = ()
    fast: bool = False
    bands: tuple[int, ...] = ()
    range: tuple[tuple[float, float], ...] = ()
    max_pixels: int = MAX_PIXELS

    @classmethod
    def of(cls, decode: DecodeConfig, data: DataConfig) -> Preparation:
        """Return what a configuration says that is complete: see ``plan.make_plan``."""
        return cls(
            decode.resize,
            decode.size,
            decode.channels,
            decode.fit,
            decode.interpolation,
            decode.resample,
            decode.fill or (),
            decode.fast,
            decode.bands,
            data.range,
            data.max_pixels,
        )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of the network's input."""
        return (*self.size, self.channels)

    def place(self, height: int, width: int) -> Geometry:
        """Return where the network's input lies in an image of a height and width in pixels."""
        return Geometry(height, width, self.resize, self.size, self.fit)
