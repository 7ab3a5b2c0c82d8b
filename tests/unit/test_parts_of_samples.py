"""Which pictures of a WebDataset's samples are images, and which belong to one."""

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.reader import first_images, list_images
from topnine.stages.index import index

PICTURE = encode(noise(0, 8, 8))
SAMPLES = {
    "a mask beside an image": (["0.jpg", "0.seg.png", "1.jpg", "1.seg.png"], ["0", "1"]),
    "a mask before its image": (["0.mask.png", "0.jpg", "0.cls"], ["0"]),
    "parts that are named": (["0.image.png", "0.mask.png", "0.json", "1.depth.png", "1.rgb.png"], ["0.image", "1.rgb"]),
    "two views, and no image among them": (["0.left.png", "0.right.png"], ["0.left", "0.right"]),
    "features beside an image": (["0.jpg", "0.npy", "1.npy", "1.jpg"], ["0", "1"]),
    "arrays alone": (["0.npy", "1.npy"], ["0", "1"]),
    "names with dots": (["v1.0.jpg", "v1.1.jpg", "v1.2.jpg"], ["v1.0", "v1.1", "v1.2"]),
    "the same names in other folders": (["a/0.jpg", "b/0.seg.png"], ["0", "0.seg"]),
    "parts that do not follow their image": (["0.jpg", "1.jpg", "0.seg.png"], ["0", "1", "0.seg"]),
}


@pytest.mark.parametrize(("names", "keys"), SAMPLES.values(), ids=SAMPLES)
def test_parts_of_samples_are_no_images(tmp_path, names, keys):
    contents = {".cls": b"3", ".json": b'{"label": 3}'}
    path = write_tar(tmp_path / "a.tar", [(name, contents.get(name[name.rindex(".") :], PICTURE)) for name in names])
    (shard,) = find_dataset(str(path)).shards
    listing = list_images(shard)
    assert [entry.key for entry in listing] == keys
    assert [entry.key for entry in first_images(shard, 99)] == keys
    pictures = [name for name in names if not name.endswith((".cls", ".json"))]
    assert listing.parts.count == len(pictures) - len(keys)


def test_a_flat_tar_of_many_names_with_dots_loses_none(tmp_path):
    names = [f"ILSVRC2012.val.{i:04}.png" for i in range(300)]
    path = write_tar(tmp_path / "a.tar", [(name, PICTURE) for name in names])
    assert len(list_images(find_dataset(str(path)).shards[0])) == 300


def test_what_is_left_out_is_said(tmp_path):
    members = [pair for i in range(3) for pair in ((f"{i}.png", PICTURE), (f"{i}.seg.png", PICTURE))]
    plan = plan_run(tmp_path, data__path=write_tar(tmp_path / "data/a.tar", members))
    assert plan.images.sample(9).shape[0] == 3
    notes = []

    def note(plan, pool, store):
        for progress in index(plan, pool, store):
            notes.append(progress.note)
            yield progress

    from topnine.pipeline.cluster.kinds import connect
    from topnine.stages.runner import run

    with connect(plan.config.cluster) as pool:
        list(run(plan, pool, {"index": note}))
    assert "3 pictures belong to images and are none themselves, such as 0.seg.png" in notes


def test_arrays_beside_the_images_of_a_folder_are_none(tmp_path):
    for name in ("cat", "dog"):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.fromarray(noise(i, 8, 8)).save(folder / f"{i}.tif")
            np.save(folder / f"{i}.npy", np.zeros((8, 8), np.uint8))
    plan = plan_run(tmp_path / "out", data__path=tmp_path / "data")
    run_stages(plan, "index")
    found = [entry.key for shard in plan.dataset.shards for entry in list_images(shard)]
    assert len(found) == len(ImageFolder(tmp_path / "data").samples) == 4
