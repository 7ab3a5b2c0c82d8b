"""Figures 4 to 7, compared with slow and obvious code of the tests' own: PIL, numpy, and the network's modules."""

import csv
import hashlib
import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from typer.testing import CliRunner

from tests.conftest import REPOSITORY, plan_run, run_stages, write_tar
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.drawing.sheets import choose_filters
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.classifier import find_classifier
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.store.store import Store
from topnine.stages.cli.main import app
from topnine.stages.paper.occlusion import OccludeTask, Square, occlude_image
from topnine.stages.paper.samples import Sample
from topnine.stages.settings import classifier_run

pytestmark = pytest.mark.slow

GREY = 102  # of 255: the mean below, so that a picture can hold exactly what normalisation takes for zero
MEAN, STD = [0.4, 0.4, 0.4], [0.25, 0.25, 0.25]
LABEL = 7


def topnine(*arguments):
    finished = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if finished.exception is not None:
        raise finished.exception
    return finished.stdout.splitlines()


def read_csv(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small(tmp_path_factory, some_photos):
    """Forty tiles, every second one with a label, mined for layers 1 and 5 of tiny_zfnet."""
    folder = tmp_path_factory.mktemp("figures")
    images = some_photos[:40]
    labels = [(name.replace(".png", ".cls"), str(LABEL).encode()) for name, _ in images[::2]]
    data = write_tar(folder / "data/tiles.tar", sorted(images + labels))
    plan = plan_run(folder, mine__layers="1 5", data__path=data, network__mean=MEAN, network__std=STD, mine__batch=16)
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    pictures = {name.removesuffix(".png"): Image.open(io.BytesIO(png)).convert("RGB") for name, png in images}
    return folder, plan, pictures


def command(small, name, *options):
    folder, _, _ = small
    common = ["--config", REPOSITORY / "configs/demo.toml", "--store", folder / "run.zarr", "--data", folder / "data"]
    own = [f"network.mean={MEAN}", f"network.std={STD}", "mine.batch=16"]
    return topnine(name, *common, *(part for setting in own for part in ("--set", setting)), *options)


def normalised(pixels):
    """Give a picture as the network's input, by numpy alone."""
    scaled = (np.asarray(pixels, np.float64) / 255 - MEAN) / STD
    return torch.from_numpy(scaled.transpose(2, 0, 1)[None]).float()


def run_by_hand(module, x):
    """Give the first map, the fifth, the last hidden feature and the probabilities, module by module."""
    with torch.no_grad():
        first = F.relu(module.conv1(x))
        x = module.pool(F.relu(module.conv2(module.pool(first))))
        fifth = F.relu(module.conv5(F.relu(module.conv4(F.relu(module.conv3(x))))))
        hidden = F.relu(module.fc6(F.adaptive_avg_pool2d(module.pool(fifth), 4).flatten(1)))
        return first, fifth, hidden, F.softmax(module.fc7(hidden), dim=1)[0]


# -- Figure 5 ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def invariance(small):
    keys = list(small[2])[1:3]  # the first without a label, the second with one
    paths = command(small, "invariance", "--images", ",".join(keys))
    return keys, paths, read_csv(paths[-1])


def test_invariance_is_zero_where_nothing_is_done_and_says_which_class_it_follows(small, invariance):
    keys, paths, rows = invariance
    assert [path.rsplit("/", 1)[1] for path in paths] == ["invariance.png", "invariance.pdf", "invariance.csv"]
    assert len(rows) == 2 * (25 + 17 + 73)
    neutral = {"translation": "0", "scale": "1", "rotation": "0"}
    unchanged = [row for row in rows if row["value"] == neutral[row["transformation"]]]
    assert len(unchanged) == 2 * 3
    assert {row["first layer distance"] for row in unchanged} == {"0"} == {r["last hidden distance"] for r in unchanged}
    others = [row for row in rows if row not in unchanged and row["value"] != "360"]
    assert min(float(row["first layer distance"]) for row in others) > 1
    module = small[1].network.module
    expected = run_by_hand(module, normalised(small[2][keys[0]]))[3].argmax().item()
    assert {(row["image"], row["class"], row["class from"]) for row in rows} == {
        (keys[0], str(expected), "most likely"),
        (keys[1], str(LABEL), "label"),
    }


@pytest.mark.parametrize(
    ("name", "value", "transform"),
    [
        ("translation", "-13", lambda a: np.concatenate([a[13:], np.full_like(a[:13], GREY)])),
        ("translation", "26", lambda a: np.concatenate([np.full_like(a[:26], GREY), a[:-26]])),
        ("rotation", "90", lambda a: np.rot90(a, -1)),
        ("rotation", "180", lambda a: a[::-1, ::-1]),
    ],
)
def test_invariance_is_what_moved_pictures_give(small, invariance, name, value, transform):
    keys, _, rows = invariance
    module = small[1].network.module
    for key in keys:
        (row,) = [r for r in rows if (r["image"], r["transformation"], r["value"]) == (key, name, value)]
        picture = np.asarray(small[2][key])
        before = run_by_hand(module, normalised(picture))
        after = run_by_hand(module, normalised(transform(picture)))
        first, hidden = (torch.dist(after[i], before[i]).item() for i in (0, 2))
        assert float(row["first layer distance"]) == pytest.approx(first, rel=1e-3)
        assert float(row["last hidden distance"]) == pytest.approx(hidden, rel=1e-3)
        assert float(row["probability"]) == pytest.approx(after[3][int(row["class"])].item(), abs=1e-4)


def test_scale_enlarges_about_the_centre(small, invariance):
    keys, _, rows = invariance
    (row,) = [r for r in rows if (r["image"], r["transformation"], r["value"]) == (keys[0], "scale", "1.5")]
    part = small[2][keys[0]].crop((16, 16, 80, 80)).resize((96, 96), Image.Resampling.BILINEAR)
    before, after = (run_by_hand(small[1].network.module, normalised(p)) for p in (small[2][keys[0]], part))
    # Pillow rounds to whole values, and ends at the part's edge where the network's input goes on.
    assert float(row["last hidden distance"]) == pytest.approx(torch.dist(after[2], before[2]).item(), rel=0.05)


# -- Figure 6 ---------------------------------------------------------------------------------------------------------


def test_the_first_layer_beside_that_of_a_network_with_a_dead_filter(small, tmp_path):
    folder, plan, _ = small
    state = load_network(NetworkConfig(name="tiny_zfnet", weights="bundled")).module.state_dict()
    state = {key: tensor.clone().contiguous() for key, tensor in state.items()}
    state["conv1.weight"][5], state["conv1.bias"][5] = 0, -1
    safetensors.torch.save_file(state, tmp_path / "dead.safetensors")
    other = plan_run(
        tmp_path, mine__layers="1", data__path=folder / "data", network__weights=tmp_path / "dead.safetensors"
    )
    configuration = tmp_path / "other.toml"
    configuration.write_text(
        f'store = "{tmp_path}/run.zarr"\n[network]\nname = "tiny_zfnet"\nweights = "{tmp_path}/dead.safetensors"\n'
        f'[data]\npath = "{folder}/data"\n[decode]\nresize = 96\ncrop = 96\n[mine]\nlayers = "1"\nblock = 64\n'
    )
    run_stages(other, "index", "mine")
    with pytest.raises(InputError, match=r"layer conv1 is not ranked in store .*run.zarr"):
        command(small, "first-layer", "--beside", configuration)
    run_stages(other, "rank")
    rows = read_csv(command(small, "first-layer", "--beside", configuration)[-1])
    assert [int(row["filter"]) for row in rows] == [*range(64), *range(64)]
    store = Store.open(plan.config.store)
    weights = plan.network.module.conv1.weight
    for row, own, maximum in zip(rows, weights, store.layer("conv1").read("max_activation"), strict=False):
        assert np.float32(row["largest absolute weight"]) == own.abs().max()
        assert float(row["L2 norm"]) == pytest.approx(own.norm().item(), rel=1e-5)
        assert np.float32(row["maximum activation"]) == maximum
    assert [row["dead"] for row in rows[64:]] == ["yes" if f == 5 else "no" for f in range(64)]
    assert {row["dead"] for row in rows[:64]} == {"no"}
    with Image.open(folder / "run/figures/first-layer.png") as both:
        wide = both.width
    command(small, "first-layer")
    with Image.open(folder / "run/figures/first-layer.png") as alone:
        assert alone.width * 2 == wide


# -- Figure 7 ---------------------------------------------------------------------------------------------------------


def test_occlusion_is_what_pictures_with_a_grey_square_give(small):
    _, plan, pictures = small
    key = list(pictures)[5]
    rows = read_csv(command(small, "occlusion", "--layer", "1 5", "--images", key, "--side", 30, "--step", 20)[-1])
    module = plan.network.module
    _, fifth, _, probability = run_by_hand(module, normalised(pictures[key]))
    strongest, likely = fifth[0].flatten(1).max(dim=1).values.argmax().item(), probability.argmax().item()
    starts = [-5, 15, 35, 55, 75]  # of centres 10, 30, 50, 70, 90
    assert [(int(row["top"]), int(row["left"])) for row in rows] == [(top, left) for top in starts for left in starts]
    for row in rows:
        top, left = int(row["top"]), int(row["left"])
        covered = pictures[key].copy()
        covered.paste((GREY, GREY, GREY), (left, top, left + 30, top + 30))
        _, fifth, _, probability = run_by_hand(module, normalised(covered))
        assert int(row["filter"]) == strongest
        assert float(row["activity"]) == pytest.approx(fifth[0, strongest].sum().item(), rel=1e-3)
        assert (int(row["class"]), row["class from"]) == (likely, "most likely")
        assert float(row["probability"]) == pytest.approx(probability[likely].item(), abs=1e-4)
        assert int(row["most likely class"]) == probability.argmax().item()
    assert len({row["activity"] for row in rows}) > 20


def occlude_task(plan, layer, square):
    run = classifier_run(plan, find_classifier(plan.graph), {"layer": layer}, threads=1)
    return OccludeTask(plan.config.store, plan.images, run, layer, plan.rules, "float32", square)


def test_a_square_that_a_shallow_unit_does_not_see_leaves_its_activity_as_it_is(small):
    """Filters of layer 1 see 7 pixels: where the image is grey already, the square changes nothing."""
    folder = small[0]
    grey = Image.new("RGB", (96, 96), (GREY, GREY, GREY))
    grey.paste((255, 0, 0), (8, 8, 40, 40))
    buffer = io.BytesIO()
    grey.save(buffer, "PNG")
    write_tar(folder / "grey/a.tar", [("grey.png", buffer.getvalue())])
    own = plan_run(folder / "grey", mine__layers="1", data__path=folder / "grey", network__mean=MEAN, network__std=STD)
    run_stages(own, "index", "mine", "rank")
    found = occlude_image(Sample(0, "grey", -1), occlude_task(own, own.layers[0], Square(16, 16)))
    assert found.activity[4, 4] == pytest.approx(found.unmodified_activity, rel=1e-6)
    assert np.allclose(found.probability[4, 4], found.unmodified_probability, rtol=1e-4)
    assert found.activity[1, 1] != pytest.approx(found.unmodified_activity, rel=0.05)


def test_the_projection_beside_the_maps_is_that_of_the_store(small):
    _, plan, _ = small
    store, layer = Store.open(plan.config.store), plan.layers[-1]
    ranking = store.layer(layer.name).read_ranking()
    filter = int(ranking.activation[:, 0].argmax())  # the strongest of all, so the strongest on its own image
    image = int(ranking.image[filter, 0])
    found = occlude_image(Sample(image, "", -1), occlude_task(plan, layer, Square(48, 48)))
    expected = store.layer(layer.name).read("projection", slice(filter, filter + 1))[0, 0]
    assert found.filter == filter
    assert np.allclose(found.projection, expected, atol=1e-4 * np.abs(expected).max())


def test_figures_are_the_same_bytes_when_they_are_drawn_again(small):
    options = ["occlusion", "--layer", "5", "--side", "48", "--step", "48"]

    def digests(paths):
        return [hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in paths]

    first = digests(command(small, *options))
    assert digests(command(small, *options)) == first
    assert digests(command(small, *options, "--set", "tile.seed=3"))[2] != first[2]  # other images


# -- Figure 4 ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoints(tmp_path):
    """The bundled weights after the same with noise, as weights files."""
    state = load_network(NetworkConfig(name="tiny_zfnet", weights="bundled")).module.state_dict()
    torch.manual_seed(0)
    noisy = {key: tensor + 0.5 * tensor.std() * torch.randn_like(tensor) for key, tensor in state.items()}
    noisy["conv5.bias"][9] = -1e6
    for name, tensors in (("epoch-1", noisy), ("epoch-2", state)):
        safetensors.torch.save_file({k: t.contiguous() for k, t in tensors.items()}, tmp_path / f"{name}.safetensors")
    return [str(tmp_path / f"epoch-{n}.safetensors") for n in (1, 2)]


def test_evolution_shows_what_each_checkpoints_store_ranks_first(small, checkpoints):
    folder, plan, _ = small
    options = [
        "evolution",
        "--layer",
        "5",
        "--filter",
        "3,9",
        "--set",
        f"network.checkpoints={json.dumps(checkpoints)}",
    ]
    rows = read_csv(command(small, *options)[-1])
    expected = []
    for filter in (3, 9):
        for name in ("epoch-1", "epoch-2"):
            store = Store.open(str(folder / f"run/checkpoints/{name}.zarr"))
            ranking = store.layer("conv5").read_ranking(slice(filter, filter + 1))
            image = ranking.image[0, 0]
            key = store.images.columns(["key"], np.array([image]))[0][0] if image >= 0 else ""
            expected.append(("conv5", filter, name, ranking.activation[0, 0] if image >= 0 else "", key))
    found = [(r["layer"], int(r["filter"]), r["checkpoint"], r["activation"], r["image"]) for r in rows]
    assert found == [(*e[:3], f"{e[3]:.9g}" if e[4] else "", e[4]) for e in expected]
    assert [row["activation"] == "" for row in rows] == [False, False, True, False]
    main = Store.open(plan.config.store).layer("conv5").read_ranking()  # of the bundled weights, but another batch
    assert float(rows[1]["activation"]) == pytest.approx(main.activation[3, 0], rel=1e-4)
    before = {path: path.stat().st_mtime_ns for path in (folder / "run/checkpoints").rglob("c/*") if path.is_file()}
    command(small, *options)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_default_filters_of_evolution_are_live_at_the_last_checkpoint(small, checkpoints):
    given = ["--set", f"network.checkpoints={json.dumps(checkpoints[::-1])}"]  # the one with a dead filter last
    seed = next(seed for seed in range(99) if 9 in choose_filters(np.arange(128), 6, seed))  # it would be chosen
    rows = read_csv(command(small, "evolution", "--layer", "5", *given, "--set", f"tile.seed={seed}")[-1])
    assert len({row["filter"] for row in rows}) == 6
    assert all(row["activation"] for row in rows if row["checkpoint"] == "epoch-1")
    assert "9" not in {row["filter"] for row in rows}


# -- what a user can cause --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["evolution"], "no checkpoints are named: network.checkpoints is a list"),
        (["evolution", "--set", 'network.checkpoints=["a/x.pth", "b/x.npz"]'], "two of network.checkpoints .* 'x'"),
        (["evolution", "--set", 'network.checkpoints=["nothing.pth"]'], "there is no weights file nothing.pth"),
        (["evolution", "--set", 'network.checkpoints=["random"]', "--filter", "999"], "has no filter 999"),
        (["invariance", "--images", "nobody"], "there is no image 'nobody' in store"),
        (["invariance", "--store", "nothing.zarr"], "there is no store at nothing.zarr"),
        (["occlusion", "--layer", "5", "--side", "97"], "--side 97 is more than the input's side, 96 pixels"),
        (["occlusion", "--layer", "5", "--step", "200"], "--step 200 is more than"),
        (["occlusion", "--layer", "4"], "layer conv4 is not ranked"),
    ],
)
def test_wrong_input_is_one_sentence(small, options, sentence):
    with pytest.raises(InputError, match=sentence):
        command(small, *options)


def test_without_matplotlib_the_extra_is_named(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("paper", "style"):
        monkeypatch.delitem(sys.modules, f"topnine.pipeline.drawing.{name}", raising=False)
    with pytest.raises(InputError, match=r"pip install 'topnine\[figures\]'"):
        command(small, "invariance")
