"""The networks that can be named in a configuration, and their weights.

Adding one is one entry in ``ARCHITECTURES``: how to build it and which modules its layers are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import URLError

import safetensors.torch
import torch
import torchvision
from torch import Tensor, nn

from ..errors import InputError
from ..graph import Graph, trace
from .tiny_zfnet import TinyZFNet
from .zfnet import ZFNet

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Architecture:
    """How to build a network, and what its layers are.

    Attributes
    ----------
    build : callable
        Gives the module with fresh weights.
    layers : dict of name to module path
        The numbered layers, 1, 2, 3, … in this order.
    mean, std : (red, green, blue)
        Of RGB/255, what the network's input is normalised by.
    """

    build: Callable[[], nn.Module]
    layers: dict[str, str]
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def normalise(self, images: Tensor) -> Tensor:
        """Give the network's input (image, rgb, y, x) float32 for uint8 images (image, y, x, rgb), on their device."""
        mean = torch.tensor(self.mean, device=images.device) * 255
        std = torch.tensor(self.std, device=images.device) * 255
        return ((images.float() - mean) / std).permute(0, 3, 1, 2)


_FIVE_CONVOLUTIONS = {f"conv{n}": f"conv{n}" for n in range(1, 6)}

ARCHITECTURES: dict[str, Architecture] = {
    "tiny_zfnet": Architecture(TinyZFNet, _FIVE_CONVOLUTIONS),
    # The paper subtracts the mean and does not scale: pixels of 0..255.
    "zfnet": Architecture(ZFNet, _FIVE_CONVOLUTIONS, std=(1 / 255, 1 / 255, 1 / 255)),
    "alexnet": Architecture(
        torchvision.models.alexnet,
        {
            "conv1": "features.0",
            "conv2": "features.3",
            "conv3": "features.6",
            "conv4": "features.8",
            "conv5": "features.10",
        },
    ),
    "vgg16": Architecture(
        torchvision.models.vgg16,
        {
            "conv1_2": "features.2",
            "conv2_2": "features.7",
            "conv3_3": "features.14",
            "conv4_3": "features.21",
            "conv5_3": "features.28",
        },
    ),
    "squeezenet1_0": Architecture(
        torchvision.models.squeezenet1_0,
        {
            "conv1": "features.0",
            "fire4": "features.5",
            "fire6": "features.8",
            "fire8": "features.10",
            "fire9": "features.12",
        },
    ),
    "resnet18": Architecture(
        torchvision.models.resnet18,
        {"conv1": "conv1", "layer1": "layer1", "layer2": "layer2", "layer3": "layer3", "layer4": "layer4"},
    ),
}


@dataclass(frozen=True)
class Network:
    """A loaded network: its architecture, the module in evaluation mode, and a digest of its weights."""

    architecture: Architecture
    module: nn.Module
    digest: str


def architecture(name: str) -> Architecture:
    """Give a network's architecture by its name; InputError if there is none of that name."""
    if name not in ARCHITECTURES:
        raise InputError(f"there is no network {name!r}: network.name is one of {', '.join(ARCHITECTURES)}.")
    return ARCHITECTURES[name]


@lru_cache(maxsize=1)  # one network a process: the tasks that follow each other on a worker share it
def load(name: str, weights: str, seed: int, device: str) -> Network:
    """Build a network with its weights on a device.

    Parameters
    ----------
    name : str
        A key of ``ARCHITECTURES``.
    weights : str
        ``bundled`` (tiny_zfnet only), ``torchvision`` (downloaded by it), ``random``, or the path of a
        ``.safetensors`` or ``.pth`` state dict.
    seed : int
        For ``random``.
    device : str
        As torch names them.

    Raises
    ------
    InputError
        No such network or weights, or weights whose keys or shapes are not the network's.
    """
    plan = architecture(name)
    if weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = plan.build()
    else:
        with torch.device("meta"):
            module = plan.build()
        module.load_state_dict(_fitting(_read_weights(name, weights), module, name, weights), assign=True)
    digest = weights_digest(module)
    module = module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    return Network(plan, module, digest)


def trace_shapes(name: str, height: int, width: int) -> Graph:
    """Give the graph of a network for an input size, without weights or arithmetic (torch's meta device)."""
    with torch.device("meta"):
        return trace(architecture(name).build().eval(), torch.zeros(1, 3, height, width))


def weights_digest(module: nn.Module) -> str:
    """Give a digest of a module's parameters and buffers, whatever file they came from."""
    digest = hashlib.sha256()
    for key, tensor in sorted(module.state_dict().items()):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _read_weights(name: str, weights: str) -> dict[str, Tensor]:
    if weights == "bundled":
        source = files(__package__) / f"{name}.safetensors"
        if not source.is_file():
            raise InputError(
                f"no weights are bundled for {name}: network.weights is 'torchvision', 'random' or a file."
            )
        return safetensors.torch.load(source.read_bytes())
    if weights == "torchvision":
        return _download(name)
    path = Path(weights)
    if not path.is_file():
        raise InputError(
            f"there is no weights file {weights}: network.weights is 'bundled', 'torchvision', 'random' "
            "or the path of a .safetensors or .pth file."
        )
    if path.suffix not in (".safetensors", ".pth", ".pt"):
        raise InputError(f"weights file {weights} must end in .safetensors or .pth.")
    try:
        state = (
            safetensors.torch.load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, "cpu", weights_only=True)
        )
    except Exception as error:  # both readers raise a dozen kinds for a file that is not theirs
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"weights file {weights} cannot be read: {reason}") from error
    return _state_dict(state, weights)


def _state_dict(state: Any, weights: str) -> dict[str, Tensor]:
    """Take the state dict out of a training checkpoint: under "state_dict", keys with DataParallel's "module."."""
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights file {weights} holds no state dict (names and tensors).")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _download(name: str) -> dict[str, Tensor]:
    try:
        weights = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
        return dict(weights.get_state_dict(check_hash=True, progress=False))
    except ValueError as error:
        raise InputError(f"torchvision has no weights for {name}: network.weights is 'random' or a file.") from error
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"torchvision's weights for {name} cannot be downloaded ({error}): "
            "give the path of a .safetensors or .pth file as network.weights."
        ) from error


def _fitting(state: dict[str, Tensor], module: nn.Module, name: str, weights: str) -> dict[str, Tensor]:
    """Check keys and shapes against the module; give float32 tensors."""
    wanted = module.state_dict()
    for key in wanted:
        if key.endswith("num_batches_tracked"):  # of training only, and missing from older files
            state.setdefault(key, torch.tensor(0))
    for title, keys in (("lacks", wanted.keys() - state.keys()), ("has beside them", state.keys() - wanted.keys())):
        if keys:
            raise InputError(
                f"weights {weights} are not {name}'s: the file {title} {len(keys)} of its {len(wanted)} keys, "
                f"the first is {min(keys)!r}. Give the weights of {name}, or another network.name."
            )
    for key, tensor in wanted.items():
        if state[key].shape != tensor.shape:
            raise InputError(
                f"weights {weights} are not {name}'s: {key} has shape {tuple(state[key].shape)}, "
                f"expected {tuple(tensor.shape)}. Give the weights of {name}, or another network.name."
            )
        if state[key].is_complex() or not torch.isfinite(state[key]).all():
            raise InputError(f"weights {weights}: {key} holds values that are not finite real numbers.")
    return {key: tensor.to(wanted[key].dtype) for key, tensor in state.items()}
