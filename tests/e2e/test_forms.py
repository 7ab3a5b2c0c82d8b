"""ImageNet's photographs in every form, through the real stages: the same top nine, by key."""

import numpy as np
import pytest

from tests.conftest import plan_run, run_stages
from tests.e2e.test_commands import topnine
from tests.forms import FORMS, Picture, class_folders
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.entry import Entry
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.plan import Plan
from topnine.pipeline.store.store import Store


@pytest.fixture(scope="module")
def classes(test_data):
    return test_data / "data/imagenet-classes.tsv"


@pytest.fixture(scope="module")
def imagenet(test_data) -> list[Picture]:
    dataset = find_dataset(str(test_data / "data/imagenet-500"))
    with open_reader(dataset) as reader:

        def picture(number: int, entry: Entry) -> Picture:
            return Picture(
                f"{entry.key}_1", entry.key, entry.label, reader.read(number, entry.offset, entry.size, entry.key)
            )

        return [picture(n, entry) for n, shard in enumerate(dataset.shards) for entry in list_images(shard)]


def strongest(plan: Plan) -> tuple[dict[str, int], np.ndarray, np.ndarray]:
    """Labels by key; the nine strongest keys and activations of every filter."""
    store = Store.open(plan.config.store)
    keys, labels = store.images.columns(("key", "label"))
    ranking = store.layer("conv5").read_ranking()
    return dict(zip(keys.tolist(), labels.tolist(), strict=True)), keys[ranking.image], ranking.activation


def mine_form(folder, form, imagenet, classes):
    found = form(imagenet, folder / "data")
    labels = {"data__labels": found["labels"]} if "labels" in found else {}
    plan = plan_run(folder, data__path=found["path"], data__classes=classes, mine__layers="5", **labels)
    run_stages(plan, "index", "mine", "rank")
    return plan


@pytest.fixture(scope="module")
def expected(imagenet, classes, tmp_path_factory):
    return strongest(mine_form(tmp_path_factory.mktemp("folders"), class_folders, imagenet, classes))


@pytest.mark.parametrize("form", [form for form in FORMS if form is not class_folders], ids=lambda form: form.__name__)
def test_every_form_has_the_same_top_nine(tmp_path, form, imagenet, classes, expected):
    labels, keys, activation = strongest(mine_form(tmp_path, form, imagenet, classes))
    assert labels == expected[0]
    assert labels == {picture.key: picture.label for picture in imagenet}
    # The images stand in other batches in another form, which may change the last bits of an activation.
    assert np.allclose(activation, expected[2], rtol=1e-5)
    swapped = keys != expected[1]
    assert swapped.mean() < 0.001
    assert np.allclose(activation[swapped], expected[2][swapped], rtol=1e-5)


def test_class_names_go_into_the_store(tmp_path, imagenet, classes):
    plan = mine_form(tmp_path, class_folders, imagenet[:20], classes)
    names = Store.open(plan.config.store).attributes["dataset"]["classes"]
    assert (len(names), names[0], names[1]) == (1000, "tench", "goldfish")


def test_packed_shards_hold_the_same_images_or_smaller_ones(tmp_path, imagenet, classes):
    source = class_folders(imagenet[:40], tmp_path / "data")["path"]
    whole = topnine("pack", "--data", source, "--to", tmp_path / "whole", "--shard-mib", "1", "--classes", classes)
    small = topnine("pack", "--data", source, "--to", tmp_path / "small", "--resize", "64", "--classes", classes)
    assert (whole.returncode, small.returncode) == (0, 0), whole.stderr + small.stderr
    packed = {name: find_dataset(str(tmp_path / name)) for name in ("whole", "small")}
    assert len(packed["whole"].shards) > 2
    assert max(shard.size for shard in packed["whole"].shards) < 2 * 2**20
    with open_reader(packed["whole"]) as reader:
        found = {
            (entry.key, entry.label): reader.read(number, entry.offset, entry.size, entry.key)
            for number, shard in enumerate(packed["whole"].shards)
            for entry in list_images(shard)
        }
    assert found == {(picture.key, picture.label): picture.data for picture in imagenet[:40]}
    entries = list_images(packed["small"].shards[0])
    assert len(entries) == 40
    assert sum(entry.size for entry in entries) < sum(len(data) for data in found.values()) / 5
    again = topnine("pack", "--data", source, "--to", tmp_path / "small")
    assert again.returncode == 2
    assert "is not an empty folder" in again.stderr
