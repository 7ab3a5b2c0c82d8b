import os

from tests.conftest import encode, noise
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Dataset
from topnine.pipeline.data.forms.folder import describe_images, list_images
from topnine.pipeline.data.reader import open_reader


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
