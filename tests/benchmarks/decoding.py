"""JPEGs to pixels: Pillow, which decodes every form, against two decoders that know only JPEG."""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.benchmarks.measure import Row, in_turn, reported
from topnine.pipeline.data.decoding.decode import open_image

Decoder = Callable[[bytes], np.ndarray]


def by_pillow(data: bytes) -> np.ndarray:
    """Decode as mining does, less the resizing: pixels (y, x, rgb) uint8."""
    return np.asarray(open_image(data))


def by_simplejpeg(data: bytes) -> np.ndarray:
    """Decode with simplejpeg."""
    import simplejpeg

    return simplejpeg.decode_jpeg(data, colorspace="RGB")


def by_torchvision(data: bytes) -> np.ndarray:
    """Decode with torchvision."""
    from torchvision.io import ImageReadMode, decode_jpeg

    return decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB).permute(1, 2, 0).numpy()


OTHERS: dict[str, Decoder] = {"simplejpeg": by_simplejpeg, "torchvision": by_torchvision}


def decoder_rows(data: Path, rounds: int) -> Iterator[Row]:
    """Compare decoders on one thread, and what they give."""
    jpegs = [jpeg for path in sorted(data.glob("*.tar")) for jpeg in _photographs(path)]

    def all_by(decoder: Decoder) -> None:
        for jpeg in jpegs:
            decoder(jpeg)

    took = in_turn({name: partial(all_by, way) for name, way in {"Pillow": by_pillow, **OTHERS}.items()}, rounds)
    for name, decoder in OTHERS.items():
        apart = max(int(np.abs(decoder(jpeg).astype(int) - by_pillow(jpeg)).max()) for jpeg in jpegs)
        detail = (
            f"{took[name] / len(jpegs) * 1e3:.2f} ms a photograph, Pillow {took['Pillow'] / len(jpegs) * 1e3:.2f} ms; "
            f"pixels at most {apart} apart"
        )
        yield reported(f"decode with {name}, against Pillow, time", took[name] / took["Pillow"], detail)


def _photographs(path: Path) -> Iterator[bytes]:
    with tarfile.open(path) as container:
        for member in container:
            if member.name.lower().endswith((".jpg", ".jpeg")):
                yield container.extractfile(member).read()
