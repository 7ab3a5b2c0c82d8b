"""Hostile and odd input: what it is counted as, and which sentence says so."""

import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pyarrow as arrow
import pytest
from PIL import Image
from pyarrow import parquet

from tests.conftest import REPOSITORY, encode, noise, run_stages, write_tar
from tests.conftest import decode_at as decode
from tests.e2e.test_commands import topnine
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.reader import list_images
from topnine.pipeline.errors import DecodeError, InputError, WorkError
from topnine.pipeline.store.store import Store
from topnine.stages.tools.pack import Packing, pack
from topnine.stages.tools.plan import estimate


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


SMOOTH = Image.fromarray(noise(1, 4, 4)).resize((120, 100), Image.Resampling.BICUBIC)


def difference(data: bytes, expected: Image.Image = SMOOTH) -> float:
    reference = decode(saved(expected.convert("RGB"), "PNG"), 96, 96).pixels.astype(int)
    return np.abs(decode(data, 96, 96).pixels - reference).mean()


@pytest.mark.parametrize("format", ["PNG", "WEBP", "GIF", "BMP"])
def test_bytes_count_not_names(format):
    assert difference(saved(SMOOTH, format)) < 12


def test_cmyk_and_ycck_jpegs_have_their_right_colours():
    cmyk = SMOOTH.convert("CMYK")
    assert difference(saved(cmyk, "JPEG", quality=95)) < 4


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "1"])
def test_every_mode_of_png(mode):
    assert difference(saved(SMOOTH.convert(mode), "PNG"), SMOOTH.convert(mode)) < 3


def test_sixteen_bits_are_scaled_not_clipped():
    grey = np.asarray(SMOOTH.convert("L")).astype(np.uint16)
    data = saved(Image.fromarray(grey * 257), "PNG")
    with pytest.raises(DecodeError, match=r"values of more than 8 bits: data\.range says which"):
        decode(data, 96, 96)
    found = decode(data, 96, 96, range=((0, 65535),)).pixels
    assert np.array_equal(found, decode(saved(SMOOTH.convert("L"), "PNG"), 96, 96).pixels)


def test_orientation_in_exif_is_ignored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert difference(saved(SMOOTH, "JPEG", quality=95, exif=exif)) < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (3, 2)])
def test_the_oddest_shapes_are_decoded(size):
    assert decode(saved(Image.new("RGB", size, (9, 99, 199)), "PNG"), 256, 224).pixels.mean(axis=(0, 1)).tolist() == [
        9, 99, 199,
    ]  # fmt: skip


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred kB that holds 30,000 x 30,000 pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    pixels = zlib.compress(b"\0" * 100_000_000, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_a_bomb_is_refused_before_its_pixels_are_allocated():
    script = (
        "import sys; from tests.conftest import decode_at as decode; from topnine.pipeline.errors import DecodeError\n"
        "from tests.conftest import peak_kib\n"
        "data = sys.stdin.buffer.read(); before = peak_kib()\n"
        "try: decode(data, 256, 224, int(sys.argv[1]))\n"
        "except DecodeError as error: print(error)\n"
        "print(peak_kib() - before)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, "178956970"],
        input=bomb(30_000, 30_000),
        capture_output=True,
        cwd=REPOSITORY,
        check=True,
    )
    reason, kib = found.stdout.decode().splitlines()
    assert reason == "30000 x 30000 pixels are more than 178956970"
    assert int(kib) < 50_000


def test_the_limit_of_pixels_can_be_set():
    with pytest.raises(DecodeError, match="120 x 100 pixels are more than 11999"):
        decode(saved(SMOOTH, "PNG"), 96, 96, max_pixels=11_999)


def mined(planned, path, **changes):
    plan = planned(data__path=path, mine__layers="1", **changes)
    run_stages(plan, "index", "mine", "rank")
    keys, status, reason = Store.open(plan.config.store).images.columns(("key", "status", "reason"))
    return dict(zip(keys.tolist(), zip(status.tolist(), reason.tolist(), strict=True), strict=True))


def hostile_tar(folder: Path) -> Path:
    good = encode(noise(1))
    path = write_tar(
        folder / "h.tar",
        [("ok.png", good), ("zero.jpg", b""), ("text.jpg", b"hello"), ("cut.jpg", encode(noise(1), "JPEG")[:900]),
         ("../../up.png", good), ("/abs.png", good), ("png.JPEG", good)],
    )  # fmt: skip
    with tarfile.open(path, "a") as container:
        link = tarfile.TarInfo("link.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        container.addfile(link)
    return path


def test_damaged_images_are_recorded_with_their_reason_and_nothing_is_extracted(planned, tmp_path):
    before = set(Path("/tmp").glob("up.png")) | set(tmp_path.parent.glob("up.png"))
    found = mined(planned, hostile_tar(tmp_path))
    assert {key: reason for key, (status, reason) in found.items() if status == 2} == {
        "zero": "no bytes",
        "text": "not an image",
        "cut": found["cut"][1],
        "link": "is a link, not a plain file",
    }
    assert "truncated" in found["cut"][1]
    assert {key for key, (status, _) in found.items() if status == 1} == {"ok", "up", "abs", "png"}
    assert set(Path("/tmp").glob("up.png")) | set(tmp_path.parent.glob("up.png")) == before


def test_what_a_worker_finds_wrong_is_one_sentence_too(tmp_path):
    label = write_tar(tmp_path / "l.tar", [("a.png", encode(noise(1))), ("a.cls", b"\0")])
    image = write_tar(tmp_path / "i.tar", [("a.jpg", b"no")])
    for data, code, words in (
        (label, 2, "member a.cls holds b'\\x00', expected a class index or the name of a class."),
        (image, 1, "shard i.tar: image a cannot be decoded: not an image."),
    ):
        options = ["--data", data, "--store", tmp_path / "x.zarr", "--set", "data.on_damaged=fail"]
        finished = topnine("run", *options)
        assert finished.returncode == code
        steps = "(index|mine): |loading |tracing |images are resized "
        (sentence,) = [line for line in finished.stderr.splitlines() if not re.match(steps, line)]
        assert words in sentence


def test_the_policy_fail_stops_at_the_first_and_names_it(planned, tmp_path):
    path = hostile_tar(tmp_path)
    with pytest.raises(InputError, match=r'shard h\.tar: member link is a link.*data\.on_damaged = "skip"'):
        mined(planned, path, data__on_damaged="fail")
    write_tar(tmp_path / "i.tar", [("ok.png", encode(noise(1))), ("bad.jpg", b"x")])
    with pytest.raises(WorkError, match=r"shard i\.tar: image bad cannot be decoded: not an image"):
        mined(planned, tmp_path / "i.tar", data__on_damaged="fail", store=tmp_path / "i.zarr")


def test_too_many_damaged_images_fail_the_run_with_counts_and_keep_the_store(planned, tmp_path):
    good, bad = [(f"{i}.png", encode(noise(i))) for i in range(9)], [(f"bad{i}.jpg", b"no") for i in range(11)]
    path = write_tar(tmp_path / "a.tar", [*good, *bad])
    with pytest.raises(WorkError, match=r"11 of 20 images are damaged.*11 × not an image\. The store is kept"):
        mined(planned, path)
    assert sum(status == 2 for status, _ in mined(planned, path, data__max_damaged_fraction=0.6).values()) == 11
    few = write_tar(tmp_path / "few.tar", [*good, *bad[:10]])
    mined(planned, few, store=tmp_path / "few.zarr")


@pytest.mark.parametrize("cut", ["in a member", "before the closing blocks", "in an inner tar"])
def test_a_tar_that_ends_too_early_is_refused_or_taken_and_named_in_every_summary(tmp_path, cut):
    images = [(f"{i}.png", encode(noise(i))) for i in range(4)]
    path = write_tar(tmp_path / "d/t.tar", images)
    write_tar(tmp_path / "d/u.tar", [("whole.png", images[0][1])])
    with tarfile.open(path) as container:
        last = container.getmembers()[3]
    end = last.offset_data if cut == "in a member" else last.offset_data + -(-last.size // 512) * 512
    content = path.read_bytes()[:end]
    if cut == "in an inner tar":
        write_tar(path, [("n01.tar", content), ("n02.tar", (tmp_path / "d/u.tar").read_bytes())])
    else:
        path.write_bytes(content)
    options = ["--data", tmp_path / "d", "--store", tmp_path / "x.zarr", "--layer", "1"]
    refused = topnine("run", *options)
    assert refused.returncode == 2
    assert "shard t.tar is not complete: " in refused.stderr
    assert 'set data.on_incomplete = "take"' in refused.stderr
    assert not (tmp_path / "x.zarr").exists()
    taken = topnine("run", *options, "--set", "data.on_incomplete=take")
    assert taken.returncode == 0, taken.stderr
    state = topnine("status", tmp_path / "x.zarr")
    for text in (taken.stdout, state.stdout):
        assert "1 shards are not complete, and what is missing of them was not mined:\n  t.tar: " in text
    listed = json.loads(topnine("status", tmp_path / "x.zarr", "--json").stdout)
    assert (listed["images"], listed["undecodable"]) == ({"in a member": 4, "in an inner tar": 6}.get(cut, 5), 0)
    (missing,) = listed["incomplete"]
    assert missing["shard"] == "t.tar"
    needed = last.offset_data + last.size
    assert (
        missing["missing"]
        == {
            "in a member": f"member 3.png needs the bytes up to {needed:,}, and it ends at {end:,}",
            "before the closing blocks": f"it ends at {end:,} without a tar's closing blocks",
            "in an inner tar": f"n01.tar in it: it ends at {512 + end:,} without a tar's closing blocks",
        }[cut]
    )
    assert topnine("run", *options).returncode == 0  # with the settings that the store records
    assert topnine("run", *options, "--config", "configs/demo.toml").returncode == 2  # it was made with others


@pytest.mark.slow
def test_three_thousand_tars_are_mined_with_two_hundred_and_fifty_six_open_files(tmp_path):
    image = encode(noise(1, 80, 80), "JPEG")
    for number in range(3000):
        write_tar(tmp_path / f"many/{number:04}.tar", [(f"{number:04}.jpg", image)])
    command = "ulimit -n 256; exec $0 -m topnine mine --layer 1 --data $1/many --store $1/x.zarr"
    for stage in ("index", "mine"):
        arguments = ["bash", "-c", command.replace("mine --layer", f"{stage} --layer"), sys.executable, tmp_path]
        finished = subprocess.run(arguments, capture_output=True, text=True, cwd=REPOSITORY, check=False)
        assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("3,000 images, 0 undecodable")


def test_a_finished_tar_gives_the_same_rows_whatever_is_said_of_unfinished_ones(planned, tmp_path):
    path = write_tar(tmp_path / "t.tar", [(f"{i}.png", encode(noise(i))) for i in range(4)])
    first = mined(planned, path)
    assert mined(planned, path, data__on_incomplete="take", store=tmp_path / "b.zarr") == first


def test_a_truncated_tar_and_parquet_cannot_be_packed_and_the_plan_refuses_them(planned, tmp_path):
    path = write_tar(tmp_path / "t.tar", [(f"{i}.png", encode(noise(i))) for i in range(4)])
    path.write_bytes(path.read_bytes()[: 3 * (path.stat().st_size // 4)])
    with pytest.raises(InputError, match=r"shard t\.tar is not complete"):
        list(pack(str(path), tmp_path / "out", Packing()))
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=r"shard t\.tar is not complete"):
        estimate(planned(data__path=path))


def test_status_names_the_first_damaged_images_and_json_all_of_them(tmp_path):
    bad = [(f"bad\x1b[2J{i:02}.jpg", b"no") for i in range(12)]
    path = write_tar(tmp_path / "a.tar", [("ok.png", encode(noise(1))), *bad])
    options = ["--data", path, "--layer", "1", "--store", tmp_path / "x.zarr", "--set", "data.max_damaged_fraction=1"]
    finished = topnine("run", *options)
    state = topnine("status", tmp_path / "x.zarr")
    for text in (finished.stdout, state.stdout):
        assert "  bad\\x1b[2J00 in a.tar: not an image\n" in text
        assert "  bad\\x1b[2J09 in a.tar: not an image\n  and 2 more: `topnine status --json` names all\n" in text
        assert "\x1b" not in text
    damaged = json.loads(topnine("status", tmp_path / "x.zarr", "--json").stdout)["damaged"]
    assert damaged == [{"key": name[:-4], "shard": "a.tar", "reason": "not an image"} for name, _ in bad]


def test_compressed_tars_say_what_to_do(tmp_path):
    write_tar(tmp_path / "a.tar.gz", [])
    (tmp_path / "b.tar").write_bytes(b"\x1f\x8b" + b"x" * 600)
    (tmp_path / "c.tar").write_bytes(b"x" * 2048)
    for name, words in (
        ("a.tar.gz", "is compressed.*gunzip"),
        ("b.tar", "is compressed.*gunzip"),
        ("c.tar", "is not a tar"),
    ):
        with pytest.raises(InputError, match=words):
            list_images(find_dataset(str(tmp_path / name)).shards[0])


def test_parquet_without_the_column_and_with_null_images(planned, tmp_path):
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    rows = [
        {"image": {"bytes": encode(noise(1)), "path": "a.png"}},
        {"image": None},
        {"image": {"bytes": None, "path": "c"}},
    ]
    parquet.write_table(arrow.Table.from_pylist(rows, arrow.schema([("image", kind)])), tmp_path / "n.parquet")
    found = mined(planned, tmp_path / "n.parquet")
    assert found == {"a": (1, ""), "n-000001": (2, "the image is null"), "c": (2, "the image is null")}
    parquet.write_table(arrow.table({"picture": [b"x"]}), tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet has no column image with bytes: its columns are picture"):
        list_images(find_dataset(str(tmp_path / "x.parquet")).shards[0])
    (tmp_path / "y.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match=r"y\.parquet is damaged"):
        list_images(find_dataset(str(tmp_path / "y.parquet")).shards[0])


def test_labels_outside_the_classes_are_named(planned, tmp_path):
    path = write_tar(tmp_path / "l.tar", [("a.png", encode(noise(1))), ("a.cls", b"7")])
    (tmp_path / "c.tsv").write_text("0\tn0\tzero\n1\tn1\tone\n")
    with pytest.raises(InputError, match=r"shard l\.tar: image a has label 7, expected 0 to 1"):
        mined(planned, path, data__classes=tmp_path / "c.tsv")
    (tmp_path / "t.txt").write_text("0\n1\n")
    with pytest.raises(InputError, match="has 2 labels, the data has 1 images"):
        mined(planned, path, data__labels=tmp_path / "t.txt")
    (tmp_path / "bad.tsv").write_text("0\tn0\tzero\n2\tn2\ttwo\n")
    with pytest.raises(InputError, match="expected index 1"):
        mined(planned, path, data__classes=tmp_path / "bad.tsv")


def test_a_shard_that_was_only_copied_goes_on_and_one_that_changed_does_not(planned, tmp_path):
    images = [(f"{i}.png", encode(noise(i, 32, 32))) for i in range(6)]
    path = write_tar(tmp_path / "a.tar", images)
    settings = {"data__path": path, "mine__layers": "1", "mine__block": 2}
    run_stages(planned(**settings), "index")
    os.utime(path, (1, 1))
    run_stages(planned(**settings), "mine")
    assert len({len(data) for _, data in images}) == 1  # so that the changed shard has the old one's size
    write_tar(path, [("other.png", images[0][1]), *images[1:]])
    run_stages(planned(**settings), "index", "mine")  # all is mined: the shard is not looked at
    again = planned(**settings, store=tmp_path / "b.zarr")
    run_stages(again, "index")
    write_tar(path, images)
    os.utime(path, (2, 2))
    with pytest.raises(WorkError, match=r"shard a\.tar has changed.*where image other was, at 512, is now 0"):
        run_stages(planned(**settings, store=tmp_path / "b.zarr"), "mine")
    write_tar(path, images[:3])
    with pytest.raises(InputError, match="was made with data = "):
        planned(**settings, store=tmp_path / "b.zarr")
