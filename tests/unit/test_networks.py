import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from tests.conftest import decode_at as decode
from tests.conftest import normalised
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.data.dataset import find_dataset
from topnine.pipeline.data.reader import list_images, open_reader
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.architectures.tiny_zfnet import TinyZFNet
from topnine.pipeline.network.architectures.zfnet import ZFNet
from topnine.pipeline.network.loading import load_network, trace_shapes
from topnine.pipeline.network.tracing.recording import trace


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_zfnet_has_the_maps_and_parameters_of_the_paper():
    graph = trace_shapes("zfnet", 224, 224)
    maps = [operation.shape[-1] for operation in graph.operations if operation.name in ("conv2d", "max_pool2d")]
    assert maps == [110, 55, 26, 13, 13, 13, 13, 6]
    with torch.device("meta"):
        module = ZFNet()
    convolutions = (
        96 * 3 * 49 + 256 * 96 * 25 + 384 * 256 * 9 + 384 * 384 * 9 + 256 * 384 * 9 + 96 + 256 + 384 + 384 + 256
    )
    dense = 9216 * 4096 + 4096 * 4096 + 4096 * 1000 + 4096 + 4096 + 1000
    assert count(module) == convolutions + dense


def test_tiny_zfnet_has_the_parameters_of_its_card():
    assert count(TinyZFNet()) == 2_140_744


def test_random_weights_depend_on_the_seed_alone():
    first = load_network(NetworkConfig(name="squeezenet1_0", weights="random", seed=1)).digest
    torch.rand(1)
    load_network.cache_clear()
    assert load_network(NetworkConfig(name="squeezenet1_0", weights="random", seed=1)).digest == first
    assert load_network(NetworkConfig(name="squeezenet1_0", weights="random", seed=2)).digest != first


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_weights_files_of_any_kind_give_the_same_network(tmp_path, suffix):
    torch.manual_seed(5)
    state = TinyZFNet().state_dict()
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}}, path)
    elif suffix == ".npz":
        np.savez(path, **{key: tensor.numpy() for key, tensor in state.items()})
    else:
        safetensors.torch.save_file(state, path)
    network = load_network(NetworkConfig(name="tiny_zfnet", weights=str(path), seed=0))
    assert torch.equal(network.module.conv1.weight, state["conv1.weight"])
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())


def broken(state, path, how):
    if how == "missing":
        state.pop("conv3.bias")
    elif how == "extra":
        state["conv9.weight"] = torch.zeros(1)
    elif how == "shape":
        state["conv2.weight"] = torch.zeros(1, 2, 3, 3)
    elif how == "object":
        torch.save(["no", "state"], path)
        return
    elif how == "garbage":
        path.write_bytes(b"garbage")
        return
    torch.save(state, path)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("missing", "lacks 1 of its 14 keys, the first is 'conv3.bias'"),
        ("extra", "has beside them 1 .* 'conv9.weight'"),
        ("shape", r"conv2.weight has shape \(1, 2, 3, 3\), expected \(128, 64, 5, 5\)"),
        ("object", "holds no state dict"),
        ("garbage", "cannot be read"),
    ],
)
def test_wrong_weights_are_one_sentence(tmp_path, how, sentence):
    path = tmp_path / "weights.pth"
    broken(TinyZFNet().state_dict(), path, how)
    with pytest.raises(InputError, match=sentence):
        load_network(NetworkConfig(name="tiny_zfnet", weights=str(path), seed=0))


def test_a_pickle_that_runs_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"conv1.weight": Evil()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"holds no state dict .* an object of io.open under 'conv1.weight', which"):
        load_network(NetworkConfig(name="tiny_zfnet", weights=str(tmp_path / "weights.pth"), seed=0))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("name", "weights", "sentence"),
    [
        ("lenet", "random", "there is no network 'lenet'"),
        ("alexnet", "bundled", "no weights are bundled for alexnet"),
        ("zfnet", "torchvision", "torchvision has no weights for zfnet"),
        ("alexnet", "nothing.pth", "there is no weights file nothing.pth"),
        ("alexnet", __file__, r"must end in \.pth, \.pt, \.ckpt"),
    ],
)
def test_a_network_or_weights_that_are_not_there(name, weights, sentence):
    with pytest.raises(InputError, match=sentence):
        load_network(NetworkConfig(name=name, weights=weights))


@pytest.mark.parametrize("name", ["tiny_zfnet", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_the_graph_is_the_same_whatever_the_weights(name):
    network = load_network(NetworkConfig(name=name, weights="random"))
    found, expected = trace(network.module, torch.zeros(1, 3, 96, 96)), trace_shapes(name, 96, 96)
    assert found.operations == expected.operations
    assert found.outputs == expected.outputs


def accuracy(network, folder, resize, crop, top=1):
    """Share of a labelled dataset whose class is among the first so many."""
    dataset = find_dataset(str(folder))
    right = total = 0
    with open_reader(dataset) as reader, torch.inference_mode():
        for shard in range(len(dataset.shards)):
            entries = list_images(dataset.shards[shard])
            for start in range(0, len(entries), 125):
                batch = entries[start : start + 125]
                pixels = [decode(reader.read(shard, e.offset, e.size, e.key), resize, crop).pixels for e in batch]
                images = torch.stack([torch.from_numpy(p.copy()) for p in pixels])
                scores = network.module(normalised(images, network.architecture))
                labels = torch.tensor([entry.label for entry in batch])
                right += (scores.topk(top).indices == labels[:, None]).sum().item()
                total += len(batch)
    return right / total


@pytest.mark.slow
def test_tiny_zfnet_is_as_accurate_as_its_card_says(test_data):
    network = load_network(NetworkConfig(name="tiny_zfnet", weights="bundled", seed=0))
    assert accuracy(network, test_data / "data/tiny-imagenet-val", 64, 64) == pytest.approx(0.5005, abs=0.002)


@pytest.mark.slow
def test_squeezenet_is_as_accurate_as_published_weights_are_here(test_data):
    weights = str(test_data / "weights/squeezenet1_0.safetensors")
    network = load_network(NetworkConfig(name="squeezenet1_0", weights=weights, seed=0))
    assert accuracy(network, test_data / "data/imagenet-500", 256, 224) == pytest.approx(0.616, abs=0.01)


def test_tiny_zfnets_average_pooling_changes_nothing_at_the_size_it_was_trained_on():
    network = load_network(NetworkConfig(name="tiny_zfnet", weights="bundled")).module
    torch.manual_seed(0)
    pixels = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        scores = network(pixels)
        assert network(torch.randn(1, 3, 96, 96)).shape == (1, 200)
        network.average = nn.Identity()
        try:
            assert torch.equal(network(pixels), scores)
        finally:
            load_network.cache_clear()
