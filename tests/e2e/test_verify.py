"""``topnine verify`` passes a sound store and finds every kind of damage in every array."""

import json
import random
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from tests.conftest import plan_run, run_stages, write_tar
from topnine.pipeline.compute.footprints import trace
from topnine.pipeline.store.store import Store
from topnine.stages.cli.main import app
from topnine.stages.tools.verify import verify

IMAGE_ARRAYS = ["key", "shard", "offset", "byte_count", "label", "status", "reason", "source_height",
                "source_width", "difference_hash"]  # fmt: skip
LAYER_ARRAYS = [
    "activation", "row", "column", "top_image", "top_activation", "top_row", "top_column", "max_activation",
    "mean_activation", "active_fraction", "patch", "projection", "box", "source_box", "footprint", "mask", "tie",
    "histogram", "bin_edge", "activation_quantile", "class_mean", "class_entropy", "top_class", "top_class_count",
    "top_class_lift", "coactive", "correlation", "filter", "rank", "y", "x", "rgb", "corner", "place",
    "quantile_level", "class_name",
]  # fmt: skip
ARRAYS = [f"images/{name}" for name in IMAGE_ARRAYS] + [f"layers/conv5/{name}" for name in LAYER_ARRAYS]


@pytest.fixture(scope="module")
def finished(some_photos, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    labels = [(f"{name.removesuffix('.png')}.cls", b"%d" % (i % 3)) for i, (name, _) in enumerate(some_photos[:20])]
    write_tar(folder / "data" / "a.tar", [*sorted(some_photos[:20] + labels), ("bad.png", b"\x89PNG no")])
    plan = plan_run(folder, data__path=folder / "data", mine__block=8, mine__batch=4)
    run_stages(plan, "index", "mine", "rank", "statistics", "deconvolve")
    return Path(plan.config.store)


@pytest.fixture
def store(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run.zarr"))


def first_problem(store: Path) -> str:
    """Verify up to the first check that fails."""
    return next((str(check) for check in verify(str(store), {}, 0) if check.problems), "")


def test_a_sound_store_passes_every_check_one_line_each(store):
    result = CliRunner().invoke(app, ["verify", str(store), "--trust"])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 20))])
def test_damage_in_any_array_is_found_and_named(store, damage, seed):
    chance = random.Random(f"{damage} {seed}")
    damaged = []
    for array in ARRAYS:
        chunk = chance.choice(sorted(path for path in (store / array / "c").rglob("*") if path.is_file()))
        data = bytearray(chunk.read_bytes())
        if damage == "flip":
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        elif damage == "truncate":
            del data[chance.randrange(len(data)) :]
        chunk.write_bytes(data)
        if damage == "remove":
            chunk.unlink()
        damaged.append(chunk.relative_to(store).as_posix())
    checks = verify(str(store), {}, seed)
    problems = [*next(checks).problems, *next(checks).problems]
    named = [problem.split(" is ")[0] for problem in problems]
    assert sorted(named) == sorted(damaged)
    for problem, name in zip(problems, named, strict=True):
        is_there = (store / name).exists() and (store / name).stat().st_size > 0
        assert (" is damaged" if is_there else " is missing or empty") in problem


@pytest.mark.parametrize("array", ["images/key", "images/status", "layers/conv5/row", "layers/conv5/patch"])
def test_damaged_metadata_is_found(store, array):
    document = store / array / "zarr.json"
    described = json.loads(document.read_text())
    described["dimension_names"][0] = "other"
    document.write_text(json.dumps(described))
    assert f"{array}/zarr.json is not what the schema wants" in first_problem(store)
    document.write_text("{")
    assert array in first_problem(store)
    assert "damaged" in first_problem(store)


@pytest.mark.parametrize(
    ("array", "at", "sentence"),
    [
        ("top_image", (3, 4), "ranking: filter 3 is not what a full sort"),
        ("top_row", (3, 4), "ranking: filter 3 is not what a full sort"),
        ("mean_activation", (3,), "ranking: filter 3 is not what a full sort"),
        ("activation", (slice(None), slice(None)), "mined again: image"),
        ("row", (slice(None), slice(None)), "mined again: image"),
        ("source_box", slice(None), "deconvolved again: source_box of filter"),
        ("corner", 2, "chunks: layers/conv5/corner does not hold the values that the schema wants"),
        ("patch", slice(None), "deconvolved again: patch of filter"),
        ("projection", slice(None), "deconvolved again: projection of filter"),
        ("footprint", (3, 4), "deconvolved again: the footprint or the mask of filter 3 is not that of its projection"),
        ("mask", (3, 4), "deconvolved again: the footprint or the mask of filter 3 is not that of its projection"),
    ],
)
def test_wrong_values_with_right_checksums_are_found(store, array, at, sentence):
    group = zarr.open_group(store / "layers/conv5")
    values = group[array][at]
    group[array][at] = values + np.asarray(1, values.dtype)
    found = [str(check) for check in verify(str(store), {}, 0) if check.problems]
    assert any(sentence in text for text in found), found


def test_a_store_that_is_still_being_mined_passes(store):
    for kind in ("rank", "deconvolve"):
        Store.open(str(store), write=True).set_fingerprint(kind, None, "conv5")
    (store / "progress/done/conv5/c/1").unlink()
    (store / "layers/conv5/row/c/1/0").unlink()
    lines = [str(check) for check in verify(str(store), {}, 0)]
    assert len(lines) == 4
    assert all(line.startswith("ok ") for line in lines), lines
    assert "2 of 3 blocks" in lines[1]


def test_images_that_are_gone_fail_the_samples_with_a_sentence(store, tmp_path):
    result = CliRunner().invoke(app, ["verify", str(store), "--data", str(tmp_path / "nowhere")])
    assert result.exit_code == 1
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "FAILED", "FAILED", "FAILED"]
    assert "nowhere" in lines[3]


def test_a_shard_with_another_name_in_it_is_found(store, finished, tmp_path):
    """Its size is the same, and no sample need hold the image."""
    shard = Path(shutil.copytree(finished.parent / "data", tmp_path / "data"), "a.tar")
    with tarfile.open(shard) as container:
        members = [(member.name, container.extractfile(member).read()) for member in container]
    renamed = next(name for name, _ in members if name.endswith(".png"))
    write_tar(shard, [(f"x{name[1:]}" if name == renamed else name, data) for name, data in members])
    (found,) = [check for check in verify(str(store), {"data.path": str(shard.parent)}, 0) if check.name == "data"]
    assert "a.tar has changed since it was indexed" in found.problems[0]


def write_projection(layer, projection):
    """Write projections, and what is recorded of where their energy is."""
    layer["projection"][:] = projection
    box, footprint, mask = (layer[name][:] for name in ("box", "footprint", "mask"))
    for hit in zip(*np.nonzero(layer["top_image"][:] >= 0), strict=True):
        footprint[hit], mask[hit] = trace(projection[hit], box[hit])
    layer["footprint"][:], layer["mask"][:] = footprint, mask


def test_projections_that_hang_on_a_near_tie_are_counted_and_may_differ_a_little(store):
    layer = zarr.open_group(store)["layers/conv5"]
    assert not layer["tie"][:].any() or layer["tie"].dtype == bool
    filled = layer["top_image"][:] >= 0
    layer["tie"][:] = filled
    projection = layer["projection"][:]
    scale = np.abs(projection).max(axis=(2, 3, 4), keepdims=True)
    write_projection(layer, projection + 0.03 * scale)
    checks = list(verify(str(store), {}, 0))
    assert not any(check.problems for check in checks)
    assert f"{filled.sum():,} of {filled.sum():,} projections hang on a near-tie" in str(checks[-1])
    write_projection(layer, projection + scale)
    assert "projection of filter" in first_problem(store)
    write_projection(layer, projection + 0.03 * scale)
    layer["tie"].with_config({"write_empty_chunks": True})[:] = False
    assert "projection of filter" in first_problem(store)
