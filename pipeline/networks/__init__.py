"""The networks that can be named in a configuration, and their weights.

Adding one is one entry in ``ARCHITECTURES``: how to build it and which modules its layers are.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from ..config import NetworkConfig
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


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        from torchvision import models  # takes seconds: the project's own networks do without

        return models.get_model_builder(name)(weights=None, **options)

    return build


def _family(names: str, modules: str | dict[str, str], **options: Any) -> dict[str, Architecture]:
    """Give the members of a torchvision family, whose numbered layers are the same modules."""
    layers = {module: module for module in modules.split()} if isinstance(modules, str) else modules
    settings = {key: options.pop(key) for key in ("mean", "std") if key in options}
    return {name: Architecture(_torchvision(name, **options), layers, **settings) for name in names.split()}


def _vgg(depth: int, convolutions: tuple[int, ...]) -> dict[str, Architecture]:
    """Give VGG with and without batch normalisation: the last convolution before each pooling, of so many a stage."""
    networks: dict[str, Architecture] = {}
    for suffix, modules in (("", 2), ("_bn", 3)):
        layers, index = {}, 0
        for stage, count in enumerate(convolutions, 1):
            index += modules * count + 1  # and the pooling
            layers[f"conv{stage}_{count}"] = f"features.{index - 1 - modules}"
        networks |= _family(f"vgg{depth}{suffix}", layers)
    return networks


_FIVE_CONVOLUTIONS = {f"conv{n}": f"conv{n}" for n in range(1, 6)}
_ALEXNET = dict(zip(_FIVE_CONVOLUTIONS, (f"features.{i}" for i in (0, 3, 6, 8, 10)), strict=True))
_FIRES = ("conv1", "fire4", "fire6", "fire8", "fire9")
_HALF = (0.5, 0.5, 0.5)
_BLOCKS = "features.0 features.2 features.3 features.5"

ARCHITECTURES: dict[str, Architecture] = {
    "tiny_zfnet": Architecture(TinyZFNet, _FIVE_CONVOLUTIONS),
    # The paper subtracts the mean and does not scale: pixels of 0..255.
    "zfnet": Architecture(ZFNet, _FIVE_CONVOLUTIONS, std=(1 / 255, 1 / 255, 1 / 255)),
    **_family("alexnet", _ALEXNET),
    **_vgg(11, (1, 1, 2, 2, 2)),
    **_vgg(13, (2, 2, 2, 2, 2)),
    **_vgg(16, (2, 2, 3, 3, 3)),
    **_vgg(19, (2, 2, 4, 4, 4)),
    **_family("squeezenet1_0", dict(zip(_FIRES, (f"features.{i}" for i in (0, 5, 8, 10, 12)), strict=True))),
    **_family("squeezenet1_1", dict(zip(_FIRES, (f"features.{i}" for i in (0, 6, 9, 11, 12)), strict=True))),
    # torchvision's weights of these two want RGB/255 from -1 to 1.
    **_family(
        "googlenet", "conv1 conv3 inception3b inception4e inception5b", mean=_HALF, std=_HALF, init_weights=False
    ),
    **_family(
        "inception_v3",
        "Conv2d_2b_3x3 Conv2d_4a_3x3 Mixed_5d Mixed_6e Mixed_7c",
        mean=_HALF,
        std=_HALF,
        init_weights=False,
    ),
    **_family(
        "resnet18 resnet34 resnet50 resnet101 resnet152 resnext50_32x4d resnext101_32x8d resnext101_64x4d "
        "wide_resnet50_2 wide_resnet101_2",
        "conv1 layer1 layer2 layer3 layer4",
    ),
    **_family(
        "densenet121 densenet161 densenet169 densenet201",
        {"conv0": "features.conv0", **{f"denseblock{n}": f"features.denseblock{n}" for n in range(1, 5)}},
    ),
    # Where a block ends without an activation function, the layer is its widened middle, which has one.
    **_family("mobilenet_v2", "features.0 features.4.conv.0 features.7.conv.0 features.14.conv.0 features.18"),
    **_family("mobilenet_v3_small", "features.0 features.2.block.0 features.3.block.0 features.8.block.0 features.12"),
    **_family("mobilenet_v3_large", "features.0 features.3.block.0 features.6.block.0 features.12.block.0 features.16"),
    **_family(
        "shufflenet_v2_x0_5 shufflenet_v2_x1_0 shufflenet_v2_x1_5 shufflenet_v2_x2_0",
        "conv1 stage2 stage3 stage4 conv5",
    ),
    **_family(
        "mnasnet0_5 mnasnet0_75 mnasnet1_0 mnasnet1_3",
        "layers.0 layers.8.1.layers.0 layers.9.1.layers.0 layers.11.1.layers.0 layers.14",
    ),
    **_family(" ".join(f"efficientnet_b{n}" for n in range(8)), f"{_BLOCKS} features.8"),
    **_family("efficientnet_v2_s", f"{_BLOCKS} features.7"),
    **_family("efficientnet_v2_m efficientnet_v2_l", f"{_BLOCKS} features.8"),
    **_family(
        " ".join(
            f"regnet_{kind}_{size}"
            for kind in "xy"
            for size in ("400mf", "800mf", "1_6gf", "3_2gf", "8gf", "16gf", "32gf")
        ),
        {"stem": "stem", **{f"block{n}": f"trunk_output.block{n}" for n in range(1, 5)}},
    ),
    **_family(
        "convnext_tiny convnext_small convnext_base convnext_large",
        "features.0 features.1 features.3 features.5 features.7",
    ),
}


@dataclass(frozen=True)
class Network:
    """A loaded network: its architecture, the module in evaluation mode, and a digest of its weights."""

    architecture: Architecture
    module: nn.Module
    digest: str

    def pixel_weights(self, path: str) -> np.ndarray | None:
        """Give the weights (filter, rgb, y, x) of a convolution that works on the image itself; None of any other."""
        module = self.module.get_submodule(path)
        if not isinstance(module, nn.Conv2d) or module.in_channels != 3 or module.groups != 1:
            return None
        return module.weight.detach().float().cpu().numpy()


def architecture(config: NetworkConfig) -> Architecture:
    """Give the architecture that a configuration names; InputError if there is none of that name."""
    if ":" in config.name:
        known = Architecture(_imported(config.name), {})
    elif config.name in ARCHITECTURES:
        known = ARCHITECTURES[config.name]
    else:
        near = ", ".join(get_close_matches(config.name, ARCHITECTURES, 3)) or ", ".join(ARCHITECTURES)
        raise InputError(
            f"there is no network {config.name!r}: network.name is one that `topnine networks` lists ({near}), or "
            "package.module:function, a function of your own that gives one."
        )
    layers = dict(config.layers) or known.layers
    return Architecture(known.build, layers, config.mean or known.mean, config.std or known.std)


def _imported(name: str) -> Callable[[], nn.Module]:
    """Give a user's function that builds a network, by package.module:function; the current folder is searched, too."""
    module, _, function = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(import_module(module), function, None)
    except ImportError as error:
        raise InputError(f"network.name = {name!r} cannot be imported: {error}.") from error

    if not callable(found):
        raise InputError(f"network.name = {name!r}: module {module} has no function {function!r}.")

    def build() -> nn.Module:
        made = found()
        if not isinstance(made, nn.Module):
            raise InputError(f"network.name = {name!r} gives a {type(made).__name__}, not a torch.nn.Module.")
        return made

    return build


@lru_cache(maxsize=1)  # one network a process: the tasks that follow each other on a worker share it
def load(config: NetworkConfig, device: str) -> Network:
    """Build a network with its weights on a device.

    Parameters
    ----------
    config : NetworkConfig
        Its name: a key of ``ARCHITECTURES``, or package.module:function. Its weights: ``bundled`` (tiny_zfnet only),
        ``torchvision`` (downloaded by it), ``random`` with a seed (what the function gives, for one's own), or the
        path of a ``.safetensors``, ``.npz`` or ``.pth`` state dict.
    device : str
        As torch names them.

    Raises
    ------
    InputError
        No such network or weights, or weights whose keys or shapes are not the network's.
    """
    plan = architecture(config)
    if config.weights == "random":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            module = plan.build()
    else:
        module = _without_values(plan)
        state = _fitting(_read_weights(config.name, config.weights), module, config.name, config.weights)
        module.load_state_dict(state, assign=True)
    digest = weights_digest(module)
    module = module.eval().requires_grad_(False).to(device).to(memory_format=torch.channels_last)
    return Network(plan, module, digest)


def _without_values(plan: Architecture) -> nn.Module:
    try:
        with torch.device("meta"):
            return plan.build()
    except (NotImplementedError, RuntimeError):  # as RegNet, which computes its widths with tensors
        return plan.build()


def trace_shapes(name: str, height: int, width: int) -> Graph:
    """Give the graph of a network for an input size, without arithmetic (torch's meta device)."""
    module = _without_values(architecture(NetworkConfig(name=name))).eval().to("meta")
    return trace(module, torch.zeros(1, 3, height, width, device="meta"))


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
            "or the path of a .safetensors, .npz or .pth file."
        )
    if path.suffix not in _READERS:
        raise InputError(f"weights file {weights} must end in .safetensors, .npz or .pth.")
    try:
        state = _READERS[path.suffix](path)
    except Exception as error:  # both readers raise a dozen kinds for a file that is not theirs
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise InputError(f"weights file {weights} cannot be read: {reason}") from error
    return _state_dict(state, weights)


def _read_npz(path: Path) -> dict[str, Tensor]:
    with np.load(path, allow_pickle=False) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def _read_checkpoint(path: Path) -> Any:
    return torch.load(path, "cpu", weights_only=True)


_READERS: dict[str, Callable[[Path], Any]] = {
    ".safetensors": safetensors.torch.load_file,
    ".npz": _read_npz,
    ".pth": _read_checkpoint,
    ".pt": _read_checkpoint,
}


def _state_dict(state: Any, weights: str) -> dict[str, Tensor]:
    """Take the state dict out of a training checkpoint: under "state_dict", keys with DataParallel's "module."."""
    if isinstance(state, dict):
        state = state.get("state_dict", state)
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"weights file {weights} holds no state dict (names and tensors).")
    return {key.removeprefix("module."): tensor for key, tensor in state.items()}


def _download(name: str) -> dict[str, Tensor]:
    from torchvision import models

    try:
        weights = models.get_model_weights(name)["IMAGENET1K_V1"]
        return dict(weights.get_state_dict(check_hash=True, progress=False))
    except ValueError as error:
        raise InputError(f"torchvision has no weights for {name}: network.weights is 'random' or a file.") from error
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"torchvision's weights for {name} cannot be downloaded ({error}): "
            "give the path of a .safetensors, .npz or .pth file as network.weights."
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
