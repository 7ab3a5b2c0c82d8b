"""The commands, as a user types them, and what they print. Those of the READMEs are in test_readmes."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY, encode, noise, write_tar
from topnine.stages.cli.main import main

TOPNINE = Path(sys.executable).parent / "topnine"


def topnine(*arguments, cwd=REPOSITORY, **options):
    return subprocess.run(
        [TOPNINE, *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=600, check=False, **options
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The demo, in an empty folder that holds nothing but the configurations."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    finished = topnine("run", "--layer", "5", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    return folder, finished


def test_the_demo_makes_a_sheet_and_says_where(demo):
    folder, finished = demo
    lines = finished.stdout.splitlines()
    assert lines[0] == "536 images, 0 undecodable"
    assert lines[1] == "dead filters: 0 of 128 in conv5"
    assert re.fullmatch(r"\d+ of 1,152 projections hang on a near-tie of a pooling region; .*", lines[2])
    assert lines[3:] == ["runs/demo.zarr", "runs/demo/figures/layer5.png"]
    assert re.search(r"mine: 536 of 536 images, [\d.]+ images/s", finished.stderr)
    with Image.open(folder / "runs/demo/figures/layer5.png") as sheet:
        assert sheet.text["network"] == "tiny_zfnet"
        assert sheet.text["layer"] == "layer 5 (conv5)"
        assert sheet.text["rule"] == "deconvnet"
        assert sheet.text["images"] == "536 images"
        assert len(sheet.text["filters"].split()) == 10
        pixels = np.asarray(sheet)
    assert (np.abs(pixels.astype(int) - 128) < 10).all(axis=2).mean() > 0.05  # the grey of projections
    assert pixels[:, pixels.shape[1] // 2 :].std() > 60  # photographs


def test_a_finished_run_is_not_done_again_and_draws_the_same(demo):
    folder, _ = demo
    sheet = folder / "runs/demo/figures/layer5.png"
    before = sheet.read_bytes()
    again = topnine("run", "--layer", "5", cwd=folder)
    assert again.returncode == 0
    assert "mine: 536 of 536 images, done before\n" in again.stderr
    assert sheet.read_bytes() == before


def test_another_layer_is_added_with_its_filters_drawn(demo):
    folder, _ = demo
    finished = topnine("run", "--layer", "conv1", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-2:] == [
        "runs/demo/figures/layer1.png",
        "runs/demo/figures/layer1-filters.png",
    ]
    state = json.loads(topnine("status", "runs/demo.zarr", "--json", cwd=folder).stdout)
    assert set(state["layers"]) == {"conv1", "conv5"}
    conv5 = {key: state["layers"]["conv5"][key] for key in ("blocks", "done", "rank", "deconvolve")}
    assert conv5 == {"blocks": 9, "done": 9, "rank": True, "deconvolve": True}
    assert (state["images"], state["undecodable"]) == (536, 0)


def test_one_filter_has_a_sheet_and_a_grid_of_any_size(demo):
    folder, _ = demo
    for options, name in (
        (["--filter", "3,17,40"], "layer5.png"),
        (["--filter", "7"], "layer5-filter7.png"),
        (["--filter", "7", "--grid", "25"], "layer5-filter7-grid25.png"),
    ):
        finished = topnine("tile", "--layer", "5", *options, cwd=folder)
        assert finished.returncode == 0, finished.stderr
        assert finished.stdout.splitlines()[-1] == f"runs/demo/figures/{name}"
        with Image.open(folder / "runs/demo/figures" / name) as sheet:
            assert sheet.text["filters"] == ("3 17 40" if options[1] == "3,17,40" else "7")


def test_the_gallery_shows_every_layer_of_the_store(demo):
    folder, _ = demo
    finished = topnine("gallery", "--layer", "2", cwd=folder)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.splitlines()[-1] == "runs/demo/gallery/index.html"
    page = folder / "runs/demo/gallery/index.html"
    sources = re.findall(r'(?:src|href)="([^"#]+)"', page.read_text())
    site = {path.name for path in (REPOSITORY / "stages/gallery/site").iterdir()} - {"index.html"}
    assert site | {"layers/run.js"} <= set(sources)
    for source in sources:
        assert (page.parent / source).is_file()
    state = json.loads(topnine("status", "runs/demo.zarr", "--json", cwd=folder).stdout)
    assert {path.stem.split("-")[1] for path in page.parent.glob("layers/*-*.js")} == set(state["layers"])
    assert all(layer["statistics"] for layer in state["layers"].values())


def test_quiet_says_nothing_that_goes_well_and_verbose_more(demo, tmp_path):
    folder, finished = demo
    quiet = topnine("run", "--layer", "5", "-q", cwd=folder)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert quiet.stdout == finished.stdout
    verbose = topnine("run", "--layer", "5", "--verbose", cwd=folder)
    assert "layer conv5: 128 filters, read behind relu of conv5" in verbose.stderr
    assert "layer conv5: 128 filters" not in finished.stderr
    wrong = topnine("run", "--quiet", "--set", "data.path=nowhere", cwd=folder)
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.startswith("topnine: there is no data at nowhere")


def test_json_is_for_scripts(demo):
    folder, _ = demo
    summary = json.loads(topnine("run", "--layer", "5", "--json", cwd=folder).stdout)
    assert summary["files"] == ["runs/demo/figures/layer5.png"]
    assert (summary["images"], summary["layers"]["conv5"]["dead"]) == (536, 0)
    offers = json.loads(topnine("networks", "--match", "resnet50", "--json").stdout)
    assert {"name": "resnet50", "weights": ["IMAGENET1K_V1", "IMAGENET1K_V2"]} in offers
    layers = json.loads(topnine("networks", "alexnet", "--json").stdout)
    assert [(layer["number"], layer["name"], layer["filters"]) for layer in layers][4] == (5, "conv5", 256)
    checks = json.loads(topnine("verify", "runs/demo.zarr", "--data", "photos", "--json", cwd=folder).stdout)
    assert {check["name"] for check in checks} >= {"images", "data", "conv5 ranking"}
    assert not any(check["problems"] for check in checks)


def test_plan_writes_nothing(tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    finished = topnine("plan", "--layer", "all", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    decoding, *lines = finished.stdout.splitlines()
    assert decoding.startswith("images are resized (bilinear, by torch) to a shortest side of 96 pixels")
    assert lines[0] == "536 images in 4 shards, 9 blocks of 64"
    assert lines[1].startswith("layer conv1: 64 filters")
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_plan_says_how_long_each_stage_takes_and_what_is_done(demo):
    folder, _ = demo
    stages = {}
    for layers in ("5", "2 5"):
        found = json.loads(topnine("plan", "--layer", layers, "--json", cwd=folder).stdout)
        stages[layers] = {stage["stage"]: stage for stage in found["stages"]}
        assert list(stages[layers]) == ["index", "mine", "rank", "deconvolve", "tile"]
    assert all(stage["done"] == stage["total"] for name, stage in stages["5"].items() if name != "tile")
    assert (stages["2 5"]["index"]["done"], stages["2 5"]["mine"]["done"]) == (4, 0)
    left = stages["2 5"]["deconvolve"]
    assert (left["done"], left["total"], left["unit"]) == (128, 256, "filters")
    assert 1 < left["seconds"] < 120
    assert stages["2 5"]["mine"]["seconds"] > 0.5
    lines = topnine("plan", "--layer", "5", cwd=folder).stdout.splitlines()
    assert {"index: done", "mine: done", "rank: done", "deconvolve: done"} < set(lines)


def test_networks_lists_layers_numbers_and_receptive_fields():
    assert "alexnet: IMAGENET1K_V1" in topnine("networks").stdout.splitlines()
    assert "timm:convnext_atto: d2_in1k" in topnine("networks", "--match", "convnext_atto").stdout.splitlines()
    assert "--match lists networks" in topnine("networks", "alexnet", "--match", "alex").stderr
    found = topnine("networks", "alexnet").stdout
    assert "5 = conv5: 256 filters, receptive field 163, stride 16, tapped after relu of features.10" in found
    assert "features.3.squeeze: " in topnine("networks", "squeezenet1_0", "--every").stdout


def test_undecodable_images_are_counted_with_their_reason_and_the_run_goes_on(tmp_path):
    images = [(f"{i}.png", encode(noise(i))) for i in range(12)]
    images += [("zero.jpg", b""), ("text.jpg", b"hello"), ("cut.jpg", encode(noise(1), "JPEG")[:900])]
    data = write_tar(tmp_path / "a.tar", images)
    finished = topnine("run", "--data", data, "--store", tmp_path / "x.zarr", "--layer", "1")
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout.startswith("15 images, 3 undecodable\n  1 × no bytes\n  1 × not an image\n  1 × OSError")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--data", "nothing"], "there is no data at nothing"),
        (["--data", "EMPTY"], "holds no shards"),
        (["--data", "NOIMAGES"], "holds no images"),
        (["--layer", "6"], "there is no layer '6'"),
        (["--layer", "fc7", "--set", "decode.crop=64"], "not a spatial map"),
        (["--set", "network.name=lenet"], "there is no network 'lenet'"),
        (["--set", "mine.blok=3"], "mine.blok is not a key"),
        (["--set", "mine.block"], "is not of the form section.key=value"),
        (["--config", "nothing.toml"], "there is no configuration nothing.toml"),
        (["--weights", "nothing.pth"], "there is no weights file nothing.pth"),
        (["--store", "pyproject.toml/run.zarr"], "is a file"),
        (["--device", "abacus"], "device 'abacus' cannot be used"),
        (["--cluster", "cloud"], "cluster.kind = 'cloud' does not fit"),
        (["--filter", "3,x"], "is not a list of numbers"),
        (["--grid", "9"], "--grid needs one --filter"),
    ],
)
def test_wrong_input_is_one_sentence_and_exit_2_and_nothing_is_written(
    tmp_path, monkeypatch, capsys, options, sentence
):
    (tmp_path / "EMPTY").mkdir()
    write_tar(tmp_path / "NOIMAGES" / "a.tar", [("readme.txt", b"x")])
    options = [str(tmp_path / option) if option in ("EMPTY", "NOIMAGES") else option for option in options]
    before = sorted(tmp_path.rglob("*"))
    stores = [] if "--store" in options else ["--store", tmp_path / "run.zarr"]
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "argv", ["topnine", "run", *map(str, stores), *options])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as ended:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    errors = capsys.readouterr().err
    assert ended.value.code == 2, errors
    message = [line for line in errors.splitlines() if line.startswith("topnine: ")]
    assert len(message) == 1
    assert sentence in message[0]
    assert "Traceback" not in errors
    kept = [path for path in sorted(tmp_path.rglob("*")) if "run/shards" not in str(path) and path.name != "run"]
    assert kept == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")
def test_a_read_only_mount_is_one_sentence(tmp_path):
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", tmp_path], check=True)
    try:
        finished = topnine("run", "--store", tmp_path / "run.zarr")
    finally:
        subprocess.run(["umount", tmp_path], check=True)
    assert finished.returncode == 2
    assert "is read-only. Give another STORE." in finished.stderr


def test_filters_that_are_not_there_are_named(demo):
    folder, _ = demo
    finished = topnine("tile", "--layer", "5", "--filter", "128", cwd=folder)
    assert finished.returncode == 2
    assert "layer conv5 has no filter 128: its filters are 0 to 127" in finished.stderr


def test_changed_images_are_noticed_before_they_are_drawn(tmp_path):
    images = [(f"{i}.png", encode(noise(i))) for i in range(12)]
    data = write_tar(tmp_path / "a.tar", images)
    options = ["--data", data, "--store", tmp_path / "x.zarr", "--layer", "1"]
    assert topnine("run", *options).returncode == 0
    swapped = [(name, images[11 - i][1]) for i, (name, _) in enumerate(images)]
    if len({len(image) for _, image in images}) > 1:  # the same size, so that only the pixels differ
        swapped = [(name, image[:-60] + images[0][1][-60:]) for name, image in images]
    write_tar(data, swapped)
    finished = topnine("run", *options, "--set", "deconvolve.rule=guided")
    assert finished.returncode == 1
    assert re.search(r"the activation is now|cannot be decoded now|has changed since it was mined", finished.stderr)


@pytest.mark.slow
def test_real_photographs_through_a_real_network(test_data, tmp_path):
    """A quarter of ImageNet-500 through SqueezeNet: the sheets of layers 1 and 3."""
    finished = topnine(
        "run", "--config", "configs/imagenet-squeezenet.toml", "--layer", "1 fire6", "--store", tmp_path / "s.zarr",
        "--data", test_data / "data/imagenet-500/imagenet-sample-000000.tar",
        "--weights", test_data / "weights/squeezenet1_0.safetensors",
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "dead filters: 0 of 96 in conv1, 0 of 384 in fire6" in finished.stdout
    with Image.open(tmp_path / "s/figures/layer3.png") as sheet:
        assert len(sheet.text["filters"].split()) == 12
