import pytest

from tests.conftest import encode, noise, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Shard
from topnine.pipeline.errors import InputError


def test_shards_are_in_natural_order(tmp_path):
    for name in ("s-10.tar", "s-9.tar", "s-1.tar"):
        write_tar(tmp_path / name, [])
    assert [shard.name for shard in find_dataset(str(tmp_path)).shards] == ["s-1.tar", "s-9.tar", "s-10.tar"]


@pytest.mark.parametrize("name", ["nothing", "empty", "file.docx", "nothing-{0..3}.tar", "nothing*.tar", "x.folder"])
def test_no_data_is_one_sentence(tmp_path, name):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.docx").write_text("x")
    (tmp_path / "x.folder").write_text("x")
    with pytest.raises(InputError, match=r"there is no data at|holds no shards|is no shard"):
        find_dataset(str(tmp_path / name))


@pytest.mark.parametrize("name", ["a.tar.gz", "a.tgz"])
def test_a_compressed_tar_is_refused_alone_and_in_a_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    for path in (tmp_path, tmp_path / name):
        with pytest.raises(InputError, match="is compressed, so an image in it cannot be sought: gunzip it first"):
            find_dataset(str(path))


def test_shards_are_named_by_folder_pattern_range_and_list(tmp_path):
    for number in range(8, 12):
        write_tar(tmp_path / f"s-{number:03d}.tar", [])
    (tmp_path / "list.txt").write_text(f"# half\n{tmp_path}/s-009.tar\n\n{tmp_path}/s-01{{0..1}}.tar\n")

    def names(path):
        return [shard.name for shard in find_dataset(str(tmp_path / path)).shards]

    every = ["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"]
    assert names("") == names("s-*.tar") == names("s-{008..011}.tar") == names("s-0{08,09,10,11}.tar") == every
    assert names("list.txt") == every[1:]


@pytest.mark.parametrize(("path", "name"), [("s-{008..008}.tar", "s"), ("s-008.tar", "s-008"), ("s-*", "s"), ("", "d")])
def test_a_dataset_is_named_after_its_path_unless_it_is_given_a_name(tmp_path, path, name):
    write_tar(tmp_path / "d/s-008.tar", [])
    assert find_dataset(str(tmp_path / "d" / path)).name == name
    assert find_dataset(str(tmp_path / "d" / path), "mine").name == "mine"


def test_class_folders_are_shards_where_they_hold_images(tmp_path):
    for name in ("cat/1.png", "cat/2.jpg", "dog/1.png", ".hidden/1.png", "top.png", "empty/x.txt"):
        (tmp_path / "d" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "d" / name).write_bytes(encode(noise(1)))
    shards = find_dataset(str(tmp_path / "d")).shards
    assert [(shard.name, shard.form, shard.size, shard.class_name) for shard in shards] == [
        ("cat", "folder", 2, "cat"),
        ("d", "folder", 1, ""),
        ("dog", "folder", 1, "dog"),
    ]


def test_a_shard_is_described_as_it_is_on_the_disk(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("1.png", encode(noise(1)))])
    status = path.stat()
    expected = Shard("a.tar", str(path), "tar", status.st_size, status.st_mtime)
    assert find_dataset(str(path)).shards == (expected,)
