import io
import tarfile
from collections import Counter

from PIL import Image

from topnine.pipeline.data import photos


def test_photographs_are_tiles_of_96_pixels_at_most_forty_each_always_the_same(photo_shards, tmp_path):
    photos.write_shards(tmp_path)
    counts = Counter()
    scales = set()
    for path in sorted(photo_shards.glob("*.tar")):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
        with tarfile.open(path) as container:
            for member in container:
                photograph, scale, _row, _column = member.name.removesuffix(".png").rsplit("-", 3)
                counts[photograph] += 1
                scales.add(int(scale))
                with Image.open(io.BytesIO(container.extractfile(member).read())) as tile:
                    assert (tile.size, tile.mode) == ((96, 96), "RGB")
    assert len(counts) == 18
    assert scales == {1, 2, 4}
    assert max(counts.values()) <= photos.TILES_A_PHOTOGRAPH
    assert min(counts.values()) >= 10


def test_shards_that_are_there_are_not_written_again(tmp_path):
    paths = [tmp_path / f"photos-{number:06d}.tar" for number in range(photos.SHARDS)]
    for path in paths:
        path.write_bytes(b"kept")
    photos.write_shards(tmp_path)
    assert [path.read_bytes() for path in paths] == [b"kept"] * photos.SHARDS
