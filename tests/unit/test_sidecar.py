"""Indices beside tars, as DALI's wds2idx writes them: the same listing as by headers, or a sentence."""

import io
import tarfile
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import plan_run, run_stages, same_files, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Shard
from topnine.pipeline.data.forms import headers, sidecar, tar
from topnine.pipeline.data.reader import list_images
from topnine.pipeline.errors import InputError
from topnine.stages.changes import check_shard

BLOCK = 512
SAMPLES = [
    member
    for number in range(40)
    for member in (
        (f"./n{number % 3}/{number:03d}.jpg", bytes(900 + 7 * number)),
        (f"./n{number % 3}/{number:03d}.seg.png", bytes(number)),
        (f"./n{number % 3}/{number:03d}.cls", str(number % 5).encode()),
        (f"./n{number % 3}/{number:03d}.json", b'{"caption": "none"}'),
    )
]


def write_idx(path: Path, version: str = "v1.2", like_gnu_tar: bool = True) -> Path:
    """Write the index of a tar as wds2idx does; return it.

    It asks GNU tar for the block of each header and for the sizes. A member's data is taken to begin as many blocks
    before the next header as its size needs. GNU tar counts a long name's blocks to a header, and those of PAX not.
    """
    with tarfile.open(path) as container:
        members = container.getmembers()
    begins = [member.offset_data - BLOCK if member.pax_headers else member.offset for member in members]
    ends = [*begins[1:], *(member.offset_data + -(-member.size // BLOCK) * BLOCK for member in members[-1:])]
    samples: list[list[str]] = []
    last = None
    for member, end in zip(members, ends, strict=True):
        offset = (end - member.size) // BLOCK * BLOCK
        dot = member.name.find(".", member.name.rfind("/") + 1)
        base, extension = member.name[:dot], member.name[dot + 1 :]
        if not member.isreg() or not base or base.endswith("/"):
            continue
        if base != last:
            samples.append([])
            last = base
        name = member.name.encode("unicode_escape").decode().replace("\\xe9", "\\303\\251")
        fields = [extension, str(offset), str(member.size), name]
        samples[-1] += fields if version == "v1.2" else fields[:3]
    index = path.with_suffix(".idx")
    index.write_text("".join(f"{' '.join(line)}\n" for line in [[version, str(len(samples))], *samples]))
    return index


def special_tar(path: Path, kind: int = tarfile.GNU_FORMAT) -> Path:
    """Write a tar with all that an index leaves out or writes otherwise."""
    with tarfile.open(path, "w", format=kind) as container:
        for name, size in [
            ("n1", None),
            ("n1/.hidden", 700),
            ("n1/a.jpg", 2000),
            ("n1/a.cls", 1),
            (f"n1/{'long' * 40}.jpg", 512),
            ("n1/caf\xe9.jpg", 10),
            ("link.jpg", -1),
            ("n1/empty.jpg", 0),
            ("n1/README", 30),
            ("inner.tar", -2),
            ("n1/z.jpg", 5),
            (".last", 3),
        ]:
            member, content = tarfile.TarInfo(name), b"7" * max(0, size or 0)
            if size is None:
                member.type = tarfile.DIRTYPE
            elif size == -1:
                member.type, member.linkname = tarfile.SYMTYPE, "n1/a.jpg"
            elif size == -2:
                content = write_tar(path.parent / "inner", [("x.jpg", b"1"), ("y.jpg", b"2")]).read_bytes()
            member.size = len(content)
            container.addfile(member, io.BytesIO(content))
    return path


def shard_of(path: Path) -> Shard:
    """Return the shard that a folder holds."""
    return find_dataset(str(path)).shards[0]


def columns(shard: Shard) -> list:
    listing = list_images(shard)
    return [*listing, listing.missing, listing.parts]


def count_headers(monkeypatch) -> defaultdict:
    """Count how many members' headers are read."""
    counts: defaultdict = defaultdict(int)
    size_of = headers._size

    def counting(header):
        counts["headers"] += 1
        return size_of(header)

    monkeypatch.setattr(headers, "_size", counting)
    return counts


@pytest.mark.parametrize("write", [lambda path: write_tar(path, SAMPLES), special_tar], ids=["samples", "special"])
def test_an_index_gives_what_the_headers_give(tmp_path, write):
    path = write(tmp_path / "a.tar")
    expected = columns(shard_of(path))
    assert len(expected) > 5
    write_idx(path)
    shard = shard_of(path)
    assert shard.sidecar == str(tmp_path / "a.idx")
    assert columns(shard) == expected


def test_of_a_large_tar_few_headers_are_read(tmp_path, monkeypatch):
    path = write_tar(tmp_path / "a.tar", [(f"{number}.jpg", b"x") for number in range(3000)])
    write_idx(path)
    counts = count_headers(monkeypatch)
    assert len(list_images(shard_of(path))) == 3000
    assert counts["headers"] < 50


@pytest.mark.parametrize("cut", [1, BLOCK, 3000, 40_000])
def test_of_a_tar_that_is_not_all_there_its_own_headers_say_what_is_missing(tmp_path, cut):
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    with tarfile.open(path) as container:
        last = container.getmembers()[-1]
    index = write_idx(path)
    path.write_bytes(path.read_bytes()[: last.offset_data + BLOCK - cut])
    shard = shard_of(path)
    expected = columns(replace(shard, sidecar=""))
    assert "ends at" in expected[-2]
    assert columns(shard) == expected
    assert index.exists()


def renamed(path: Path) -> None:
    write_tar(path, [(name.replace("0", "o"), data) for name, data in SAMPLES])


def reordered(path: Path) -> None:
    write_tar(path, [*SAMPLES[80:], *SAMPLES[:80]])


def one_more_at_the_beginning(path: Path) -> None:
    write_tar(path, [("more.jpg", b"x"), *SAMPLES])


def another_size_in_the_middle(path: Path) -> None:
    write_tar(path, [*SAMPLES[:78], (SAMPLES[78][0], b"123456789" * 100), *SAMPLES[79:]])


def one_less_in_the_middle(path: Path) -> None:
    write_tar(path, [*SAMPLES[:77], *SAMPLES[78:]])


def last_one_renamed(path: Path) -> None:
    write_tar(path, [*SAMPLES[:-1], ("./n0/other.json", SAMPLES[-1][1])])


def emptied(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


@pytest.mark.parametrize(
    "change",
    [
        renamed,
        reordered,
        one_more_at_the_beginning,
        another_size_in_the_middle,
        one_less_in_the_middle,
        last_one_renamed,
        emptied,
    ],
)
def test_an_index_of_another_tar_is_refused(tmp_path, change):
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    index = write_idx(path)
    change(path)
    with pytest.raises(InputError, match=rf"index {index} does not fit shard {path}: .* Delete {index}, so that"):
        list_images(shard_of(path))


def test_what_a_tar_has_behind_the_members_of_its_index_is_listed(tmp_path):
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    write_idx(path)
    with tarfile.open(path, "a") as container:
        container.addfile(tarfile.TarInfo("appended.jpg"))
    shard = shard_of(path)
    assert columns(shard) == columns(replace(shard, sidecar=""))
    assert list_images(shard)[-1].key == "appended"


def test_wds2idx_misplaces_what_is_before_a_pax_header_and_is_refused(tmp_path):
    path = special_tar(tmp_path / "a.tar", tarfile.PAX_FORMAT)
    write_idx(path)
    with pytest.raises(InputError, match="does not fit shard"):
        list_images(shard_of(path))


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("v1.2 2\njpg 512 3 a.jpg\n", "its first line is 'v1\\.2 2', and 1 lines follow"),
        ("v1.2\njpg 512 3 a.jpg\n", "its first line is 'v1\\.2'"),
        ("v1.2 1\njpg 512 3\n", "line 2 of it is 'jpg 512 3'"),
        ("v1.2 1\njpg 512 3 a b.jpg\n", "line 2 of it is"),
        ("v1.2 1\njpg -512 3 a.jpg\n", "line 2 of it is"),
        ("v1.2 1\n\n", "line 2 of it is ''"),
        ("v1.2 1\njpg 512 3 b.jpg\n", "it has member b.jpg with 3 bytes at 512, where the tar has a.jpg with 3"),
        ("v1.2 1\njpg 512 4 a.jpg\n", "where the tar has a.jpg with 3 at 512"),
        ("v1.2 1\njpg 1536 4 a.jpg\n", "where the tar has none"),
    ],
)
def test_a_damaged_index_is_refused(tmp_path, content, found):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"123")])
    (tmp_path / "a.idx").write_text(content)
    with pytest.raises(InputError, match=found):
        list_images(shard_of(path))


@pytest.mark.parametrize("content", ["v1.1 1\njpg 512 99\n", "", "0\t512\n", "v1.20 1\n"])
def test_other_files_of_that_name_are_not_used(tmp_path, content):
    path = write_tar(tmp_path / "a.tar", [("a.jpg", b"123")])
    (tmp_path / "a.idx").write_text(content)
    assert [entry.key for entry in list_images(shard_of(path))] == ["a"]


def test_indices_are_found_by_folder_pattern_and_list_and_are_no_data(tmp_path):
    for name in ("a-0", "a-1", "b"):
        write_idx(write_tar(tmp_path / f"{name}.tar", SAMPLES[:8]))
    (tmp_path / "a-1.idx").unlink()
    (tmp_path / "list.txt").write_text(f"{tmp_path}/a-0.tar\n{tmp_path}/a-1.tar\n")
    for path, expected in [
        (tmp_path, [f"{tmp_path}/a-0.idx", "", f"{tmp_path}/b.idx"]),
        (tmp_path / "a-*.tar", [f"{tmp_path}/a-0.idx", ""]),
        (tmp_path / "a-{0..1}.tar", [f"{tmp_path}/a-0.idx", ""]),
        (tmp_path / "list.txt", [f"{tmp_path}/a-0.idx", ""]),
    ]:
        dataset = find_dataset(str(path))
        assert [shard.sidecar for shard in dataset.shards] == expected
        assert dataset.unused == ()


def test_the_labels_of_a_bucket_are_fetched_ahead(tmp_path):
    path = write_tar(tmp_path / "a.tar", SAMPLES)
    write_idx(path)
    index = sidecar.read_index(shard_of(path))
    content, fetched = path.read_bytes(), []

    def fetch(offset, size):
        fetched.append((offset, size))
        return content[offset : offset + size]

    local = index.shard
    labels = [(member.offset, member.size) for member in index.members if member.name.endswith((".cls", ".json"))]
    remote = replace(index, shard=replace(local, path="s3://bucket/a.tar"))
    with remote.read_ahead(lambda offset, size: b"other", fetch, tar.LABEL_SUFFIXES, 10) as read:
        assert read(512, 3) == b"other"
        for offset, size in labels[:3] + labels[5:]:  # some are not asked for
            assert read(offset, min(size, 10)) == content[offset : offset + min(size, 10)]
    assert sorted(fetched) == [(offset, min(size, 10)) for offset, size in labels]
    with index.read_ahead(fetch, lambda offset, size: pytest.fail("a disk is read as it is"), {".cls"}, 10) as read:
        assert read is fetch


def test_a_store_is_the_same_and_a_touched_shard_is_compared_by_its_headers(some_photos, tmp_path):
    path = write_tar(tmp_path / "data/a.tar", some_photos[:12])
    settings = {"data__path": tmp_path / "data", "mine__layers": "1"}
    run_stages(plan_run(tmp_path / "headers", **settings), "index")
    index = write_idx(path)
    plan = plan_run(tmp_path / "index", **settings)
    run_stages(plan, "index")
    assert same_files(tmp_path / "headers/run.zarr", tmp_path / "index/run.zarr")
    name, data = some_photos[1]
    write_tar(path, [some_photos[0], (name.replace(".", "x."), data), *some_photos[2:12]])
    assert check_shard((0, shard_of(path)), plan.config.store).startswith("shard a.tar has changed")
    assert index.exists()
