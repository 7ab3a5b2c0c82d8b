"""Files of a store that are torn, emptied, removed or zeroed: made again, or a sentence, never another result."""

import os
import random
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import REPOSITORY, contents, plan_run, run_stages, write_tar
from topnine.stages.cli.main import app

STAGES = ("index", "mine", "rank", "statistics", "deconvolve")
SETTINGS = {"mine__layers": "2", "mine__block": 8, "mine__batch": 4}
WAYS = {
    "torn": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "removed": None,
    "zeroed": lambda data: bytes(len(data)),
}
# A file of every kind. Of the chunks, one of a block or filter in the middle.
FILES = [
    "zarr.json", "images/zarr.json", "images/key/zarr.json", "images/key/c/0", "images/offset/c/0",
    "images/status/zarr.json", "images/status/c/1", "images/reason/c/1", "images/source_height/c/1",
    "images/difference_hash/c/1",
    "layers/zarr.json", "layers/conv2/zarr.json", "layers/conv2/activation/zarr.json",
    "layers/conv2/activation/c/1/0", "layers/conv2/row/zarr.json", "layers/conv2/row/c/1/0",
    "layers/conv2/top_image/zarr.json", "layers/conv2/top_image/c/0/0", "layers/conv2/histogram/c/0/0",
    "layers/conv2/patch/c/3/0/0/0/0", "layers/conv2/projection/zarr.json", "layers/conv2/box/c/3/0/0",
    "layers/conv2/filter/c/0", "layers/conv2/rank/c/0",
    "progress/zarr.json", "progress/done/zarr.json", "progress/done/conv2/zarr.json", "progress/done/conv2/c/1",
]  # fmt: skip
LATER = ("top_image", "histogram", "patch", "projection", "box", "layers/conv2/rank")  # what mine does not write
CASES = [
    (name, way, state)
    for name in FILES
    for way in WAYS
    for state in ("finished", "unfinished")
    if state == "finished" or not any(later in name for later in LATER)
]


@pytest.fixture(scope="module")
def data(some_photos, tmp_path_factory) -> Path:
    members = [*some_photos[:19], ("bad.png", b"\x89PNG no")]
    return write_tar(tmp_path_factory.mktemp("data") / "a.tar", sorted(members)).parent


@pytest.fixture(scope="module")
def stores(data, tmp_path_factory) -> dict[str, Path]:
    """A finished store, and one of which the last block, the ranks and what follows are still to be made."""
    made = {}
    folder = tmp_path_factory.mktemp("stores")
    plan = plan_run(folder, data__path=data, **SETTINGS)
    for state, stages in (("unfinished", STAGES[:2]), ("finished", STAGES[2:])):
        run_stages(plan, *stages)
        made[state] = Path(shutil.copytree(plan.config.store, folder / f"{state}.zarr"))
    (made["unfinished"] / "progress/done/conv2/c/2").unlink()
    return made


def run(store: Path, data: Path) -> tuple[int, str]:
    options = ["--config", str(REPOSITORY / "configs/demo.toml"), "--data", str(data), "--store", str(store)]
    settings = ["--layer", "2", "--set", "mine.block=8", "--set", "mine.batch=4"]
    outputs = []
    for command in ("run", "statistics"):
        result = CliRunner().invoke(app, [command, *options, *settings])
        outputs.append(result.output + str(result.exception or ""))
        if result.exit_code:
            return getattr(result.exception, "exit_code", 99), "\n".join(outputs)
    return 0, "\n".join(outputs)


def check(name: str, way: str, state: str, stores: dict[str, Path], data: Path, folder: Path) -> str:
    """Damage a file and run; return what became of it."""
    store = Path(shutil.copytree(stores[state], folder / "run.zarr"))
    file = store / name
    if WAYS[way] is None:
        file.unlink()
    else:
        file.write_bytes(WAYS[way](file.read_bytes()))
    damaged = file.read_bytes() if file.exists() else None
    code, output = run(store, data)
    if code:
        assert code in (1, 2), output  # a sentence; every other error would be 99
        assert "damaged" in output or "folder is not empty" in output, output
        assert name == "zarr.json", output  # all else can be made again
        return "refused"
    undisturbed = contents(stores["finished"])
    if contents(store) == undisturbed:
        return "made again"
    # Nothing has read it. It is found by reading all, and nothing else differs.
    assert {path for path, data in contents(store).items() if undisturbed[path] != data} == {name}
    assert file.read_bytes() == damaged
    repaired = CliRunner().invoke(app, ["verify", str(store), "--repair", "--data", str(data)])
    assert repaired.exit_code == 0, repaired.output
    assert contents(store) == undisturbed
    return "made again by verify --repair"


def cases() -> list:
    """All cases where TOPNINE_TORTURE is set; else a seeded sample, of which a few are quick."""
    chosen = random.Random(0).sample(CASES, len(CASES))
    kept = chosen if os.environ.get("TOPNINE_TORTURE") else chosen[:18]
    marks = [[] if number < 4 else [pytest.mark.slow] for number in range(len(kept))]
    return [pytest.param(*case, marks=mark) for case, mark in zip(kept, marks, strict=True)]


@pytest.mark.parametrize(("name", "way", "state"), cases())
def test_a_damaged_file_is_made_again_or_a_sentence(name, way, state, stores, data, tmp_path):
    assert check(name, way, state, stores, data, tmp_path)
