"""Names and messages in data, stores and leases do not steer the terminal of whoever runs the real command."""

import ast
import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY, elsewhere, encode, noise, plan_run, put_lease, run_stages, write_tar
from tests.doctests import LAYER
from tests.e2e.test_commands import topnine
from topnine.pipeline.store.store import Store
from topnine.stages.cli.terminal import OBEYED

EVIL = "\x1b[31m\x9b2J\u202e\x7f\r\ntopnine: all is well"
WRITTEN_OUT = r"\x1b[31m\x9b2J\u202e\x7f\x0d\x0atopnine: all is well"
GOOD = encode(noise(1))


def check(printed: str) -> None:
    """Check that nothing is printed that a terminal would obey, and no line of somebody else's."""
    assert WRITTEN_OUT in printed
    for line in printed.split("\n"):
        assert not OBEYED.search(line), ascii(line)
        assert not line.startswith("topnine: all is well")


def write_labelled(path: Path, label: bytes) -> Path:
    return write_tar(path, [(f"{EVIL}.png", GOOD), (f"{EVIL}.cls", label)])


@pytest.mark.parametrize(
    ("members", "shard", "code", "words"),
    [
        ([(f"{EVIL}.jpg", b"no image")], "a.tar", 1, "cannot be decoded: not an image"),
        ([(f"{EVIL}.png", GOOD), (f"{EVIL}.cls", b"\0")], "a.tar", 2, "expected a class index"),
        ([("a.png", GOOD), ("a.cls", b"7")], f"{EVIL.replace('/', '')}.tar", 2, "class"),
        ([("a.jpg", b"no image")], f"{EVIL}.tar", 1, "cannot be decoded: not an image"),
    ],
    ids=["on_damaged", "label", "label outside of the classes", "shard"],
)
def test_names_in_data(tmp_path, members, shard, code, words):
    data = write_tar(tmp_path / "data" / shard, members)
    (tmp_path / "classes.tsv").write_text("0\tn0\tcat\n")
    options = ["--set", "data.on_damaged=fail", "--set", f'data.classes="{tmp_path}/classes.tsv"', "--layer", "1"]
    finished = topnine("run", "--data", data.parent, "--store", tmp_path / "x.zarr", *options)
    assert finished.returncode == code, finished.stderr
    assert words in finished.stderr
    check(finished.stdout + finished.stderr)


@pytest.fixture(scope="module")
def mined(tmp_path_factory) -> str:
    """A run over a sound image and a damaged one; its store."""
    folder = tmp_path_factory.mktemp("terminal")
    data = write_tar(folder / "a.tar", [("a.png", GOOD), (f"{EVIL}.jpg", b"no")])
    with tarfile.open(data, "a") as container:
        member = tarfile.TarInfo(f"b{EVIL}.png")
        member.size = len(GOOD)
        container.addfile(member, io.BytesIO(GOOD))
    plan = plan_run(folder, data__path=data, mine__layers="1")
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return plan.config.store


def test_names_in_a_store(mined):
    store = Store.open(mined, write=True)
    store.add_layer(f"fc{EVIL}", {**LAYER, "classes": 0}, {})
    store.progress.set_aside("conv1", 0, f"a library said {EVIL}")
    lease = put_lease(mined, elsewhere(host=f"node{EVIL}", stage=f"mine{EVIL}"))
    printed = topnine("status", mined)
    assert printed.returncode == 0, printed.stderr
    check(printed.stdout + printed.stderr)
    assert printed.stdout.count(WRITTEN_OUT) >= 3  # the layer, its host and what it does
    as_json = topnine("status", "--json", mined)
    assert not OBEYED.search(as_json.stdout.rstrip("\n"))
    assert json.loads(as_json.stdout)["holder"]["host"] == f"node{EVIL}"
    lease.unlink()
    verified = topnine("verify", mined, "--trust")
    check(verified.stdout + verified.stderr)


def test_commands_print_through_the_one_module_that_writes_out_what_is_obeyed():
    for path in (REPOSITORY / "stages").rglob("*.py"):
        calls = (node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        assert path.name == "terminal.py" or "print" not in names, path
