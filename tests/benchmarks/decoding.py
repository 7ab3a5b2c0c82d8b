"""JPEGs to pixels: simplejpeg against Pillow; and to the network's input: torch's resizing against Pillow's."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from tests.benchmarks.measure import Row, in_turn, reported
from topnine.pipeline.data.decoding.decode import decode
from topnine.pipeline.data.decoding.jpeg import decode_pixels, read_header
from topnine.pipeline.data.decoding.preparation import Preparation

Decoder = Callable[[bytes], np.ndarray]


def by_pillow(data: bytes) -> np.ndarray:
    """Decode a JPEG with Pillow: pixels (y, x, rgb) uint8."""
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def by_simplejpeg(data: bytes) -> np.ndarray:
    """Decode a JPEG as mining does, less the resizing."""
    header = read_header(data)
    assert header is not None
    pixels = decode_pixels(data, header)
    assert pixels is not None
    return pixels


def to_input(resample: str, data: bytes) -> np.ndarray:
    """Decode and resize as mining does."""
    return decode(data, Preparation(256, (224, 224), resample=resample)).pixels


def decoder_rows(data: Path, rounds: int) -> Iterator[Row]:
    """Compare decoders and resizers on one thread, and what they give."""
    jpegs = [jpeg for path in sorted(data.glob("*.tar")) for jpeg in photographs(path)]
    plain = [jpeg for jpeg in jpegs if read_header(jpeg) is not None]
    ways = {"Pillow": by_pillow, "simplejpeg": by_simplejpeg}
    yield _compare("decode with simplejpeg, against Pillow, time", ways, plain, rounds)
    resizers = {name: partial(to_input, name.lower()) for name in ("Pillow", "torch")}
    yield _compare("decode and resize with torch, against Pillow's resizing, time", resizers, jpegs, rounds)


def _compare(title: str, ways: dict[str, Decoder], jpegs: list[bytes], rounds: int) -> Row:
    """Compare the second way with the first one."""

    def all_by(decoder: Decoder) -> None:
        for jpeg in jpegs:
            decoder(jpeg)

    (first, one), (second, other) = ways.items()
    took = in_turn({name: partial(all_by, way) for name, way in ways.items()}, rounds)
    apart = [np.abs(other(jpeg).astype(np.int16) - one(jpeg)).astype(np.uint8) for jpeg in jpegs]
    detail = (
        f"{took[second] / len(jpegs) * 1e3:.2f} ms a photograph, {first} {took[first] / len(jpegs) * 1e3:.2f} ms; "
        f"{np.mean([(image > 0).mean() for image in apart]):.2%} of the values differ, by at most "
        f"{max(image.max() for image in apart)}"
    )
    return reported(title, took[second] / took[first], detail)


def photographs(path: Path) -> Iterator[bytes]:
    """Yield the JPEGs of a tar."""
    with tarfile.open(path) as container:
        for member in container:
            if member.name.lower().endswith((".jpg", ".jpeg")):
                yield container.extractfile(member).read()
