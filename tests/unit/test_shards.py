import io
import os
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
    entries = shards.scan(dataset.shards[0])
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
    entries = [("s.tar", entry) for entry in shards.scan(shards.find(str(path)).shards[0])]
    assert shards.unique_keys(entries) == ["cat/1", "dog/1", "2"]
    assert shards.unique_keys([*entries, ("t.tar", entries[0][1])])[::3] == ["s/cat/1", "t/cat/1"]
    assert shards.unique_keys([*entries, entries[0]])[::3] == ["s/cat/1", "s/cat/1#2"]


def test_a_label_that_is_no_number_is_named(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.png", encode(noise(1))), ("1.cls", b"cat")])
    with pytest.raises(InputError, match=r"member 1\.cls holds b'cat'"):
        shards.scan(shards.find(str(path)).shards[0])


def test_a_read_past_the_end_says_so(tmp_path):
    path = tmp_path / "a.tar"
    path.write_bytes(b"12345")
    with (
        shards.opened(Dataset("a", (Shard("a.tar", str(path), "tar", 5, 0.0),))) as reader,
        pytest.raises(OSError, match=r"shard a\.tar is truncated"),
    ):
        reader.read(0, 3, 10)


@pytest.mark.parametrize("name", ["nothing", "empty", "file.docx", "nothing-{0..3}.tar", "nothing*.tar"])
def test_no_data_is_one_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.docx").write_text("x")
    with pytest.raises(InputError, match=r"there is no data at|holds no shards|is no shard"):
        shards.find(str(tmp_path / name))


def test_odd_files_in_a_folder_are_left_out_or_named_readably(tmp_path):
    image = encode(noise(1))
    (tmp_path / "good.png").write_bytes(image)
    (tmp_path / "²1.png").write_bytes(image)
    (tmp_path / os.fsdecode(b"b\xff.png")).write_bytes(image)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    os.mkfifo(tmp_path / "pipe.png")
    (shard,) = shards.find(str(tmp_path)).shards
    entries = shards.scan(shard)
    assert [entry.key for entry in entries] == ["b\\xff", "good", "²1"]
    with shards.opened(Dataset("a", (shard,))) as reader:
        assert all(reader.read(0, entry.offset, entry.size) == image for entry in entries)


@pytest.mark.parametrize("pattern", ["{0..999999999}.tar", "{0..9}{0..9999999}.tar", "{" + "9" * 5000 + "..1}.tar"])
def test_a_pattern_that_stands_for_too_much_is_refused_at_once(tmp_path, pattern):
    with pytest.raises(InputError, match=r"stands for more than 1,000,000 shards|there is no data at"):
        shards.find(f"{tmp_path}/{pattern}")


def test_shards_are_named_by_folder_pattern_range_and_list(tmp_path):
    for number in range(8, 12):
        write_tar(tmp_path / f"s-{number:03d}.tar", [])
    (tmp_path / "list.txt").write_text(f"# half\n{tmp_path}/s-009.tar\n\n{tmp_path}/s-01{{0..1}}.tar\n")

    def names(path):
        return [shard.name for shard in shards.find(str(tmp_path / path)).shards]

    every = ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert names("") == names("s-*.tar") == names("s-{008..011}.tar") == names("s-0{08,09,10,11}.tar") == every
    assert names("list.txt") == every[1:]
    assert shards.find(str(tmp_path / "s-{008..011}.tar")).name == "s"


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
