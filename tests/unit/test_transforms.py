"""The pixels that reach a network are those of its own package's transforms, unless a configuration says otherwise."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import get_model_weights, squeezenet1_1

from tests.conftest import decode_at as decode
from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.config.sections import DataConfig, DecodeConfig, NetworkConfig, RunConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.registry import ARCHITECTURES, complete_decoding, find_architecture
from topnine.pipeline.store.store import Store
from topnine.stages.runner import STAGES, run

OWN = ("tiny_zfnet", "zfnet")
# The model itself turns what torchvision's transforms give into RGB from -1 to 1; topnine's is built without that.
FROM_MINUS_ONE = ("googlenet", "inception_v3")
SIZES = ((375, 500), (500, 333), (97, 131), (256, 256), (801, 640), (300, 2000), (2000, 300))


def pictures():
    """Return photograph-like images of several sizes: blurred noise, with sharp lines."""
    for seed, (height, width) in enumerate(SIZES):
        pixels = np.asarray(
            Image.fromarray(noise(seed, 24, 32)).resize((width, height), Image.Resampling.BICUBIC)
        ).copy()
        pixels[::17], pixels[:, ::23] = 255, 0
        yield pixels


PICTURES = list(pictures())


def completed(name, weights="", **decoding):
    network = NetworkConfig(name=name, weights=weights or "torchvision")
    decoding = DecodeConfig(**decoding)
    return complete_decoding(RunConfig(network=network, data=DataConfig(path="x"), decode=decoding, store="x"))


def list_weights():
    """List each network with each of its weights that a configuration can name, and how torchvision prepares images."""
    for name in ARCHITECTURES:
        if name not in OWN:
            members = get_model_weights(name)
            for weights in ("torchvision", "IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT"):
                member = {"torchvision": "IMAGENET1K_V1", "DEFAULT": members.DEFAULT.name}.get(weights, weights)
                if member in members.__members__:
                    yield name, weights, members[member].transforms()


WEIGHTS = list(list_weights())


def test_every_network_of_torchvision_has_its_transforms():
    assert len({name for name, _, _ in WEIGHTS}) == len(ARCHITECTURES) - len(OWN)
    for name, weights, wanted in WEIGHTS:
        config = completed(name, weights)
        found = (config.decode.size, config.decode.resize, config.decode.interpolation)
        assert found == ((wanted.crop_size[0],) * 2, wanted.resize_size[0], wanted.interpolation.value), (name, weights)
        architecture = find_architecture(config.network)
        if name in FROM_MINUS_ONE:
            assert architecture.mean == architecture.std == (0.5, 0.5, 0.5)
        else:
            assert (architecture.mean, architecture.std) == (tuple(wanted.mean), tuple(wanted.std)), (name, weights)


DISTINCT = {str(wanted): (name, weights, wanted) for name, weights, wanted in WEIGHTS}


@pytest.mark.parametrize(
    ("name", "weights", "wanted"), DISTINCT.values(), ids=[v[0] + "-" + v[1] for v in DISTINCT.values()]
)
def test_pixels_are_torchvisions(name, weights, wanted):
    config = completed(name, weights).decode
    mean, std = (torch.tensor(values)[:, None, None] for values in (wanted.mean, wanted.std))
    for pixels in PICTURES:
        expected = (wanted(Image.fromarray(pixels)) * std + mean) * 255
        found = decode(encode(pixels), config.resize, config.size[0], interpolation=config.interpolation).pixels
        difference = np.abs(expected.numpy().transpose(1, 2, 0) - found).round()
        assert difference.max() == 0, pixels.shape


def test_a_configuration_overrides_each():
    assert completed("efficientnet_b0", resize=300).decode == completed("efficientnet_b0").decode.model_copy(
        update={"resize": 300}
    )
    assert completed("efficientnet_b0", interpolation="lanczos").decode.interpolation == "lanczos"
    assert completed("efficientnet_b0", size=96, resize=100).decode.size == (96, 96)
    for size in (96, (192, 640)):  # the image just fills an input of another size
        assert completed("efficientnet_b0", size=size).decode.resize == size
    with pytest.raises(InputError, match=r"decode\.size = 224 is larger than decode\.resize = 100: give a larger"):
        completed("resnet18", resize=100)


def test_borders_have_the_networks_mean_and_a_colour_needs_borders(tmp_path):
    data = write_tar(tmp_path / "data/a.tar", [("a.png", encode(noise(0)))]).parent
    assert plan_run(tmp_path / "a", data__path=data, decode__fit="pad").config.decode.fill == (124, 116, 104)
    own = plan_run(tmp_path / "b", data__path=data, decode__fit="pad", decode__fill=[0, 9, 0])
    assert own.config.decode.fill == (0, 9, 0)
    with pytest.raises(InputError, match=r"decode\.fill is that of 1 channels, and the network takes 3"):
        plan_run(tmp_path / "c", data__path=data, decode__fit="pad", decode__fill=[9])
    with pytest.raises(InputError, match=r"decode\.fill is the colour of the borders of decode\.fit = 'pad'"):
        completed("resnet18", fill=(0, 0, 0))


def test_a_file_of_weights_has_the_transforms_of_the_first_weights():
    assert completed("resnet50", "trained.pth").decode.resize == 256
    assert completed("resnet50", "random").decode.resize == 256
    assert completed("resnet50", "DEFAULT").decode.resize == 232


def test_what_was_chosen_is_said_and_recorded(tmp_path):
    data = write_tar(tmp_path / "data/a.tar", [("a.png", encode(noise(0)))]).parent
    plan = plan_run(tmp_path, data__path=data, decode__resize=0, decode__crop=0)
    assert plan.remarks[-1] == (
        "images are resized (bilinear, by torch) to a shortest side of 64 pixels, then cropped to 64 × 64, as in "
        "tiny_zfnet's training"
    )
    other = plan_run(tmp_path / "other", data__path=data)
    assert other.remarks[-1].endswith(
        "to a shortest side of 96 pixels, then cropped to 96 × 96, as the configuration says"
    )
    assert plan.preprocessing()["filter"] == "bilinear"
    assert plan.fingerprints.index["decode.resize"] == 64
    assert plan.fingerprints.index["decode.interpolation"] == "bilinear"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A file of SqueezeNet's weights: complete, and of another head."""
    folder = tmp_path_factory.mktemp("weights")
    state = squeezenet1_1(num_classes=1000).state_dict()
    torch.save(state, folder / "whole.pth")
    torch.save(squeezenet1_1(num_classes=7).state_dict(), folder / "head.pth")
    return folder


@pytest.mark.parametrize(
    ("weights", "labels", "first"),
    [("whole.pth", [3, 999, 5], "tench"), ("whole.pth", [3, 1000, 5], None), ("head.pth", [3, 4, 5], None),
     ("random", [3, 999, 5], None)],
)  # fmt: skip
def test_numbers_have_the_names_of_the_networks_own_classes(trained, tmp_path, weights, labels, first):
    members = [(f"{i}.{ending}", data) for i, label in enumerate(labels) for ending, data in
               (("png", encode(noise(i))), ("cls", str(label).encode()))]  # fmt: skip
    data = write_tar(tmp_path / "data/a.tar", members).parent
    named = {
        "network__name": "squeezenet1_1",
        "network__weights": weights if weights == "random" else trained / weights,
    }
    plan = plan_run(tmp_path, data__path=data, mine__layers="1", **named)
    with connect(plan.config.cluster) as pool:
        notes = [progress.note for progress in run(plan, pool, {"index": STAGES["index"]}) if progress.note]
    names = Store.open(plan.config.store).attributes["dataset"]["classes"]
    if first is None:
        assert (names, notes) == ([], [])
    else:
        assert (names[0], len(names)) == (first, 1000)
        assert notes == ["classes have the names of squeezenet1_1's own, unless data.classes gives others"]


def test_class_folders_name_the_classes_themselves(trained, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "a.png").write_bytes(encode(noise(1)))
    named = {"network__name": "squeezenet1_1", "network__weights": trained / "whole.pth"}
    plan = plan_run(tmp_path, data__path=tmp_path / "data", mine__layers="1", **named)
    run_stages(plan, "index")
    assert Store.open(plan.config.store).attributes["dataset"]["classes"] == ["cats", "dogs"]
