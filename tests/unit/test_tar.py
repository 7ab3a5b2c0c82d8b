import gzip

import pytest

from tests.conftest import encode, noise, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Shard
from topnine.pipeline.data.forms.tar import list_images
from topnine.pipeline.data.reader import open_reader
from topnine.pipeline.errors import InputError


def list_tar(path):
    return list_images(Shard(path.name, str(path), "tar", path.stat().st_size, 0.0))


def test_images_are_listed_in_container_order_with_their_labels(tmp_path):
    one, two = encode(noise(1)), encode(noise(2), "JPEG")
    path = write_tar(
        tmp_path / "a.tar",
        [("x/b.png", one), ("x/b.cls", b"7\n"), ("x/readme.txt", b"no"), ("c.JPEG", two), ("x/.hidden.png", one)],
    )
    entries = list_tar(path)
    assert [(entry.key, entry.folder, entry.label) for entry in entries] == [("b", "x", 7), ("c", ".", -1)]
    with open_reader(find_dataset(str(path))) as reader:
        assert [reader.read(0, entry.offset, entry.size, entry.key) for entry in entries] == [one, two]


@pytest.mark.parametrize(
    ("content", "label"),
    [
        (b"3", 3),
        (b'{"label": 4}', 4),
        (b'{"cls": 5, "x": 1}', 5),
        (b'{"x": 1}', -1),
        (b'"6"', 6),
        (b'{"label": 3.0}', 3),
        (b'"-1"', -1),
        (b'"+2"', 2),
    ],
)
def test_labels_are_read_from_json(tmp_path, content, label):
    path = write_tar(tmp_path / "a.tar", [("1.png", encode(noise(1))), ("1.json", content)])
    assert [entry.label for entry in list_tar(path)] == [label]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("1.cls", b"\0"),
        ("1.cls", b""),
        ("1.cls", b"3.5"),
        ("1.json", b"3.5"),
        ("1.json", b"{"),
        ("1.json", b"[1]"),
        ("1.json", b"[" * 60_000),
    ],
)
def test_a_label_that_is_no_number_is_named(tmp_path, name, content):
    path = write_tar(tmp_path / "a.tar", [("1.png", encode(noise(1))), (name, content)])
    with pytest.raises(InputError) as error:
        list_tar(path)
    assert f"member {name} holds {content[:32]!r}, expected a class index or the name of a class" in str(error.value)


@pytest.mark.parametrize("order", [("cls", "json"), ("json", "cls")])
@pytest.mark.parametrize("record", [b'{"width": 80}', b'{"label": 3}', b'{"label": null}'])
def test_a_cls_counts_wherever_a_json_stands_beside_it(tmp_path, order, record):
    content = {"cls": b"7", "json": record}
    members = [("0.png", encode(noise(1))), *((f"0.{suffix}", content[suffix]) for suffix in order)]
    for listed in (members, members[1:] + members[:1]):
        assert [entry.label for entry in list_tar(write_tar(tmp_path / "a.tar", listed))] == [7]


def test_labels_may_be_names_of_classes(tmp_path):
    labels = [("cls", b"n01440764\n"), ("json", b'{"cls": "tabby cat"}'), ("cls", b"5")]
    members = [
        (f"x/{i}.{suffix}", data)
        for i, label in enumerate(labels)
        for suffix, data in (("png", encode(noise(i))), label)
    ]
    entries = list_tar(write_tar(tmp_path / "a.tar", members))
    found = [(entry.folder, entry.label, entry.class_name) for entry in entries]
    assert found == [("x", -1, "n01440764"), ("x", -1, "tabby cat"), ("x", 5, "")]


def test_tars_that_were_joined_are_one(tmp_path):
    parts = [write_tar(tmp_path / f"{name}.tar", [(f"{name}.png", encode(noise(i)))]) for i, name in enumerate("ab")]
    joined = tmp_path / "joined.tar"
    joined.write_bytes(b"".join(part.read_bytes() for part in parts))
    assert [entry.key for entry in list_tar(joined)] == ["a", "b"]


def test_what_is_no_tar_or_a_compressed_one_is_refused(tmp_path):
    whole = write_tar(tmp_path / "whole.tar", [("1.png", b"x")]).read_bytes()
    for content, words in ((b"x" * 1024, "is not a tar"), (b"", "is not a tar"), (gzip.compress(whole), "compressed")):
        (tmp_path / "a.tar").write_bytes(content)
        with pytest.raises(InputError, match=words):
            list_tar(tmp_path / "a.tar")
