"""Mutated JPEGs, TIFFs, arrays and tars: nothing may crash, hang, grow without bound, or be lost from the counts.

A mutated JPEG has the pixels, or the damage, that Pillow alone finds.

``python -m tests.fuzz.mutants 20000 2000`` runs so many of each, in this process: a crash of the decoder is its crash.
The originals are real ones where ``TOPNINE_TEST_DATA`` names them, else photographs of the demo.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import tarfile
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any
from unittest import mock

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from tests.conftest import decode_at as decode
from tests.conftest import peak_kib, write_tar
from topnine.pipeline.data import photos
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.decoding import decode as decoding
from topnine.pipeline.data.entry import Dataset, Shard
from topnine.pipeline.data.keys import unique_keys
from topnine.pipeline.data.listing import join
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.errors import DecodeError, InputError

SECONDS_EACH = 20
GROWTH_MIB = 600  # one decoded image of a mutated size may take data.max_pixels; this bounds it to that
MAX_PIXELS = 50_000_000


def originals(count: int) -> list[bytes]:
    """Real JPEGs, the smaller ones: those of ImageNet-500, or the demo's photographs encoded as JPEG."""
    data = os.environ.get("TOPNINE_TEST_DATA")
    if data and Path(data).is_dir():
        dataset = find_dataset(f"{data}/data/imagenet-500")
        entries = [(n, entry) for n, shard in enumerate(dataset.shards) for entry in list_images(shard)]
        entries = sorted(entries, key=lambda pair: pair[1].size)[:count]
        with open_reader(dataset) as reader:
            return [reader.read(number, entry.offset, entry.size, entry.key) for number, entry in entries]
    with tempfile.TemporaryDirectory() as folder:
        photos.write_shards(Path(folder))
        dataset = find_dataset(folder)
        entries = [(0, entry) for entry in list_images(dataset.shards[0])[:count]]
        with open_reader(dataset) as reader:
            return [_as_jpeg(reader.read(number, entry.offset, entry.size, entry.key)) for number, entry in entries]


def _as_jpeg(data: bytes) -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(data)).save(buffer, "JPEG")
    return buffer.getvalue()


def mutate(data: bytes, other: bytes, rng: np.random.Generator) -> bytes:
    """Flip bytes, cut, or splice with another."""
    kind = rng.integers(4)
    if kind == 0:
        return data[: rng.integers(len(data))]
    if kind == 1:
        at, size = rng.integers(len(data)), int(rng.integers(1, 4096))
        return data[:at] + other[rng.integers(len(other)) :][:size] + data[at + (size if rng.random() < 0.5 else 0) :]
    changed = np.frombuffer(data, np.uint8).copy()
    reach = min(len(data), 700) if kind == 2 else len(data)  # headers more often than pixels
    places = rng.integers(reach, size=int(rng.integers(1, 30)))
    changed[places] = rng.integers(256, size=len(places), dtype=np.uint8)
    return changed.tobytes()


def fuzz_images(count: int, seed: int = 0) -> Counter:
    """Decode so many mutated JPEGs; count what became of them."""
    rng, images, counts = np.random.default_rng(seed), originals(60), Counter()
    for _ in range(count):
        data = mutate(images[rng.integers(len(images))], images[rng.integers(len(images))], rng)
        fast = bool(rng.random() < 0.2)
        found = pixels_or_damage(data, fast=fast)
        with mock.patch.object(decoding, "decode_pixels", return_value=None):
            by_pillow = pixels_or_damage(data, fast=fast)
        assert found == by_pillow, f"Pillow finds otherwise: {by_pillow[:80]!r}, not {found[:80]!r}"
        counts["damaged" if isinstance(found, str) else "decoded"] += 1
    assert sum(counts.values()) == count
    return counts


def arrays() -> list[bytes]:
    """A small picture as TIFF in several layouts and compressions, as .npy, and as PNG of 16 bits."""
    noise = np.random.default_rng(1).integers(0, 256, (9, 9, 3), np.uint8)
    smooth = np.asarray(Image.fromarray(noise).resize((90, 70)))
    deep, planes = smooth.astype(np.uint16) * 200, np.moveaxis(smooth, -1, 0)
    written = [imagecodecs.png_encode(deep)]
    for values, options in (
        (smooth, {"photometric": "rgb"}),
        (smooth, {"photometric": "rgb", "compression": "lzw"}),
        (smooth, {"photometric": "rgb", "compression": "jpeg"}),
        (deep, {"photometric": "rgb", "compression": "zlib", "predictor": True}),
        (deep[..., 0], {"photometric": "minisblack", "compression": "zstd"}),
        (smooth, {"photometric": "rgb", "tile": (32, 32), "bigtiff": True}),
        (planes, {"photometric": "minisblack", "planarconfig": "separate"}),
        (planes, {"photometric": "minisblack"}),
        (smooth[..., 0], {"photometric": "miniswhite", "compression": "packbits"}),
    ):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, values, **options)
        written.append(buffer.getvalue())
    for mode, compression in (("P", None), ("CMYK", "tiff_lzw"), ("1", "group4")):
        buffer = io.BytesIO()
        Image.fromarray(smooth).convert(mode).save(buffer, "TIFF", compression=compression)
        written.append(buffer.getvalue())
    for values in (smooth, deep, planes):
        buffer = io.BytesIO()
        np.save(buffer, values)
        written.append(buffer.getvalue())
    return written


def fuzz_arrays(count: int, seed: int = 0) -> Counter:
    """Decode so many mutated TIFFs, .npy and PNGs of 16 bits; count what became of them."""
    rng, images, counts = np.random.default_rng(seed), arrays(), Counter()
    for _ in range(count):
        data = mutate(images[rng.integers(len(images))], images[rng.integers(len(images))], rng)
        counts[outcome(data, range=((0, 50_000),))] += 1
    assert sum(counts.values()) == count
    return counts


def outcome(data: bytes, **options: Any) -> str:
    """Decode an image: "decoded", or that it was damaged; anything else is raised."""
    return "damaged" if isinstance(pixels_or_damage(data, **options), str) else "decoded"


def pixels_or_damage(data: bytes, **options: Any) -> bytes | str:
    """Decode an image: its pixels, or the reason why it is damaged; anything else is raised."""
    signal.alarm(SECONDS_EACH)
    try:
        return decode(data, 96, 96, MAX_PIXELS, **options).pixels.tobytes()
    except DecodeError as error:
        assert str(error)
        return str(error)
    finally:
        signal.alarm(0)


def fuzz_tars(count: int, seed: int = 0) -> Counter:
    """Scan and read so many mutated tars; every entry becomes an image or a damaged one."""
    rng, images, counts = np.random.default_rng(seed), originals(8), Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.tar"
        members = [(f"{'long/' * (30 * (i % 3))}{i}.jpg", image) for i, image in enumerate(images)]
        write_tar(path, [pair for name, image in members for pair in ((name, image), (f"{name[:-3]}cls", b"3"))])
        good = path.read_bytes()
        with tarfile.open(path) as container:
            headers = [member.offset for member in container]
        for _ in range(count):
            path.write_bytes(mutate_tar(good, headers, rng))
            counts.update(entries_of(path))
    return counts


def mutate_tar(data: bytes, headers: list[int], rng: np.random.Generator) -> bytes:
    """Mutate anywhere, or aim at one of the headers."""
    if rng.random() < 0.4:
        return mutate(data, data, rng)
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = headers[rng.integers(len(headers))]
        byte = at + int(rng.choice([0, 100, 124, 130, 148, 156, 257, 345])) + int(rng.integers(8))
        changed[byte] = int(rng.choice([0, 0x20, 0x30, 0x37, 0x80, 0xFF]))
        if rng.random() < 0.7:  # a header that is wrong but has its checksum right
            header = changed[at : at + 512]
            header[148:156] = b" " * 8
            changed[at + 148 : at + 156] = f"{sum(header):06o}\0 ".encode()
    return bytes(changed)


def entries_of(path: Path) -> Counter:
    """Scan a tar and decode its images; the counts add up to its entries, or the tar is refused as a whole."""
    signal.alarm(SECONDS_EACH)
    counts: Counter = Counter()
    shard = Shard(path.name, str(path), "tar", path.stat().st_size, 0.0)
    try:
        entries = list_images(shard)
        keys = unique_keys(join(Dataset("a", (shard,)), [entries]))
        assert len(set(keys)) == len(entries)
        with open_reader(Dataset("a", (shard,))) as reader:
            for entry in entries:
                if entry.damage:
                    counts["damaged"] += 1
                else:
                    counts[outcome(reader.read(0, entry.offset, entry.size, entry.key))] += 1
        assert sum(counts.values()) == len(entries)
        counts["incomplete"] += bool(entries.missing)
        return counts
    except InputError as error:
        assert str(path) in str(error)
        return Counter(refused=1)
    finally:
        signal.alarm(0)


def main(images: int, tars: int) -> None:
    """Run the fuzz; print what became of all."""
    signal.signal(signal.SIGALRM, _hang)
    before = peak_kib()
    print("images", dict(fuzz_images(images)))
    print("arrays", dict(fuzz_arrays(images // 2)))
    print("tars", dict(fuzz_tars(tars)))
    grown = (peak_kib() - before) // 1024
    print(f"grew by {grown} MiB")
    assert grown < GROWTH_MIB


def _hang(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS_EACH} s for one")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
