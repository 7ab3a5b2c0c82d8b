import io
import tarfile

import pytest

from pipeline import shards
from pipeline.errors import InputError
from pipeline.shards import Dataset, Shard, photos
from tests.conftest import encode, noise, write_tar


def test_images_are_listed_in_container_order_with_their_labels(tmp_path):
    one, two = encode(noise(1)), encode(noise(2), "JPEG")
    path = write_tar(
        tmp_path / "a.tar",
        [("x/b.png", one), ("x/b.cls", b"7\n"), ("x/readme.txt", b"no"), ("c.JPEG", two), ("x/.hidden.png", one)],
    )
    dataset = shards.find(str(path))
    entries = shards.scan(dataset, 0)
    assert [(entry.key, entry.folder, entry.label) for entry in entries] == [("b", "x", 7), ("c", ".", -1)]
    with shards.opened(dataset) as reader:
        assert [reader.read(0, entry.offset, entry.size) for entry in entries] == [one, two]


def test_shards_are_in_natural_order(tmp_path):
    for name in ("s-10.tar", "s-9.tar", "s-1.tar"):
        write_tar(tmp_path / name, [])
    assert [shard.name for shard in shards.find(str(tmp_path)).shards] == ["s-1.tar", "s-9.tar", "s-10.tar"]


def test_keys_that_repeat_take_their_folder(tmp_path):
    image = encode(noise(1))
    path = write_tar(tmp_path / "a.tar", [("cat/1.png", image), ("dog/1.png", image), ("dog/2.png", image)])
    entries = shards.scan(shards.find(str(path)), 0)
    assert shards.unique_keys(entries) == ["cat/1", "dog/1", "2"]
    with pytest.raises(InputError, match="occur more than once, 'cat/1' is one"):
        shards.unique_keys([*entries, entries[0]])


@pytest.mark.parametrize("damage", [lambda data: data[:700], lambda data: b"x" * 2048, lambda data: b""])
def test_a_damaged_tar_is_named(tmp_path, damage):
    path = write_tar(tmp_path / "a.tar", [("1.png", encode(noise(1))), ("2.png", encode(noise(2)))])
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"shard .*a\.tar cannot be read as a tar"):
        shards.scan(shards.find(str(path)), 0)


def test_a_label_that_is_no_number_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.png", encode(noise(1))), ("1.cls", b"cat")])
    with pytest.raises(InputError, match=r"member 1\.cls holds b'cat'"):
        shards.scan(shards.find(str(path)), 0)


def test_a_read_past_the_end_says_so(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"12345")
    with (
        shards.opened(Dataset("a", str(tmp_path), (Shard("a.tar", 5, 0.0),))) as reader,
        pytest.raises(OSError, match=r"shard a\.tar is truncated"),
    ):
        reader.read(0, 3, 10)


@pytest.mark.parametrize("name", ["nothing", "empty", "file.txt"])
def test_no_data_is_one_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    with pytest.raises(InputError, match=r"no data at|holds no \.tar shards"):
        shards.find(str(tmp_path / name))


def test_photographs_are_tiles_of_96_pixels_at_most_forty_each_always_the_same(photo_shards, tmp_path):
    photos.write_shards(tmp_path)
    counts: dict[str, int] = {}
    scales = set()
    for path in sorted(photo_shards.glob("*.tar")):
        assert path.read_bytes() == (tmp_path / path.name).read_bytes()
        with tarfile.open(path) as container:
            for member in container:
                photograph, scale, _row, _column = member.name.removesuffix(".png").rsplit("-", 3)
                counts[photograph] = counts.get(photograph, 0) + 1
                scales.add(int(scale))
                with photos.Image.open(io.BytesIO(container.extractfile(member).read())) as tile:
                    assert (tile.size, tile.mode) == ((96, 96), "RGB")
    assert len(counts) == 18
    assert scales == {1, 2, 4}
    assert max(counts.values()) <= photos.TILES_A_PHOTOGRAPH
    assert min(counts.values()) >= 10
