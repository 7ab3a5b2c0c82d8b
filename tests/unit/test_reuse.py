"""The index of another store, taken over: the same store as by listing, or a sentence."""

import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import encode, noise, plan_run, run_stages, same_files, write_tar
from tests.unit.test_sidecar import SAMPLES
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.store import Store
from topnine.stages import index

PICTURES = [encode(noise(seed, 40, 40)) for seed in range(6)]
CLASSES = "".join(f"{number}\tn{number}\tname {number}\n" for number in range(5))


def folders(path: Path) -> dict:
    for number, data in enumerate(PICTURES):
        (path / f"n{number % 2}").mkdir(parents=True, exist_ok=True)
        (path / f"n{number % 2}/same.{number // 2}.png").write_bytes(data)
    return {}


def labelled(path: Path) -> dict:
    """Two shards, with numbers for classes: the names are the network's where it has as many."""
    for shard in range(2):
        members = [(f"{i}.png", data) for i, data in enumerate(PICTURES)]
        write_tar(path / f"{shard}.tar", [*members, *((f"{i}.cls", b"%d" % i) for i in range(6))])
    return {}


def unlabelled(path: Path) -> dict:
    write_tar(path / "a.tar", [(f"x/{i}.png", data) for i, data in enumerate(PICTURES)])
    return {}


def named(path: Path) -> dict:
    write_tar(path / "a.tar", [(f"n{i % 2}/{i}.png", data) for i, data in enumerate(PICTURES)])
    (path.parent / "labels.txt").write_text("n0 n1 n2 n3 4 0")
    (path.parent / "classes.tsv").write_text(CLASSES)
    return {"data__labels": path.parent / "labels.txt", "data__classes": path.parent / "classes.tsv"}


def damaged(path: Path) -> dict:
    """Images that index knows to be damaged, images that only mine does, and a shard that is not all there."""
    write_tar(path / "a.tar", [("1.png", PICTURES[0]), ("2.png", b"no image"), ("3.png", PICTURES[1])])
    content = write_tar(path / "b.tar", [(f"{i}.png", data) for i, data in enumerate(PICTURES)]).read_bytes()
    (path / "b.tar").write_bytes(content[:512] + PICTURES[0].ljust(1024)[:512] + content[1024:])
    spoilt = bytearray(content)
    with_header = content.index(b"2.png")
    spoilt[with_header : with_header + 512] = os.urandom(512)
    (path / "b.tar").write_bytes(spoilt)
    (path / "c.tar").write_bytes(content[:-20_000])
    return {"data__on_incomplete": "take", "data__max_damaged_fraction": 1}


def planned(folder: Path, data: Path, **settings):
    return plan_run(folder, data__path=data, mine__layers="1", **settings)


@pytest.mark.parametrize("write", [folders, labelled, unlabelled, named, damaged])
def test_a_store_is_the_one_that_listing_gives(tmp_path, write, monkeypatch):
    settings = write(tmp_path / "data")
    first = planned(tmp_path / "first", tmp_path / "data", **settings)
    run_stages(first, "index", "mine")
    other = {**settings, "mine__block": 4, "network__weights": "random", "network__seed": 3}
    run_stages(planned(tmp_path / "listed", tmp_path / "data", **other), "index")
    listed: list[int] = []
    scan = index.scan
    monkeypatch.setattr(index, "scan", lambda data, pool, numbers: listed.extend(numbers) or scan(data, pool, numbers))
    run_stages(planned(tmp_path / "taken", tmp_path / "data", **other, data__index=first.config.store), "index")
    expected = {folders: [0], labelled: [0], unlabelled: [], named: [], damaged: [0, 1, 2]}
    assert listed == expected[write]
    assert same_files(tmp_path / "listed/run.zarr", tmp_path / "taken/run.zarr")
    roots = [(tmp_path / name / "run.zarr/zarr.json").read_text() for name in ("listed", "taken")]
    assert roots[0].replace(f"{tmp_path}/listed", f"{tmp_path}/taken") == roots[1]


def test_the_shards_of_samples_are_not_listed_again(tmp_path):
    data = tmp_path / "data"
    for shard in range(3):
        write_tar(data / f"{shard}.tar", [(name, PICTURES[0] if "jpg" in name else text) for name, text in SAMPLES])
    first = planned(tmp_path / "first", data)
    run_stages(first, "index")
    run_stages(planned(tmp_path / "taken", data, data__index=first.config.store), "index")
    assert same_files(tmp_path / "first/run.zarr", tmp_path / "taken/run.zarr")


@pytest.fixture
def store(tmp_path) -> Path:
    labelled(tmp_path / "data")
    plan = planned(tmp_path / "first", tmp_path / "data")
    run_stages(plan, "index")
    return Path(plan.config.store)


def touch(data: Path, store: Path) -> dict:
    os.utime(data / "1.tar", (1, 1))
    return {}


def add_a_shard(data: Path, store: Path) -> dict:
    shutil.copy(data / "1.tar", data / "2.tar")
    return {}


def rename_a_shard(data: Path, store: Path) -> dict:
    os.rename(data / "1.tar", data / "7.tar")
    return {}


def change_a_shard(data: Path, store: Path) -> dict:
    """Only this shard is listed again: it has the first image with a label."""
    status = (data / "0.tar").stat()
    content = (data / "0.tar").read_bytes()
    header = bytearray(content[:512])
    header[0:5] = b"9.png"
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    (data / "0.tar").write_bytes(header + content[512:])
    os.utime(data / "0.tar", ns=(status.st_atime_ns, status.st_mtime_ns))
    return {}


def lose_a_chunk(data: Path, store: Path) -> dict:
    next(path for path in (store / "images/key/c").rglob("*") if path.is_file()).unlink()
    return {}


def name_no_store(data: Path, store: Path) -> dict:
    return {"data__index": data}


def name_classes(data: Path, store: Path) -> dict:
    (data.parent / "classes.tsv").write_text(CLASSES + "5\tn5\tname 5\n")
    return {"data__classes": data.parent / "classes.tsv"}


def unfinish(data: Path, store: Path) -> dict:
    Store.open(str(store), write=True).set_fingerprint("index", None)
    return {}


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (touch, r"where it has shard 1\.tar of size [\d,]+ \(modified .*\), there is 1\.tar of"),
        (add_a_shard, r"it has 2 shards, and .* has 3"),
        (rename_a_shard, r"where it has shard 1\.tar .*, there is 7\.tar of"),
        (change_a_shard, r"shard 0\.tar holds other images than it says"),
        (lose_a_chunk, r"its index is damaged"),
        (name_no_store, r"there is no store at"),
        (name_classes, r"its labels are those of another data\.classes"),
        (unfinish, r"its index is not finished"),
    ],
)
def test_another_index_is_refused_in_a_sentence(store, tmp_path, change, found):
    settings = {"data__index": store, **change(tmp_path / "data", store)}
    with pytest.raises(InputError, match=found):
        run_stages(planned(tmp_path / "taken", tmp_path / "data", **settings), "index")
    assert not (tmp_path / "taken/run.zarr/images").exists()


def test_a_shard_that_is_not_all_there_is_refused_as_where_it_is_listed(tmp_path):
    settings = damaged(tmp_path / "data")
    first = planned(tmp_path / "first", tmp_path / "data", **settings)
    run_stages(first, "index")
    with pytest.raises(InputError, match=r"shard c\.tar is not complete"):
        run_stages(planned(tmp_path / "taken", tmp_path / "data", data__index=first.config.store), "index")
