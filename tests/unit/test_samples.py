import numpy as np
import pytest

from tests.conftest import encode, noise, plan_run, run_stages
from topnine.pipeline.errors import InputError
from topnine.pipeline.store.store import Store
from topnine.stages.paper.samples import name_class, pick_images, true_class


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """Two class folders of four images each, one of them damaged."""
    folder = tmp_path_factory.mktemp("samples")
    for i in range(8):
        path = folder / "data" / ("cat" if i < 4 else "dog") / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(i)) if i != 3 else b"no image")
    plan = plan_run(folder, data__path=folder / "data", mine__layers="1")
    run_stages(plan, "index")
    with pytest.raises(InputError, match=r"no image of store .* is mined yet"):
        pick_images(Store.open(plan.config.store), [], 2, 0)
    run_stages(plan, "mine")
    return Store.open(plan.config.store)


def test_images_are_chosen_by_key_in_the_order_given(store):
    samples = pick_images(store, ["5", "0"], 3, 0)
    assert [(sample.key, sample.image, sample.label) for sample in samples] == [("5", 5, 1), ("0", 0, 0)]


def test_a_random_choice_depends_on_the_seed_alone_and_leaves_damaged_images_out(store):
    chosen = {seed: [sample.image for sample in pick_images(store, [], 3, seed)] for seed in range(20)}
    assert chosen[0] == [sample.image for sample in pick_images(store, [], 3, 0)]
    assert {image for images in chosen.values() for image in images} == {0, 1, 2, 4, 5, 6, 7}
    assert all(len(images) == 3 and images == sorted(images) for images in chosen.values())
    assert len(pick_images(store, [], 99, 0)) == 7


def test_keys_that_cannot_be_shown_are_named(store):
    with pytest.raises(InputError, match=r"there is no image 'x' in store .*: --images takes keys, as '0'"):
        pick_images(store, ["0", "x"], 3, 0)
    with pytest.raises(InputError, match=r"image '3' of store .* is damaged or not mined yet"):
        pick_images(store, ["3"], 3, 0)


def test_folders_name_the_classes_of_a_network_with_as_many(store):
    (dog,) = pick_images(store, ["5"], 1, 0)
    true = true_class(store, dog, np.array([0.9, 0.1]))
    assert (true.number, true.name, true.source) == (1, "dog", "label")


def test_folders_that_are_fewer_than_the_networks_classes_are_no_labels_of_these(store):
    (dog,) = pick_images(store, ["5"], 1, 0)
    true = true_class(store, dog, np.array([0.1, 0.2, 0.7]))
    assert (true.number, true.name, true.source) == (2, "2", "most likely")
    assert name_class(store, 1, 3) == "1"
