"""Data that was replaced or renamed after it was mined, shard for shard of the same size: every reader notices."""

import os
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import encode, noise, plan_run, run_stages
from tests.forms import Picture, class_folders, hugging_face, training_tar, webdataset
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.data.fetching import Look
from topnine.pipeline.errors import InputError, WorkError
from topnine.pipeline.store.store import Store
from topnine.stages.paper.invariance import invariance
from topnine.stages.paper.occlusion import occlusion
from topnine.stages.runner import STAGES, run
from topnine.stages.tile import SheetChoice, tile
from topnine.stages.tools.verify import verify
from topnine.stages.work import LOOK_COLUMNS, read_records

FORMS = {form.__name__: form for form in (class_folders, webdataset, training_tar, hugging_face)}
BYTES = 30_000  # of every image; what is behind a PNG's end is not read


def padded(seed: int) -> bytes:
    return encode(noise(seed)).ljust(BYTES, b"\0")


PICTURES = [Picture(f"p{i}", f"n{i % 2}", i % 2, padded(i)) for i in range(8)]
REPLACED = [p._replace(data=padded(100 + i)) for i, p in enumerate(PICTURES)]
RENAMED = [p._replace(key=f"r{i}") for i, p in enumerate(PICTURES)]

READERS = {
    "mine": (STAGES["mine"], {"mine__layers": "2"}),
    "deconvolve": (STAGES["deconvolve"], {"deconvolve__rule": "guided"}),
    "gallery": (STAGES["gallery"], {}),
    "grid": (partial(tile, choice=SheetChoice(single=0, grid=5)), {}),
    "invariance": (invariance, {}),
    "occlusion": (partial(occlusion, step=48), {}),
}


def write(form: str, pictures: list[Picture], folder: Path) -> Path:
    path = FORMS[form](pictures, folder)["path"]
    for file in (folder, *folder.rglob("*")):
        os.utime(file, (1, 1))
    return path


@pytest.fixture(scope="module", params=FORMS)
def mined(request, tmp_path_factory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    plan = plan_run(folder, data__path=write(request.param, PICTURES, folder / "data"), mine__layers="1")
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    return request.param, folder


def read_again(mined: tuple[str, Path], folder: Path, pictures: list[Picture], reader: str, modified: float) -> None:
    """Put other pictures where those of a run were, and run a stage that reads them."""
    form, original = mined
    shutil.copytree(original / "run.zarr", folder / "run.zarr")
    path = write(form, pictures, folder / "data")
    for file in (folder / "data").rglob("*"):
        os.utime(file, (modified, modified))
    stage, changes = READERS[reader]
    plan = plan_run(folder, data__path=path, **{"mine__layers": "1", **changes})
    with connect(plan.config.cluster) as pool:
        list(run(plan, pool, {"rank": STAGES["rank"], reader: stage} if "deconvolve" in reader else {reader: stage}))


@pytest.mark.parametrize("reader", READERS)
def test_unchanged_data_are_read_again(mined, tmp_path, reader):
    read_again(mined, tmp_path, PICTURES, reader, modified=2)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("modified", [1, 2], ids=["old", "new"])
def test_replaced_images_are_noticed_by_every_reader(mined, tmp_path, reader, modified):
    with pytest.raises(WorkError, match=r"shard .*: image .*p\d has changed since it was mined: it has 96 × 96 pixels"):
        read_again(mined, tmp_path, REPLACED, reader, modified)


@pytest.mark.parametrize("reader", READERS)
def test_renamed_images_are_noticed_by_every_reader(mined, tmp_path, reader):
    """A Parquet file of other names may have another size, too, which planning notices."""
    with pytest.raises((WorkError, InputError), match=r"has changed since it was indexed: |was made with data = "):
        read_again(mined, tmp_path, RENAMED, reader, modified=2)


def test_verify_notices_replaced_images(mined, tmp_path):
    form, original = mined
    shutil.copytree(original / "run.zarr", tmp_path / "run.zarr")
    path = write(form, REPLACED, tmp_path / "data")
    problems = [
        text for check in verify(str(tmp_path / "run.zarr"), {"data.path": str(path)}, 0) for text in check.problems
    ]
    assert any("has changed since it was mined" in text for text in problems)
    assert any("hash is" in text for text in problems)


def test_a_mined_image_is_expected_to_look_as_it_did(mined):
    store = Store.open(str(mined[1] / "run.zarr"))
    hashes, height, width = store.images.columns(LOOK_COLUMNS)
    looks = [record.look for record in read_records(store, np.array([3, 0]))]
    assert looks == [Look(int(hashes[i]), int(height[i]), int(width[i])) for i in (3, 0)]
    assert (looks[0].height, looks[0].hash != looks[1].hash) == (96, True)
