import pytest
import torch
from torch import nn

from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.classifier import classify, find_classifier
from topnine.pipeline.network.loading import load_network, trace_shapes
from topnine.pipeline.network.taps import find_tap
from topnine.pipeline.network.tracing.recording import trace


def read_input(network, module, pixels):
    """What a module reads in a forward pass, by a hook: independent of graph and taps."""
    seen = []
    handle = network.get_submodule(module).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    with torch.no_grad():
        scores = network(pixels)
    handle.remove()
    return seen[0].flatten(1), scores


@pytest.mark.parametrize(
    ("name", "last", "first", "size"),
    [
        ("alexnet", "classifier.6", "features.0", 224),
        ("squeezenet1_0", "classifier.1", "features.0", 96),
        ("resnet18", "fc", "conv1", 64),
        ("googlenet", "fc", "conv1", 64),
        ("tiny_zfnet", "fc7", "conv1", 96),
    ],
)
def test_the_classifier_is_read_as_the_network_runs(name, last, first, size):
    network = load_network(NetworkConfig(name=name, weights="random")).module
    torch.manual_seed(0)
    pixels = torch.randn(3, 3, size, size)
    graph = trace(network, pixels)
    tap = find_tap(graph, first)
    with torch.no_grad():
        answer = classify(network, pixels, find_classifier(graph), {"first": tap})
    hidden, scores = read_input(network, last, pixels)
    assert torch.equal(answer.hidden, hidden)
    assert torch.equal(answer.probability, scores.softmax(dim=1))
    assert answer.maps["first"].shape == (3, *tap.shape)
    assert find_classifier(graph).classes == scores.shape[1]


def test_probabilities_are_not_made_probabilities_twice():
    network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten(), nn.Linear(4, 5), nn.Softmax(dim=1)).eval()
    pixels = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        answer = classify(network, pixels, find_classifier(trace(network, pixels)), {})
        assert torch.equal(answer.probability, network(pixels))


def test_a_classifier_of_another_input_size_is_a_sentence_with_a_remedy():
    with pytest.raises(InputError, match=r"does not take an input of 160×160 pixels .* decode\.size"):
        find_classifier(trace_shapes("zfnet", 160, 160))


@pytest.mark.parametrize("network", [nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Identity()])
def test_what_is_no_classifier_is_a_sentence(network):
    with pytest.raises(InputError, match=r"not scores \(image, class\) behind a hidden layer"):
        find_classifier(trace(network, torch.zeros(1, 3, 8, 8)))
