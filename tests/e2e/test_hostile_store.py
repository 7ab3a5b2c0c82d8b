"""Stores that somebody made to do harm: nothing of theirs is run, fetched or written outside."""

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from numcodecs.zstd import Zstd
from typer.testing import CliRunner

from tests.conftest import REPOSITORY, contents, plan_run, put_lease, run_stages, write_tar
from topnine.pipeline.errors import TopnineError
from topnine.stages.cli.main import app

PAYLOAD = "from pathlib import Path\nPath({mark!r}).write_text('run')\ndef build():\n    raise SystemExit\n"


@pytest.fixture(scope="module")
def finished(some_photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_tar(folder / "data" / "a.tar", some_photos[:6])
    plan = plan_run(folder, data__path=folder / "data", mine__layers="1", mine__block=4, mine__batch=4)
    run_stages(plan, "index", "mine", "rank", "statistics", "deconvolve")
    return folder


@pytest.fixture
def store(finished, tmp_path, monkeypatch) -> Path:
    """A copy in a folder of its own, which is the working folder."""
    folder = tmp_path / "working"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Path(shutil.copytree(finished / "run.zarr", folder / "run.zarr"))


@pytest.fixture
def server():
    """The address of a server, and the requests that it got."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            requests.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

        def log_message(self, *_):
            """Print nothing."""

    listening = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", requests
    listening.shutdown()
    listening.server_close()


def change(document: Path, **attributes: object) -> None:
    """Change attributes of a group; those that are None are left out."""
    described = json.loads(document.read_text())
    described["attributes"] = {k: v for k, v in (described["attributes"] | attributes).items() if v is not None}
    document.write_text(json.dumps(described))


def configure(store: Path, section: str, **values: object) -> None:
    """Change a section of the configuration that the store records."""
    configuration = json.loads(json.loads((store / "zarr.json").read_text())["attributes"]["configuration"])
    configuration[section] |= values
    change(store / "zarr.json", configuration=json.dumps(configuration))


def invoke(*words: str) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it says. A traceback fails the test."""
    result = CliRunner().invoke(app, [str(word) for word in words])
    error = result.exception
    if error is not None and not isinstance(error, SystemExit | TopnineError):
        raise error
    return getattr(error, "exit_code", result.exit_code), result.output + str(error or "")


def test_verify_runs_no_code_that_only_the_store_names(store, tmp_path):
    mark = tmp_path / "PWNED"
    (store / "payload.py").write_text(PAYLOAD.format(mark=str(mark)))
    (store.parent / "outside.py").write_text(PAYLOAD.format(mark=str(mark)))
    for name in ("run.zarr.payload:build", "outside:build", "os:getcwd"):
        configure(store, "network", name=name)
        for options in ([], ["--repair"], ["--data", tmp_path]):
            code, output = invoke("verify", store, *options)
            assert code == 2, output
            assert f"network.name = {name!r}" in output
            assert "--trust" in output
    assert not mark.exists()


def test_verify_opens_no_address_or_file_that_only_the_store_names(store, server, finished):
    address, requests = server
    for section, key in (("data", "path"), ("data", "labels"), ("data", "classes"), ("network", "weights")):
        shutil.rmtree(store)
        shutil.copytree(finished / "run.zarr", store)
        configure(store, section, **{key: f"{address}/x"})
        others = [] if (section, key) == ("data", "path") else ["--data", finished / "data"]
        code, output = invoke("verify", store, *others)
        assert (code, requests) == (2, [])
        assert f"{section}.{key} = '{address}/x'" in output
    code, output = invoke("verify", finished / "run.zarr", "--data", finished / "data")
    assert code == 0, output


SMALL = ["--set", "mine.block=4", "--set", "mine.batch=4"]  # the settings that it was made with
LAYER = "layers/conv1/zarr.json"
JSON = json.dumps
HOSTILE = {
    "root is a list": lambda s: (s / "zarr.json").write_text("[1, 2]"),
    "no attributes": lambda s: (s / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group"}'),
    "schema as text": lambda s: change(s / "zarr.json", topnine_schema="3"),
    "schema is huge": lambda s: change(s / "zarr.json", topnine_schema=10**30),
    "no images": lambda s: change(s / "zarr.json", images=None),
    "images below 0": lambda s: change(s / "zarr.json", images=-1),
    "10 to the 10 images": lambda s: change(s / "zarr.json", images=10**10),
    "10 to the 30 images": lambda s: change(s / "zarr.json", images=10**30),
    "blocks of 0": lambda s: change(s / "zarr.json", block=0),
    "blocks of text": lambda s: change(s / "zarr.json", block="8"),
    "fingerprints are a list": lambda s: change(s / "zarr.json", fingerprints="[]"),
    "a fingerprint is a number": lambda s: change(s / "zarr.json", fingerprints='{"index": 3}'),
    "fingerprints no JSON": lambda s: change(s / "zarr.json", fingerprints="{"),
    "deep JSON": lambda s: change(s / "zarr.json", dataset_shards="[" * 100_000),
    "shards of numbers": lambda s: change(s / "zarr.json", dataset_shards="[1, 2]"),
    "no shards": lambda s: change(s / "zarr.json", dataset_shards="[]"),
    "classes of lists": lambda s: change(s / "zarr.json", dataset_classes="[[]]"),
    "size of 0": lambda s: change(s / "zarr.json", preprocessing_size=[0, 0]),
    "configuration is a list": lambda s: change(s / "zarr.json", configuration="[]"),
    "configuration of lists": lambda s: change(s / "zarr.json", configuration='{"data": [], "network": 3}'),
    "layer is a list": lambda s: (s / LAYER).write_text("[1, 2]"),
    "no depth": lambda s: change(s / LAYER, depth=None),
    "depth as text": lambda s: change(s / LAYER, depth="deep"),
    "number leads out": lambda s: change(s / LAYER, number="/../../../escaped/x"),
    "number below 1": lambda s: change(s / LAYER, number=-1),
    "filters below 0": lambda s: change(s / LAYER, filters=-4),
    "10 to the 12 filters": lambda s: change(s / LAYER, filters=10**12),
    "filters as text": lambda s: change(s / LAYER, filters="64"),
    "no map": lambda s: change(s / LAYER, map_height=None, map_width=None),
    "a map of lists": lambda s: change(s / LAYER, map_height=[1]),
    "no field": lambda s: change(s / LAYER, receptive_field_size=None),
    "a field of text": lambda s: change(s / LAYER, receptive_field_size="all"),
    "a probe of nothing": lambda s: change(s / LAYER, probe="{}"),
    "a probe of numbers": lambda s: change(s / LAYER, probe=JSON({"layout": 1, "unseen": 2})),
    "layer's fingerprints": lambda s: change(s / LAYER, fingerprints='{"mine": 1, "rank": []}'),
    "tap is a number": lambda s: change(s / LAYER, tap=3),
    "a layer that leads out": lambda s: shutil.copytree(s / "layers/conv1", s / "layers/%2E.%2Fescaped"),
    "an array of another shape": lambda s: reshape(s / "layers/conv1/top_image/zarr.json", [10**12, 9]),
    "an array of another type": lambda s: retype(s / "layers/conv1/activation/zarr.json", "float64"),
    "an index of another length": lambda s: reshape(s / "images/key/zarr.json", [10**12]),
    "a group in the place of an array": lambda s: shutil.copy(s / "layers/zarr.json", s / "images/key/zarr.json"),
    "chunks of 0": lambda s: rechunk(s / "layers/conv1/activation/zarr.json", [0, 0]),
    "chunks of 10 to the 12": lambda s: rechunk(s / "layers/conv1/activation/zarr.json", [10**12, 10**12]),
    "a codec of its own": lambda s: recode(s / "layers/conv1/activation/zarr.json", [{"name": "pickle"}]),
    "no codecs": lambda s: recode(s / "layers/conv1/activation/zarr.json", []),
    "a zip bomb": lambda s: explode(next((s / "layers/conv1/activation/c/0").iterdir())),
    "a lease of other keys": lambda s: put_lease(s, b'{"attributes": {"host": 3, "pid": "x"}}'),
    "a lease that is huge": lambda s: put_lease(s, JSON({"attributes": {"host": "x" * 10**6}}).encode()),
    "a lease of escapes": lambda s: put_lease(s, JSON({"attributes": {"host": "\x1b[2J"}}).encode()),
}


def explode(chunk: Path) -> None:
    chunk.write_bytes(Zstd(3).encode(bytes(2**30)))


def rechunk(document: Path, shape: list[int]) -> None:
    described = json.loads(document.read_text())
    described["chunk_grid"]["configuration"]["chunk_shape"] = shape
    document.write_text(json.dumps(described))


def recode(document: Path, codecs: list[object]) -> None:
    described = json.loads(document.read_text())
    document.write_text(json.dumps(described | {"codecs": codecs}))


def reshape(document: Path, shape: list[int]) -> None:
    described = json.loads(document.read_text())
    document.write_text(json.dumps(described | {"shape": shape}))


def retype(document: Path, kind: str) -> None:
    described = json.loads(document.read_text())
    document.write_text(json.dumps(described | {"data_type": kind}))


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_store_is_a_sentence_and_nothing_is_written_outside(store, finished, monkeypatch, name):
    monkeypatch.setattr("topnine.pipeline.store.lease.GONE_S", 2)  # it is waited for, wherever the lease says nothing
    HOSTILE[name](store)
    inside = set(contents(store))
    config = [
        "--config",
        REPOSITORY / "configs/demo.toml",
        "--data",
        finished / "data",
        "--store",
        store,
        "--layer",
        "1",
    ]
    for words in (
        ["status", store],
        ["status", "--json", store],
        ["export", store, "--layer", "all"],
        ["verify", store, "--data", finished / "data"],
        ["tile", *config, *SMALL],
        ["gallery", *config, *SMALL],
    ):
        code, output = invoke(*words)
        assert code in (0, 1, 2, 3), (words, output)
        assert "\x1b" not in output
    written = {path.relative_to(store.parent).parts[0] for path in store.parent.rglob("*")}
    assert written <= {"run.zarr", "run"}
    assert not [path for path in store.parent.parent.iterdir() if path != store.parent]
    assert {path for path in set(contents(store)) - inside if "lease" not in path and "c/" not in path} == set()


@pytest.mark.parametrize(
    "name",
    ["layers/conv1/projection", "layers/conv1/zarr.json", "progress/done", "images/key/c", "layers", "progress"],
)
def test_nothing_is_written_through_a_link_that_leads_out_of_a_store(store, finished, tmp_path_factory, name):
    outside = tmp_path_factory.mktemp("outside") / "victim"
    shutil.move(store / name, outside)
    (store / name).symlink_to(outside)
    kept = {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))}
    for words in (
        ["run", "--config", REPOSITORY / "configs/demo.toml", "--data", finished / "data", "--store", store, *SMALL],
        ["verify", store, "--data", finished / "data", "--repair"],
    ):
        code, output = invoke(*words)
        assert code == 2, output
        assert f"{name} in it is a link to {outside}" in output
    assert {path: path.stat().st_mtime_ns for path in (outside, *outside.rglob("*"))} == kept


def test_a_store_may_lie_behind_a_link_and_have_links_within(store, finished):
    shutil.move(store, store.with_name("elsewhere"))
    store.symlink_to("elsewhere")
    marker = next((store / "progress/done/conv1/c").iterdir())
    shutil.move(marker, store / "marker")
    marker.symlink_to(store / "marker")
    code, output = invoke("verify", store, "--data", finished / "data", "--repair")
    assert code == 0, output


def test_links_in_a_circle_are_a_sentence(store, finished):
    (store / "layers/here").symlink_to("there")
    (store / "layers/there").symlink_to("here")
    code, output = invoke("verify", store, "--data", finished / "data", "--repair")
    assert code == 2, output
    assert "is a link to" in output
