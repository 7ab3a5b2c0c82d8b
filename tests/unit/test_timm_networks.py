"""timm's networks by their names: their transforms, layers and weights."""

import re
import sys
from dataclasses import replace

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image

from tests.conftest import decode_at as decode
from tests.conftest import encode, noise, plan_run, run_stages, write_tar
from topnine.pipeline.config.sections import DataConfig, NetworkConfig, RunConfig
from topnine.pipeline.data.decoding.decode import decode as decode_as
from topnine.pipeline.data.decoding.preparation import Geometry, Preparation
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.catalogue import list_networks
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.registry import complete_decoding, find_architecture
from topnine.pipeline.store.store import Store

timm = pytest.importorskip("timm")

DRAWN = 200  # of timm's weights
SIZES = ((90, 131), (131, 90))


def pictures():
    for seed, (height, width) in enumerate(SIZES):
        yield np.asarray(Image.fromarray(noise(seed, 12, 16)).resize((width, height), Image.Resampling.BICUBIC))


def decoding(name):
    network = NetworkConfig(name=f"timm:{name}", weights="random")
    config = complete_decoding(RunConfig(network=network, data=DataConfig(path="x"), store="x"))
    architecture = find_architecture(network)
    fill = tuple(round(255 * value) for value in architecture.mean)
    return replace(Preparation.of(config.decode, config.data), channels=architecture.channels, fill=fill)


def test_pixels_are_timms_for_weights_drawn_by_seed(monkeypatch):
    monkeypatch.setattr("topnine.pipeline.network.timm_networks._list_features", lambda name: ())  # nothing is built
    named = timm.list_models(pretrained=True)
    chosen = [named[i] for i in np.random.default_rng(16).permutation(len(named))[:DRAWN]]
    fits = set()
    for name in chosen:
        wanted = timm.data.resolve_data_config({}, pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict())
        config = decoding(name)
        fits.add(config.fit)
        transform = timm.data.create_transform(**wanted)
        architecture = find_architecture(NetworkConfig(name=f"timm:{name}", weights="random"))
        assert (architecture.mean, architecture.std) == (tuple(wanted["mean"]), tuple(wanted["std"])), name
        mean, std = (torch.tensor(values)[:, None, None] for values in (wanted["mean"], wanted["std"]))
        for pixels in pictures():
            expected = ((transform(Image.fromarray(pixels)) * std + mean) * 255).round().numpy().transpose(1, 2, 0)
            found = decode_as(encode(pixels), replace(config, resample="pillow")).pixels
            assert np.abs(expected - found).max() == 0, (name, pixels.shape, wanted)
    assert {"crop", "squash"} <= fits


@pytest.mark.parametrize(("height", "width"), [(90, 131), (131, 90), (64, 64), (300, 20), (5, 300)])
@pytest.mark.parametrize(("resize", "crop"), [(64, 64), (72, 64), (48, 64), (64, 48)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_padding_is_timms(height, width, resize, crop, interpolation):
    pixels = np.asarray(Image.fromarray(noise(1, 9, 9)).resize((width, height), Image.Resampling.BICUBIC))
    longest = timm.data.transforms.ResizeKeepRatio(resize, longest=1.0, interpolation=interpolation)
    expected = timm.data.transforms.CenterCropOrPad(crop, fill=(9, 99, 199))(longest(Image.fromarray(pixels)))
    found = decode(encode(pixels), resize, crop, interpolation=interpolation, fit="pad", fill=(9, 99, 199))
    assert np.array_equal(found.pixels, np.asarray(expected))
    assert found.geometry == Geometry(height, width, resize, (crop, crop), "pad")


def test_a_place_in_a_squashed_or_padded_image_is_found_in_its_source():
    assert Geometry(100, 400, 50, (50, 50), "squash").to_source(10, 10, 20, 20) == (20, 80, 40, 160)
    padded = Geometry(100, 400, 40, (40, 40), "pad")  # 10 × 40 pixels between borders of 15
    assert padded.resized == (10, 40)
    assert padded.to_source(15, 0, 25, 40) == (0, 0, 100, 400)


def test_layers_are_numbered_by_timms_features():
    layers = find_architecture(NetworkConfig(name="timm:resnet18", weights="random")).layers
    assert list(layers) == ["act1", "layer1", "layer2", "layer3", "layer4"]
    assert len(find_architecture(NetworkConfig(name="timm:vit_tiny_patch16_224", weights="random")).layers) == 12


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet18.nope", "Invalid pretrained tag (nope) for resnet18"),
        ("resnet1888", "has no network 'resnet1888'"),
        ("atto", "such as timm:convnext_atto"),
        ("mnist", "has no network 'mnist'"),
    ],
)
def test_a_name_that_timm_does_not_have_is_a_sentence(name, sentence):
    with pytest.raises(InputError, match=re.escape(sentence)):
        find_architecture(NetworkConfig(name=f"timm:{name}", weights="random"))


def test_without_timm_its_networks_are_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(InputError, match=re.escape("pip install 'topnine[timm]'")):
        find_architecture(NetworkConfig(name="timm:resnet18", weights="random"))


def test_weights_that_cannot_be_downloaded_are_a_sentence(monkeypatch):
    def unreachable(name, pretrained):
        if pretrained:
            raise OSError("no network\nat all")
        return create(name, pretrained=False)

    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(InputError, match=r"timm's weights for resnet10t cannot be downloaded \(no network\)"):
        load_network(NetworkConfig(name="timm:resnet10t"))
    with pytest.raises(InputError, match=r"network\.weights = 'timm' is for networks of timm's, and alexnet is none"):
        load_network(NetworkConfig(name="alexnet", weights="timm"))


def test_a_run_of_a_network_of_timms(tmp_path):
    torch.manual_seed(0)
    module = timm.create_model("resnet10t", pretrained=False).eval()
    safetensors.torch.save_file(module.state_dict(), tmp_path / "weights.safetensors")
    images = [(f"{seed}.png", encode(noise(seed, 200, 260))) for seed in range(4)]
    data = write_tar(tmp_path / "data/a.tar", images).parent
    plan = plan_run(
        tmp_path, data__path=data, network__name="timm:resnet10t", network__weights=tmp_path / "weights.safetensors",
        mine__layers="5", decode__resize=0, decode__crop=0, decode__resample="pillow", mine__batch=4,
        deconvolve__rule="gradient",
    )  # fmt: skip
    assert plan.remarks[-1].endswith("as in timm's transforms for resnet10t.c3_in1k")
    run_stages(plan, "index", "mine", "rank", "deconvolve")
    layer = Store.open(plan.config.store).layer("layer4")
    wanted = timm.data.resolve_data_config({}, model=module)
    transform = timm.data.create_transform(**wanted)
    batch = torch.stack([transform(Image.fromarray(noise(seed, 200, 260))) for seed in range(4)])
    with torch.no_grad():
        expected = module.forward_features(batch).amax(dim=(2, 3)).numpy()
    found = np.stack([layer.read_filter(number) for number in range(layer.filters)], axis=1)
    assert np.abs(found - expected).max() < 1e-4 * np.abs(expected).max()


def test_the_catalogue_says_which_weights_there_are():
    lines = list(map(str, list_networks()))
    assert "alexnet: IMAGENET1K_V1" in lines
    assert "resnet50: IMAGENET1K_V1, IMAGENET1K_V2" in lines
    assert "tiny_zfnet: bundled" in lines
    assert "zfnet: a file, or random" in lines
    assert not any(line.startswith("timm:") for line in lines)
    matched = list(map(str, list_networks("atto")))
    assert "timm:convnext_atto: d2_in1k" in matched
    assert all("atto" in line for line in matched)
    with pytest.raises(InputError, match="no network has 'nothing' in its name"):
        list(list_networks("nothing"))
