import io
import os
import tarfile
from contextlib import closing

import numpy as np
import pytest
import tifffile
from PIL import Image

from tests.conftest import encode, noise, write_tar
from topnine.pipeline.data.forms.tar import OpenTar
from topnine.pipeline.errors import InputError, WorkError
from topnine.stages.tools.pack import Packing, pack, safe_name

IMAGE = encode(noise(0))  # 27 KB, so that 60 of them are more than a shard of 1 MiB


@pytest.fixture
def data(tmp_path):
    return str(write_tar(tmp_path / "data/a.tar", [(f"{i:02d}.png", IMAGE) for i in range(60)]))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def members(path):
    with tarfile.open(path) as container:
        return {member.name: container.extractfile(member).read() for member in container}


def test_shards_are_filled_up_to_their_size_and_hold_every_image_in_order(data, tmp_path):
    progress = list(pack(data, tmp_path / "out", Packing(shard_mib=1)))
    assert [step.done for step in progress] == list(range(61))
    assert names(tmp_path / "out") == ["a-000000.tar", "a-000001.tar"]
    first, second = (members(tmp_path / "out" / name) for name in names(tmp_path / "out"))
    assert list({**first, **second}) == [f"{i:02d}.png" for i in range(60)]
    assert len(first) == 2**20 // len(IMAGE)
    assert set(first.values()) | set(second.values()) == {IMAGE}


def test_images_are_shrunk_to_their_shortest_side_and_never_enlarged(tmp_path):
    images = [("large.png", encode(noise(0, 90, 120))), ("small.png", encode(noise(1, 20, 30)))]
    list(pack(str(write_tar(tmp_path / "a.tar", images)), tmp_path / "out", Packing(resize=45)))
    packed = members(tmp_path / "out/a-000000.tar")
    sizes = {name: Image.open(io.BytesIO(content)).size for name, content in packed.items()}
    assert sizes == {"large.jpg": (60, 45), "small.jpg": (30, 20)}


def test_damaged_images_are_left_out_where_they_are_decoded(tmp_path):
    path = write_tar(tmp_path / "a.tar", [("a.png", IMAGE), ("b.png", b"no image"), ("c.png", IMAGE)])
    list(pack(str(path), tmp_path / "out", Packing(resize=45)))
    assert list(members(tmp_path / "out/a-000000.tar")) == ["a.jpg", "c.jpg"]


def test_a_read_that_fails_ends_the_packing_without_a_partial_shard(data, tmp_path, monkeypatch):
    read = OpenTar.read

    def fail_later(self, offset, size, key):
        if offset + size > 50 * len(IMAGE):
            raise OSError("the bucket is gone.")
        return read(self, offset, size, key)

    monkeypatch.setattr(OpenTar, "read", fail_later)
    with pytest.raises(WorkError, match=rf"packing ended early: the bucket is gone\. Delete what is in {tmp_path}"):
        list(pack(data, tmp_path / "out", Packing(shard_mib=1)))
    assert names(tmp_path / "out") == ["a-000000.tar"]


def test_a_full_disk_ends_the_packing_without_a_partial_shard(data, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WorkError, match="No space left on device"):
        list(pack(data, tmp_path / "out", Packing(shard_mib=1)))
    assert names(tmp_path / "out") == []


def test_a_packing_that_is_interrupted_leaves_no_partial_shard(data, tmp_path):
    with closing(pack(data, tmp_path / "out", Packing())) as running:
        for progress in running:
            if progress.done == 10:
                break
        assert names(tmp_path / "out") == ["a-000000.partial"]
    assert names(tmp_path / "out") == []


def test_a_folder_that_is_not_empty_is_refused(data, tmp_path):
    for folder in (tmp_path, tmp_path / "data/a.tar"):
        with pytest.raises(InputError, match="is not an empty folder"):
            list(pack(data, folder, Packing()))


@pytest.mark.parametrize(
    ("key", "name"),
    [("a/b", "a/b"), ("/etc/passwd", "etc/passwd"), ("../../a", "a"), ("a\0b", "a_b"), ("a/.b", "_a/.b"), ("", "_")],
)
def test_names_stay_in_the_folder_into_which_a_shard_is_extracted(key, name):
    assert safe_name(key) == name


def test_the_suffix_says_what_the_bytes_are(tmp_path):
    images = {form: encode(noise(0, 32, 32), form) for form in ("JPEG", "PNG", "WEBP")}
    source = write_tar(tmp_path / "a.tar", [(f"{form}.jpg", content) for form, content in images.items()])
    list(pack(str(source), tmp_path / "out", Packing()))
    assert members(tmp_path / "out/a-000000.tar") == {
        "JPEG.jpg": images["JPEG"], "PNG.png": images["PNG"], "WEBP.webp": images["WEBP"],
    }  # fmt: skip


@pytest.mark.parametrize("form", [".tif", ".npy", ".png"])
def test_deep_images_are_packed_as_they_are_and_not_shrunk(tmp_path, form):
    values, buffer = np.arange(30 * 40, dtype=np.uint16).reshape(30, 40) * 50, io.BytesIO()
    if form == ".npy":
        np.save(buffer, values)
    elif form == ".tif":
        tifffile.imwrite(buffer, values)
    else:
        Image.fromarray(values).save(buffer, "PNG")
    write_tar(tmp_path / "a.tar", [(f"a{form}", buffer.getvalue())])
    for _ in pack(str(tmp_path / "a.tar"), tmp_path / "kept", Packing()):
        pass
    with tarfile.open(next((tmp_path / "kept").glob("*.tar"))) as packed:
        assert packed.getnames() == [f"a{form}"]
        assert packed.extractfile(f"a{form}").read() == buffer.getvalue()
    with pytest.raises(InputError, match="cannot be shrunk to JPEG: pack them without --resize"):
        for _ in pack(str(tmp_path / "a.tar"), tmp_path / "shrunk", Packing(resize=20)):
            pass
