"""Tables and sheets in other forms: what is written is what the store and the PNG hold."""

import csv
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zarr
from PIL import Image
from pyarrow import parquet
from typer.testing import CliRunner

from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine import open_run
from topnine.pipeline import tables
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.store import Store
from topnine.stages.cli.main import app
from topnine.stages.tools.export import export

KEYS = ['comma, "quote"', "=cmd|' C calc'!A0", "@SUM(1+1)", "-1", "+1", "new\nline", "return\r\nline", "ünï—学",
        " space ", "tab\t", "semi;colon", "'", '""', "a\\b"]  # fmt: skip


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A finished run over images whose keys are hard on a CSV, a third of them without a label."""
    folder = tmp_path_factory.mktemp("export")
    (folder / "classes.tsv").write_text('0\tn0\tcat, "big"\n1\tn1\t=dog\n2\tn2\tél\n')
    members = [(f"{key}.png", encode(noise(i))) for i, key in enumerate(KEYS)]
    members += [(f"{key}.cls", str(i % 3).encode()) for i, key in enumerate(KEYS) if i % 3]
    data = write_tar(folder / "a.tar", sorted(members))
    plan = plan_run(folder, data__path=data, data__classes=folder / "classes.tsv", mine__layers="1 5")
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return plan


def wanted_rows(store):
    """The table, from the store's arrays alone."""
    layer, images = (zarr.open_group(f"{store}/{name}", mode="r") for name in ("layers/conv5", "images"))
    top = {name: layer[f"top_{name}"][:] for name in ("image", "activation", "row", "column")}
    key, label, box, source_box = images["key"][:], images["label"][:], layer["box"][:], layer["source_box"][:]
    for filter, rank in np.argwhere(top["image"] >= 0).tolist():
        image = int(top["image"][filter, rank])
        yield (
            "conv5", filter, rank, float(top["activation"][filter, rank]), image, str(key[image]), int(label[image]),
            ['cat, "big"', "=dog", "él", ""][label[image]], int(top["row"][filter, rank]),
            int(top["column"][filter, rank]), *box[filter, rank].tolist(), *source_box[filter, rank].tolist(),
        )  # fmt: skip


COLUMNS = ["layer", "filter", "rank", "activation", "image", "key", "label", "class_name", "row", "column",
           "box_top", "box_left", "box_bottom", "box_right",
           "source_box_top", "source_box_left", "source_box_bottom", "source_box_right"]  # fmt: skip


def single(text):
    """Return a float32 that a CSV holds."""
    return float(np.float32(text))


TYPES = [str, int, int, single, int, str, int, str, *[int] * 6, *[single] * 4]


def test_a_csv_read_back_is_the_store(hostile):
    result = CliRunner().invoke(app, ["export", hostile.config.store, "--layer", "5"])
    assert result.exit_code == 0, result.output
    path = hostile.folder / "tables/layer5.csv"
    assert result.output == f"{path}\n"
    with path.open(newline="", encoding="utf-8") as file:
        names, *lines = csv.reader(file, strict=True)
    assert names == COLUMNS
    found = [tuple(of(cell) for of, cell in zip(TYPES, line, strict=True)) for line in lines]
    assert found == list(wanted_rows(hostile.config.store))
    assert {row[5] for row in found} == set(KEYS)
    assert path.read_bytes().count(b"\r\n") == len(lines) + 1 + sum(row[5].count("\r\n") for row in found)


def test_a_parquet_file_read_back_is_the_store(hostile, tmp_path):
    to = tmp_path / "new/table.parquet"
    options = ["export", hostile.config.store, "-l", "conv5", "--to", str(to)]
    result = CliRunner().invoke(app, options)
    assert result.exit_code == 0, result.output
    table = parquet.read_table(to)
    assert table.column_names == COLUMNS
    assert [str(field.type) for field in table.schema] == [
        "string", "int32", "int32", "float", "int64", "string", "int32", "string", *["int32"] * 6, *["float"] * 4,
    ]  # fmt: skip
    assert [tuple(row.values()) for row in table.to_pylist()] == list(wanted_rows(hostile.config.store))


def test_a_layer_without_projections_has_no_boxes_and_one_without_ranks_no_table(hostile, tmp_path):
    store = Store.open(hostile.config.store, write=True)
    kept = store.fingerprint("deconvolve", "conv1"), store.fingerprint("rank", "conv1")
    store.set_fingerprint("deconvolve", None, "conv1")
    table = open_run(hostile.config.store).layer(1).table()
    assert (table["box_top"] == -1).all()
    assert np.isnan(table["source_box_top"]).all()
    assert len(table["key"]) > 100
    store.set_fingerprint("rank", None, "conv1")
    with pytest.raises(InputError, match=r"layer conv1 of .* is not ranked yet, 100% of its images are mined"):
        export(hostile.config.store, "1", str(tmp_path / "x.csv"))
    assert not (tmp_path / "x.csv").exists()
    for stage, fingerprint in zip(("deconvolve", "rank"), kept, strict=True):
        store.set_fingerprint(stage, fingerprint, "conv1")


def test_wrong_input_is_one_sentence(hostile, tmp_path, monkeypatch):
    for given, sentence in (
        (("9", "x.csv"), "has no layer 9: its layers are conv1, conv5"),
        (("1 conv9", "x.csv"), "has no layer conv9: its layers are conv1, conv5"),
        ((" ,", "x.csv"), "no layer is named: --layer is a number"),
        (("5", str(tmp_path)), "is a folder: give the name of a file in it"),
        (("5", "s3://bucket/x.csv"), "is a URL: tables are written to files"),
        (("5", "x.xls"), r"x\.xls does not end in \.csv or \.parquet"),
        (("5", str(tmp_path / "new/x")), r"x does not end in \.csv or \.parquet"),
    ):
        with pytest.raises(InputError, match=sentence):
            export(hostile.config.store, *given)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(tables, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs pyarrow: pip install 'topnine\[parquet\]'"):
        export(hostile.config.store, "5", str(tmp_path / "x.parquet"))


def invoke_tile(plan, *options):
    """Run ``topnine tile`` for the plan's run."""
    config = plan.config
    given = ["--data", config.data.path, "--store", config.store, "--set", f"data.classes={config.data.classes}"]
    return CliRunner().invoke(app, ["tile", *given, *options])


def draw(plan, *options) -> list[Path]:
    """Draw sheets; return the files whose paths are printed."""
    result = invoke_tile(plan, *options)
    assert result.exit_code == 0, result.output
    return [Path(line) for line in result.stdout.splitlines() if "/figures/" in line]


@pytest.mark.parametrize("options", [["--layer", "1 5"], ["--layer", "5", "--filter", "7"]])
def test_webp_has_the_pixels_of_the_png_and_pdf_its_size(hostile, tmp_path, options):
    drawn = {form: draw(hostile, *options, "--format", form) for form in ("png", "webp", "pdf")}
    names = [path.with_suffix("").name for path in drawn["png"]]
    assert names == (["layer1", "layer1-filters", "layer5"] if len(options) == 2 else ["layer5-filter7"])
    assert [path.name for path in drawn["webp"]] == [f"{name}.webp" for name in names]
    assert [path.name for path in drawn["pdf"]] == [f"{name}.pdf" for name in names]
    for png, webp, pdf in zip(*drawn.values(), strict=True):
        with Image.open(png) as one, Image.open(webp) as other:
            pixels = np.asarray(one)
            assert other.format == "WEBP"
            assert np.array_equal(pixels, np.asarray(other.convert("RGB")))
            assert one.text["network"] == "tiny_zfnet"
        assert np.abs(pdf_pixels(pdf, tmp_path) - pixels.astype(int)).mean() < 2
        height, width, _ = pixels.shape
        box = [float(number) for number in re.search(rb"/MediaBox \[ ([^]]+) \]", pdf.read_bytes())[1].split()]
        assert np.allclose(box, [0, 0, width * 72 / 300, height * 72 / 300])


def pdf_pixels(path: Path, folder: Path) -> np.ndarray:
    """Return the page at 300 pixels an inch: drawn by poppler where it is installed, else the one image in the file."""
    try:
        subprocess.run(["pdftoppm", "-r", "300", "-png", "-singlefile", path, folder / "page"], check=True)
        image = folder / "page.png"
    except FileNotFoundError:
        data = path.read_bytes()
        image = folder / "page.jpg"
        image.write_bytes(data[data.index(b"\xff\xd8\xff") : data.rindex(b"\xff\xd9") + 2])
    with Image.open(image) as page:
        return np.asarray(page.convert("RGB")).astype(int)


def test_a_pdf_says_what_it_shows_and_is_the_same_when_drawn_again(hostile):
    options = ["--layer", "5", "--filter", "3,17", "--format", "pdf"]
    (path,) = draw(hostile, *options)
    first = path.read_bytes()
    assert draw(hostile, *options) == [path]
    assert path.read_bytes() == first
    text = first.decode("latin-1").replace("\x00", "")
    assert "tiny_zfnet, layer 5 (conv5)" in re.sub(r"\\([()])", r"\1", text)
    assert "filters: 3 17" in text


def test_a_sheet_too_large_for_webp_is_one_sentence(hostile, monkeypatch):
    monkeypatch.setattr("topnine.stages.tile.WEBP_SIDE_PX", 100)
    result = invoke_tile(hostile, "--layer", "5", "--format", "webp")
    assert isinstance(result.exception, InputError)
    assert re.search(r"layer5\.webp would have [\d,]+ pixels, WebP has 100: --format png", str(result.exception))
