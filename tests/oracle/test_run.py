"""What the stages store against a loop over single images, a full sort, and networks run down by hand."""

import numpy as np
import pytest
import torch

from tests.conftest import normalised, run_stages, write_tar
from tests.oracle.chains import run_all, run_up
from topnine.pipeline.compute.patches import patch_size
from topnine.pipeline.data.decoding.decode import decode
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.store.store import Store
from topnine.stages.deconvolve import DeconvolveTask, deconvolve_filters
from topnine.stages.settings import projection_settings

NETWORKS = [
    ("tiny_zfnet", "configs/demo.toml", "bundled", 96),
    # Trained: of random weights some filters are so weak that float32 itself is 1e-4 of their maximum from float64.
    ("squeezenet1_0", "configs/imagenet-squeezenet.toml", "squeezenet1_0.safetensors", 224),
    ("alexnet", "configs/imagenet-alexnet.toml", "random", 224),
    pytest.param("vgg16", "configs/imagenet-vgg16.toml", "random", 224, marks=pytest.mark.slow),
    ("resnet18", "configs/imagenet-resnet18.toml", "random", 224),
]


FILTERS = 4  # that are projected and compared


@pytest.fixture(scope="module")
def shard(some_photos, tmp_path_factory):
    """Nineteen photographs, and one that cannot be decoded."""
    members = [*some_photos[:9], ("broken.jpg", b"not a picture"), *some_photos[9:19]]
    return write_tar(tmp_path_factory.mktemp("shard") / "a.tar", members)


def single_images(plan):
    """Every image of the plan's one shard on its own, decoded and normalised; None where it cannot be."""
    with open_reader(plan.dataset) as reader:
        for entry in list_images(plan.dataset.shards[0]):
            if entry.key == "broken":
                yield None
                continue
            data = reader.read(0, entry.offset, entry.size, entry.key)
            pixels = torch.from_numpy(decode(data, plan.preparation).pixels.copy())
            yield normalised(pixels[None], plan.network.architecture)


@pytest.mark.slow
@pytest.mark.parametrize("layer", [1, 5])
def test_projections_are_the_same_bytes_for_the_same_batches_and_nearly_so_for_others(planned, shard, layer):
    found = []
    for batch in (32, 32, 5):
        plan = planned(data__path=shard, mine__layers=str(layer), mine__block=16, deconvolve__batch=batch)
        run_stages(plan, "index", "mine", "rank")
        store = Store.open(plan.config.store, write=True)
        store.set_fingerprint("deconvolve", None, plan.layers[0].name)
        run_stages(plan, "deconvolve")
        found.append(store.layer(plan.layers[0].name).read("projection"))
    assert np.array_equal(found[0], found[1])
    scale = np.abs(found[0]).max(axis=(2, 3, 4), keepdims=True)
    assert (scale > 0).any()
    assert (np.abs(found[2] - found[0]) <= 1e-5 * scale).all()


@pytest.mark.parametrize(("name", "config", "weights", "size"), NETWORKS)
def test_a_run_stores_what_single_images_give(planned, shard, request, name, config, weights, size):
    if weights.endswith(".safetensors"):
        weights = request.getfixturevalue("test_data") / "weights" / weights
    plan = planned(
        config, network__weights=weights, data__path=shard, decode__resize=size, decode__crop=size, mine__layers="all",
        mine__block=16, mine__batch=8,
    )  # fmt: skip
    run_stages(plan, "index", "mine", "rank")
    store = Store.open(plan.config.store, write=True)
    module = plan.network.module
    images = list(single_images(plan))
    names = [layer.name for layer in plan.layers]
    with torch.no_grad():
        maps = [None if image is None else run_all(name, module, names, image) for image in images]
    for layer in plan.layers:
        check_activations(store, layer, [None if found is None else found[layer.name] for found in maps])
        check_ranking(store, layer)
    for layer in (plan.layers[0], plan.layers[-1]):
        check_projections(store, plan, layer, name, images)


def check_activations(store, layer, maps):
    stored = store.layer(layer.name).read_activation(slice(0, len(store.images)))
    row, column = store.layer(layer.name).read_mined(slice(None))[1:]
    expected = np.stack([np.full(layer.filters, np.nan) if m is None else m[0].amax((1, 2)).numpy() for m in maps])
    tolerance = 1e-5 * np.nanmax(expected, axis=0)
    bad = np.isnan(expected[:, 0])
    assert bad.tolist() == [key == "broken" for key in store.images.columns(["key"])[0]]
    assert np.isnan(stored[bad]).all()
    assert (row[bad] == 0).all()
    assert (np.abs(stored[~bad] - expected[~bad]) <= tolerance).all()
    for i in np.nonzero(~bad)[0]:
        there = maps[i][0].numpy()[np.arange(layer.filters), row[i], column[i]]
        assert (np.abs(there - expected[i]) <= tolerance).all()  # the same position, or one tied within the tolerance


def check_ranking(store, layer):
    stored = store.layer(layer.name).read_activation(slice(0, len(store.images)))
    ranking = store.layer(layer.name).read_ranking()
    for f in range(layer.filters):
        strongest = sorted((-value, image) for image, value in enumerate(stored[:, f].tolist()) if value > 0)[:9]
        assert ranking.image[f].tolist() == [image for _, image in strongest] + [-1] * (9 - len(strongest))
        assert ranking.activation[f, : len(strongest)].tolist() == [-value for value, _ in strongest]
    maximum, mean, active = (
        store.layer(layer.name).read(name) for name in ("max_activation", "mean_activation", "active_fraction")
    )
    assert np.array_equal(maximum, np.nanmax(stored, axis=0))
    assert np.allclose(mean, np.nanmean(stored, axis=0, dtype=np.float64))
    assert np.allclose(active, (stored > 0).sum(axis=0) / np.isfinite(stored[:, 0]).sum())


def check_projections(store, plan, layer, name, images):
    store.layer(layer.name).create_patches(*patch_size(layer.field, plan.preparation.size), 3)
    deconvolve_filters(range(FILTERS), DeconvolveTask(store.access, projection_settings(plan, layer, 2)))
    filters = slice(0, FILTERS)
    ranking = store.layer(layer.name).read_ranking(filters)
    patch, projection, box = (store.layer(layer.name).read(n, filters) for n in ("patch", "projection", "box"))
    for f in range(0, FILTERS):
        for rank in (0, 4, 8):
            image = ranking.image[f, rank]
            if image < 0:
                assert (box[f, rank] == -1).all()
                continue
            maps, down = run_up(name, plan.network.module, layer.name, images[image])
            seed = torch.zeros_like(maps)
            place = 0, f, ranking.row[f, rank], ranking.column[f, rank]
            seed[place] = maps[place]
            expected = down(seed)[0].permute(1, 2, 0).numpy()
            top, left, bottom, right = box[f, rank]
            found = projection[f, rank]
            assert np.abs(found - expected[top:bottom, left:right]).max() <= 1e-5 * np.abs(expected).max()
            assert np.abs(expected).sum() == pytest.approx(np.abs(expected[top:bottom, left:right]).sum(), rel=1e-5)
            again = normalised(torch.from_numpy(patch[f, rank])[None], plan.network.architecture)
            assert torch.equal(again, images[image][:, :, top:bottom, left:right])
