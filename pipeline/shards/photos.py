"""The sample photographs: those that scikit-image and scikit-learn ship, cut into tiles, as tar shards."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path

from PIL import Image

from ..errors import InputError

PHOTOGRAPHS = {
    "skimage.data": (
        "astronaut.png",
        "brick.png",
        "camera.png",
        "chelsea.png",
        "clock_motion.png",
        "coffee.png",
        "coins.png",
        "grass.png",
        "gravel.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "moon.png",
        "motorcycle_left.png",
        "motorcycle_right.png",
        "retina.jpg",
        "rocket.jpg",
    ),
    "sklearn.datasets.images": ("china.jpg", "flower.jpg"),
}
TILE = 96  # pixels
SCALES = (1, 2, 4)  # divisors
TILES_A_PHOTOGRAPH = 40
SHARDS = 4


def write_shards(folder: Path) -> None:
    """Write the tiles into tar shards in a folder, always the same bytes; a folder that has them is left alone.

    Members are ``<photograph>-<scale>-<row>-<column>.png``: the scale's divisor, and the tile's place in its grid.
    """
    paths = [folder / f"photos-{number:06d}.tar" for number in range(SHARDS)]
    if all(path.is_file() for path in paths):
        return
    members = [(name, _png(tile)) for photograph, image in _photographs() for name, tile in _tiles(photograph, image)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        partial = path.with_suffix(".partial")
        with tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as container:
            for name, data in members[number::SHARDS]:
                member = tarfile.TarInfo(f"{name}.png")
                member.size = len(data)
                container.addfile(member, io.BytesIO(data))
        os.replace(partial, path)


def _photographs() -> Iterator[tuple[str, Image.Image]]:
    for package, names in PHOTOGRAPHS.items():
        try:
            folder = files(package)
        except ModuleNotFoundError as error:
            raise InputError("the sample photographs need the extra 'demo': pip install 'topnine[demo]'.") from error
        for name in names:
            with Image.open(io.BytesIO((folder / name).read_bytes())) as image:
                yield Path(name).stem.replace("_", "-"), image.convert("RGB")


def _tiles(photograph: str, image: Image.Image) -> list[tuple[str, Image.Image]]:
    """Cut a photograph without overlap at every scale, and keep at most forty, spread over scales and places."""
    grids = [list(_grid(image, scale)) for scale in SCALES]
    share = _shares([len(grid) for grid in grids], TILES_A_PHOTOGRAPH)
    kept = [grid[i * len(grid) // n] for grid, n in zip(grids, share, strict=True) for i in range(n)]
    return [(f"{photograph}-{scale}-{row}-{column}", tile) for scale, row, column, tile in kept]


def _shares(available: list[int], total: int) -> list[int]:
    """Share a total out evenly, none getting more than it has.

    >>> _shares([1000, 20, 4], 40)
    [18, 18, 4]
    """
    order = chain.from_iterable(zip_longest(*([i] * n for i, n in enumerate(available))))
    taken = [i for i in order if i is not None][:total]
    return [taken.count(i) for i in range(len(available))]


def _grid(image: Image.Image, scale: int) -> Iterator[tuple[int, int, int, Image.Image]]:
    small = image.resize((image.width // scale, image.height // scale), Image.Resampling.LANCZOS)
    for row in range(small.height // TILE):
        for column in range(small.width // TILE):
            left, top = column * TILE, row * TILE
            yield scale, row, column, small.crop((left, top, left + TILE, top + TILE))


def _png(tile: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tile.save(buffer, "PNG")
    return buffer.getvalue()
