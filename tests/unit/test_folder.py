import os

import pytest
from torchvision.datasets import ImageFolder

from tests.conftest import encode, noise, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Dataset
from topnine.pipeline.data.forms.folder import describe_images, list_images
from topnine.pipeline.data.keys import unique_keys
from topnine.pipeline.data.labels import assign
from topnine.pipeline.data.listing import join
from topnine.pipeline.data.reader import open_reader
from topnine.pipeline.errors import InputError


def test_odd_files_in_a_folder_are_left_out_or_named_readably(tmp_path):
    image = encode(noise(1))
    (tmp_path / "good.png").write_bytes(image)
    (tmp_path / "²1.png").write_bytes(image)
    (tmp_path / os.fsdecode(b"b\xff.png")).write_bytes(image)
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    (tmp_path / ".hidden.png").write_bytes(image)
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "notes.txt").write_bytes(image)
    os.mkfifo(tmp_path / "pipe.png")
    (shard,) = find_dataset(str(tmp_path)).shards
    entries = list_images(shard)
    assert [entry.key for entry in entries] == ["b\\xff", "good", "²1"]
    assert describe_images(str(tmp_path))[0] == shard.size == 3
    with open_reader(Dataset("a", (shard,))) as reader:
        assert all(reader.read(0, entry.offset, entry.size, entry.key) == image for entry in entries)


def test_a_class_folder_says_its_class_and_a_plain_one_does_not(tmp_path):
    for name in ("1.JPEG", "cat/2.webp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    plain, cat = sorted(find_dataset(str(tmp_path)).shards, key=lambda shard: shard.class_name)
    assert [(entry.key, entry.folder, entry.class_name) for entry in list_images(plain)] == [("1", ".", "")]
    assert [(entry.key, entry.folder, entry.class_name) for entry in list_images(cat)] == [("2", "cat", "cat")]


def test_a_folder_is_as_new_as_the_newest_of_its_images(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.png").write_bytes(b"x")
        os.utime(tmp_path / f"{number}.png", (9e9 + number % 2,) * 2)
    assert describe_images(str(tmp_path)) == (3, 9e9 + 1)
    assert find_dataset(str(tmp_path)).shards[0].modified == 9e9 + 1
    os.utime(tmp_path / "1.png", (1, 1))
    os.utime(tmp_path / "2.png", (1, 1))
    os.utime(tmp_path / "0.png", (1, 1))
    assert find_dataset(str(tmp_path)).shards[0].modified == tmp_path.stat().st_mtime


IMAGES = ("a/1.jpg", "a/sub/2.JPG", "a/sub-x/0.png", "a/sub/deep/1.ppm", "a/10.jpeg", "b/1.bmp", "b/2.pgm", "c/1.webp")


def test_class_folders_are_read_as_torchvision_reads_them(tmp_path):
    for name in (*IMAGES, "a/notes.txt", "b/.hidden/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    (tmp_path / "b/.hidden/1.jpg").unlink()  # torchvision takes hidden ones, too
    dataset = find_dataset(str(tmp_path))
    index = join(dataset, [list_images(shard) for shard in dataset.shards])
    labels = assign(index, None)
    with open_reader(dataset) as reader:
        rows = zip(index.shard.tolist(), index.offset.tolist(), index.size.tolist(), index.key, strict=True)
        found = [(str(tmp_path / reader.read(*row).decode()), label) for row, label in zip(rows, labels, strict=True)]
    assert found == [(path, label) for path, label in ImageFolder(str(tmp_path)).samples]
    assert len(set(unique_keys(index))) == len(IMAGES)


def test_a_link_in_a_circle_is_not_followed(tmp_path):
    (tmp_path / "a/sub").mkdir(parents=True)
    (tmp_path / "a/sub/1.png").write_bytes(b"x")
    (tmp_path / "a/sub/back").symlink_to(tmp_path / "a")
    (shard,) = find_dataset(str(tmp_path)).shards
    assert [entry.key for entry in list_images(shard)] == ["1"]


def test_a_class_folder_is_as_new_as_the_folders_in_it(tmp_path):
    (tmp_path / "a/sub").mkdir(parents=True)
    (tmp_path / "a/sub/1.png").write_bytes(b"x")
    os.utime(tmp_path / "a/sub", (9e9, 9e9))
    assert find_dataset(str(tmp_path)).shards[0].modified == 9e9


@pytest.mark.parametrize("stray", ["notes.tar", "more.parquet"])
def test_what_lies_beside_class_folders_is_not_used_and_named(tmp_path, stray):
    for name in ("a/1.png", "b/1.png", stray):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "empty").mkdir()
    dataset = find_dataset(str(tmp_path))
    assert [shard.name for shard in dataset.shards] == ["a", "b"]
    assert dataset.unused == (stray, "empty")


def test_shards_beside_a_folder_are_meant_where_they_are_more(tmp_path):
    for number in range(3):
        write_tar(tmp_path / f"{number}.tar", [("a.png", encode(noise(1)))])
    (tmp_path / "thumbnails").mkdir()
    (tmp_path / "thumbnails/1.png").write_bytes(b"x")
    dataset = find_dataset(str(tmp_path))
    assert [shard.name for shard in dataset.shards] == ["0.tar", "1.tar", "2.tar"]
    assert dataset.unused == ("thumbnails",)


def test_tiny_imagenets_validation_images_have_the_classes_that_stand_beside_them(tmp_path):
    (tmp_path / "val/images").mkdir(parents=True)
    for number in range(3):
        (tmp_path / f"val/images/val_{number}.JPEG").write_bytes(b"x")
    lines = "val_0.JPEG\tn02\t0\t32\t44\t62\nval_2.JPEG\tn01\t0\t0\t9\t9\nval_9.JPEG\tn03\t0\t0\t9\t9\n"
    (tmp_path / "val/val_annotations.txt").write_text(lines)
    dataset = find_dataset(str(tmp_path / "val"))
    index = join(dataset, [list_images(shard) for shard in dataset.shards])
    assert list(index.key) == ["val_0", "val_1", "val_2"]
    assert assign(index, None).tolist() == [1, -1, 0]
    (tmp_path / "val/val_annotations.txt").write_text("val_0.JPEG n02\n")
    with pytest.raises(InputError, match=r"expected a file name and a class, tab by tab, found 'val_0\.JPEG n02'"):
        list_images(dataset.shards[0])
