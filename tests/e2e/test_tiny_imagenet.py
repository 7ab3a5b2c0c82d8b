"""Tiny-ImageNet as it comes out of its zip: the layout of its training set and that of its validation set."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.labels import assign, read_classes
from topnine.pipeline.data.listing import join
from topnine.pipeline.data.reader import list_images, open_reader

CLASSES, IMAGES = 200, 10_000
BOX = "0\t0\t63\t63"


def read(path) -> tuple[list[bytes], np.ndarray]:
    """Return the bytes and the labels of a dataset's images."""
    dataset = find_dataset(str(path))
    index = join(dataset, [list_images(shard) for shard in dataset.shards])
    rows = zip(index.shard.tolist(), index.offset.tolist(), index.size.tolist(), index.key, strict=True)
    with open_reader(dataset) as reader:
        return [reader.read(*row) for row in rows], assign(index, None)


@pytest.fixture(scope="module")
def expected(test_data) -> Counter:
    """The images, each with its label, as the shards have them: how accurate tiny_zfnet is there, a test measures."""
    return Counter(zip(*map(list, read(test_data / "data/tiny-imagenet-val")), strict=True))


@pytest.fixture(scope="module")
def wnids(test_data) -> list[str]:
    index = read_classes(str(test_data / "data/tiny-imagenet-classes.tsv")).index
    return sorted(index, key=index.__getitem__)


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def test_training_images_have_the_class_of_their_folders(expected, wnids, tmp_path):
    assert len(wnids) == CLASSES
    boxes = dict.fromkeys(wnids, "")
    for number, (image, label) in enumerate(expected.elements()):
        name = f"{wnids[label]}_{number}.JPEG"
        write(tmp_path / "train" / wnids[label] / "images" / name, image)
        boxes[wnids[label]] += f"{name}\t{BOX}\n"
    for wnid, lines in boxes.items():
        write(tmp_path / "train" / wnid / f"{wnid}_boxes.txt", lines)
    found = Counter(zip(*map(list, read(tmp_path / "train")), strict=True))
    assert (found.total(), found) == (IMAGES, expected)


def test_validation_images_have_the_class_that_the_annotations_name(expected, wnids, tmp_path):
    lines = ""
    for number, (image, label) in enumerate(expected.elements()):
        write(tmp_path / f"val/images/val_{number}.JPEG", image)
        lines += f"val_{number}.JPEG\t{wnids[label]}\t{BOX}\n"
    write(tmp_path / "val/val_annotations.txt", lines)
    found = Counter(zip(*map(list, read(tmp_path / "val")), strict=True))
    assert (found.total(), found) == (IMAGES, expected)
