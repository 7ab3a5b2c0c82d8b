"""The sample photographs: those that scikit-image and scikit-learn ship are cut into tiles, and written as shards."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from importlib.resources import files
from itertools import chain, zip_longest
from pathlib import Path

from PIL import Image

from ..durable import replacing
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
TILE_PX = 96
SCALES = (1, 2, 4)  # a photograph is cut at its own size, at a half and at a quarter of it
TILES_A_PHOTOGRAPH = 40  # at most
SHARDS = 4


def write_shards(folder: Path) -> None:
    """Write the tiles as tar shards into a folder, always the same bytes; nothing is written if all shards are there.

    Members are ``<photograph>-<scale>-<row>-<column>.png``; the scale is the number that the photograph's size was
    divided by, row and column count tiles.
    """
    paths = [folder / f"photos-{number:06d}.tar" for number in range(SHARDS)]
    if all(path.is_file() for path in paths):
        return
    members = [(name, _png(tile)) for photograph, image in _photographs() for name, tile in _tiles(photograph, image)]
    folder.mkdir(parents=True, exist_ok=True)
    for number, path in enumerate(paths):
        with (
            replacing(path) as partial,
            tarfile.open(partial, "w", format=tarfile.USTAR_FORMAT) as container,
        ):
            for name, data in members[number::SHARDS]:
                member = tarfile.TarInfo(f"{name}.png")
                member.size = len(data)
                container.addfile(member, io.BytesIO(data))


def _photographs() -> Iterator[tuple[str, Image.Image]]:
    """Yield every photograph's name and pixels; InputError if a package is not installed."""
    for package, names in PHOTOGRAPHS.items():
        try:
            folder = files(package)
        except ModuleNotFoundError as error:
            raise InputError("the sample photographs need the extra 'demo': pip install 'topnine[demo]'.") from error
        for name in names:
            with Image.open(io.BytesIO((folder / name).read_bytes())) as image:
                yield Path(name).stem.replace("_", "-"), image.convert("RGB")


def _tiles(photograph: str, image: Image.Image) -> list[tuple[str, Image.Image]]:
    """Cut a photograph into tiles at every scale; of more than forty, keep forty from everywhere in it."""
    grids = [list(_grid(image, scale)) for scale in SCALES]
    counts = _share([len(grid) for grid in grids], TILES_A_PHOTOGRAPH)
    kept = [grid[i * len(grid) // count] for grid, count in zip(grids, counts, strict=True) for i in range(count)]
    return [(f"{photograph}-{scale}-{row}-{column}", tile) for scale, row, column, tile in kept]


def _share(available: list[int], total: int) -> list[int]:
    """Return how many to take of each, as evenly as what is available allows, so that they add up to a total.

    >>> _share([1000, 20, 4], 40)
    [18, 18, 4]
    """
    order = chain.from_iterable(zip_longest(*([i] * n for i, n in enumerate(available))))
    taken = [i for i in order if i is not None][:total]
    return [taken.count(i) for i in range(len(available))]


def _grid(image: Image.Image, scale: int) -> Iterator[tuple[int, int, int, Image.Image]]:
    """Yield scale, row, column and pixels of a photograph's tiles at a scale; they do not overlap."""
    small = image.resize((image.width // scale, image.height // scale), Image.Resampling.LANCZOS)
    for row in range(small.height // TILE_PX):
        for column in range(small.width // TILE_PX):
            left, top = column * TILE_PX, row * TILE_PX
            yield scale, row, column, small.crop((left, top, left + TILE_PX, top + TILE_PX))


def _png(tile: Image.Image) -> bytes:
    buffer = io.BytesIO()
    tile.save(buffer, "PNG")
    return buffer.getvalue()
