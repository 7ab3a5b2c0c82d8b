"""Commands on a finished run that are given its store and nothing else, and names of classes that come later."""

import json
import os
import shutil

import numpy as np
import pytest

from tests.conftest import contents, encode, noise, write_tar
from tests.e2e.test_commands import topnine
from topnine.pipeline.store.store import Store

IMAGES = 24
MODEL = "import torch\n\ndef build():\n    torch.manual_seed(0)\n    return torch.nn.Sequential(\n" + (
    "        torch.nn.Conv2d(3, 6, 5, 2), torch.nn.ReLU(), torch.nn.MaxPool2d(2),\n"
    "        torch.nn.Conv2d(6, 8, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),\n"
    "        torch.nn.Linear(8, 4),\n    )\n"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run of a network of one's own on one's own images, with numbers for labels, made by the command."""
    folder = tmp_path_factory.mktemp("alone")
    (folder / "mine.py").write_text(MODEL)
    members = [(f"{i:03}.png", encode(noise(i, 64, 64))) for i in range(IMAGES)]
    members += [(f"{i:03}.cls", str(i % 4).encode()) for i in range(IMAGES)]
    write_tar(folder / "data/a.tar", sorted(members))
    finished = topnine(
        "run", "--network", "mine:build", "--data", "data", "--layer", "0 3", "--store", "runs/x.zarr",
        "--set", "decode.size=64", "--set", "mine.block=8", cwd=folder,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return folder


@pytest.fixture
def run(made, tmp_path):
    """A copy of this run under the same path: what is remembered of it is remembered by its path."""
    shutil.copytree(made / "runs", tmp_path / "kept", symlinks=True)
    yield made
    shutil.rmtree(made / "runs")
    shutil.copytree(tmp_path / "kept", made / "runs")


COMMANDS = [
    (["tile"], ["figures/layer0.png", "figures/layer3.png"]),
    (["tile", "--layer", "3", "--filter", "2"], ["figures/layer3-filter2.png"]),
    (["tile", "--layer", "3", "--filter", "2", "--grid", "9"], ["figures/layer3-filter2-grid9.png"]),
    (["statistics"], []),
    (["rank", "--set", "rank.distinct=look"], []),
    (["deconvolve", "--set", "deconvolve.rule=guided"], []),
    (["run"], ["figures/layer0.png", "figures/layer3.png"]),
    (["gallery"], ["gallery/index.html"]),
    (["occlusion", "--set", "cluster.kind=inline"], ["figures/occlusion-layer3.png"]),
    (["invariance"], ["figures/invariance.png"]),
    (["first-layer"], ["figures/first-layer.png"]),
    (["plan"], []),
    (["config"], []),
]


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "files"), COMMANDS, ids=[" ".join(command) for command, _ in COMMANDS])
def test_a_command_takes_the_store_and_nothing_else(run, arguments, files):
    finished = topnine(*arguments, "--store", "runs/x.zarr", cwd=run)
    assert finished.returncode == 0, finished.stderr
    for name in files:
        assert f"runs/x/{name}" in finished.stdout
        assert (run / "runs/x" / name).stat().st_size > 0


def test_images_and_network_may_be_gone_where_they_are_not_needed(run):
    other = run.parent / "elsewhere"
    shutil.copytree(run / "runs/x.zarr", other / "y.zarr", dirs_exist_ok=True)
    for arguments in (["tile"], ["statistics"], ["rank", "--set", "rank.distinct=look"]):
        finished = topnine(*arguments, "--store", "y.zarr", cwd=other)
        assert finished.returncode == 0, finished.stderr
    assert (other / "y/figures/layer3.png").stat().st_size > 0


@pytest.mark.parametrize("change", ["mine.batch=7", "decode.size=32", "data.max_pixels=9999"])
def test_a_setting_that_the_store_was_not_made_with_is_refused(run, change):
    before = contents(run / "runs/x.zarr")
    for command in (["rank", "--set", "rank.distinct=look"], ["statistics"], ["tile"]):
        finished = topnine(*command, "--store", "runs/x.zarr", "--set", change, cwd=run)
        assert finished.returncode == 2
        assert f"was made with {change.partition('=')[0]}" in finished.stderr or "decode.resize" in finished.stderr
    assert contents(run / "runs/x.zarr") == before


def test_what_only_a_store_names_is_not_opened(run):
    other = run.parent / "another"
    shutil.copytree(run / "runs/x.zarr", other / "y.zarr", dirs_exist_ok=True)
    for command in ("gallery", "occlusion", "run", "deconvolve", "plan"):
        finished = topnine(command, "--store", "y.zarr", cwd=other)
        assert finished.returncode == 2
        assert "names what would be opened or run: data.path = " in finished.stderr
        assert "Say where it is (--data, --network), or give --trust if the store is yours." in finished.stderr
    changed = json.loads((run / "runs/x.zarr/zarr.json").read_text())
    configuration = json.loads(changed["attributes"]["configuration"])
    configuration["network"]["name"] = "antigravity:fly"
    changed["attributes"]["configuration"] = json.dumps(configuration)
    (run / "runs/x.zarr/zarr.json").write_text(json.dumps(changed))
    finished = topnine("gallery", "--store", "runs/x.zarr", cwd=run)
    assert finished.returncode == 2
    assert "names what would be opened or run: network.name = 'antigravity:fly'" in finished.stderr


def test_a_copy_is_trusted_where_the_user_says_so(run):
    shutil.copytree(run / "runs/x.zarr", run / "copy.zarr")
    finished = topnine("gallery", "--store", "copy.zarr", "--trust", cwd=run)
    shutil.rmtree(run / "copy.zarr")
    assert finished.returncode == 0, finished.stderr


def test_a_home_that_cannot_be_written_is_no_failure(run):
    environment = {**os.environ, "XDG_STATE_HOME": "/proc/nowhere"}
    shutil.rmtree(run / "runs")
    finished = topnine(
        "run", "--network", "mine:build", "--data", "data", "--layer", "0", "--store", "runs/x.zarr",
        "--set", "decode.size=64", cwd=run, env=environment,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr


def test_names_of_classes_are_added_and_changed_without_mining_again(run):
    store = run / "runs/x.zarr"
    kept = ("c/", "activation", "row", "column", "top_", "patch", "projection")
    before = {name: data for name, data in contents(store).items() if name.startswith("layers/")}
    for number, word in enumerate(("cat", "dog")):
        (run / "names.tsv").write_text("".join(f"{i}\tn{i}\t{word} {i}\n" for i in range(4)))
        finished = topnine("gallery", "--store", "runs/x.zarr", "--set", "data.classes=names.tsv", cwd=run)
        assert finished.returncode == 0, finished.stderr
        assert f"{word} 3" in (run / "runs/x/gallery/layers/004-3.js").read_text(), os.listdir(
            run / "runs/x/gallery/layers"
        )
        recorded = Store.open(str(store)).attributes["dataset"]["classes"]
        assert recorded == [f"{word} {i}" for i in range(4)]
        after = contents(store)
        for name, data in before.items():
            if any(part in name for part in kept) and "zarr.json" not in name:
                assert after[name] == data, (number, name)
    labels = Store.open(str(store)).images.columns(["label"])[0]
    assert labels.tolist() == [i % 4 for i in range(IMAGES)]


def test_labels_change_where_other_classes_number_them_otherwise(tmp_path):
    for i in range(12):
        path = tmp_path / "data" / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(i, 64, 64)))
    command = ["run", "--network", "tiny_zfnet", "--data", "data", "--layer", "1", "--store", "x.zarr"]
    assert topnine(*command, cwd=tmp_path).returncode == 0
    (tmp_path / "c.tsv").write_text("0\tdog\ta dog\n1\tcat\ta cat\n")
    assert Store.open(f"{tmp_path}/x.zarr").attributes["dataset"]["classes"] == ["cat", "dog"]
    before = Store.open(f"{tmp_path}/x.zarr").images.columns(["label"])[0]
    finished = topnine(*command, "--set", "data.classes=c.tsv", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    store = Store.open(f"{tmp_path}/x.zarr")
    assert store.attributes["dataset"]["classes"] == ["a dog", "a cat"]
    assert np.array_equal(store.images.columns(["label"])[0], 1 - before)
    again = topnine(*command, "--set", "data.classes=c.tsv", cwd=tmp_path)
    assert "12 of 12 images" not in again.stderr.split("rank")[0] or again.returncode == 0


def test_other_images_under_the_same_names_get_no_labels(tmp_path):
    data = write_tar(tmp_path / "data/a.tar", [(f"{i}.png", encode(noise(i, 64, 64))) for i in range(6)])
    command = ["run", "--network", "tiny_zfnet", "--data", "data", "--layer", "1", "--store", "x.zarr"]
    assert topnine(*command, cwd=tmp_path).returncode == 0
    size = data.stat().st_size
    write_tar(data, [(f"{i + 1}.png", encode(noise(i, 64, 64))) for i in range(6)])
    assert data.stat().st_size == size
    (tmp_path / "labels.txt").write_text("0\n" * 6)
    finished = topnine(*command, "--set", "data.labels=labels.txt", cwd=tmp_path)
    assert finished.returncode == 1
    assert "are not those that store x.zarr was made with: their labels cannot be changed" in finished.stderr
