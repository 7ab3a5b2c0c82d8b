"""The networks that a configuration can name.

To add one, add an entry to ``ARCHITECTURES``: how to build the module, and which of its modules are the numbered
layers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from importlib import import_module
from typing import Any

from pydantic_core import PydanticCustomError
from torch import nn

from ..config.sections import TORCH_FILTERS, NetworkConfig, RunConfig, check_size
from ..errors import InputError
from .architecture import IMAGENET_MEAN, Architecture
from .architectures.tiny_zfnet import TinyZFNet
from .architectures.zfnet import ZFNet
from .modules.preparation import describe
from .timm_networks import TIMM, find_timm_network


def find_architecture(config: NetworkConfig) -> Architecture:
    """Return the architecture that a configuration names, with its layers, mean and deviation where it gives some.

    How one of torchvision's networks wants its images is what torchvision says of the weights; of its first ones, where
    the configuration names none of them.

    Raises
    ------
    InputError
        There is no network of that name.
    """
    if config.name.startswith(TIMM):
        registered = find_timm_network(config.name.removeprefix(TIMM))
    elif ":" in config.name:
        registered = Architecture(_import_builder(config.name), {}, channels=0)
    elif config.name in ARCHITECTURES:
        registered = _with_transforms(ARCHITECTURES[config.name], config)
    else:
        similar = ", ".join(get_close_matches(config.name, ARCHITECTURES, 3)) or ", ".join(ARCHITECTURES)
        raise InputError(
            f"there is no network {config.name!r}: network.name is one that `topnine networks` lists ({similar}), one "
            "of timm's as timm:NAME, or package.module:function, a function of your own that gives one."
        )
    layers = dict(config.layers) or registered.layers
    return replace(registered, layers=layers, mean=config.mean or registered.mean, std=config.std or registered.std)


def complete_decoding(config: RunConfig) -> RunConfig:
    """Return a configuration with the network's own way to prepare images where it leaves that open.

    Raises
    ------
    InputError
        There is no such network, its own size does not fit the one that the configuration gives, a colour is given for
        borders that there are not, or torch has no such filter.
    """
    decode, own = config.decode, find_architecture(config.network)
    is_own = not any(decode.size) or decode.size == own.size
    size, fit = (own.size if is_own else decode.size), decode.fit or own.fit
    resize = decode.resize or (own.resize if is_own else size[0] if size[0] == size[1] else size)
    try:
        check_size(size, resize, fit)
    except PydanticCustomError as error:
        raise InputError(f"{error}") from None
    if decode.fill and fit != "pad":
        raise InputError(f"decode.fill is the colour of the borders of decode.fit = 'pad', and decode.fit is {fit!r}.")
    interpolation = decode.interpolation or own.interpolation
    resample = decode.resample or ("torch" if interpolation in TORCH_FILTERS else "pillow")
    if resample == "torch" and interpolation not in TORCH_FILTERS:
        raise InputError(
            f"decode.resample = 'torch' resizes with {' or '.join(TORCH_FILTERS)}, and decode.interpolation is "
            f'{interpolation!r}: set decode.resample = "pillow".'
        )
    chosen = {"resize": resize, "size": size, "fit": fit, "interpolation": interpolation, "resample": resample}
    return config.model_copy(update={"decode": decode.model_copy(update=chosen)})


def _with_transforms(architecture: Architecture, config: NetworkConfig) -> Architecture:
    """Return one of the registered networks with what torchvision says of its weights."""
    if architecture.wanted_by:
        return architecture
    from torchvision.models import get_model_weights
    from torchvision.transforms import InterpolationMode

    members = get_model_weights(config.name)
    name = {"DEFAULT": members.DEFAULT.name, "IMAGENET1K_V2": "IMAGENET1K_V2"}.get(config.weights, "IMAGENET1K_V1")
    if name not in members.__members__:  # the weights are refused in a moment, by their name
        name = "IMAGENET1K_V1"
    wanted = members[name].transforms()
    is_usual = architecture.mean == IMAGENET_MEAN  # others are built without the step that wants the usual mean
    return replace(
        architecture,
        mean=tuple(wanted.mean) if is_usual else architecture.mean,
        std=tuple(wanted.std) if is_usual else architecture.std,
        resize=wanted.resize_size[0],
        size=(wanted.crop_size[0], wanted.crop_size[0]),
        interpolation=InterpolationMode(wanted.interpolation).value,
        wanted_by=f"torchvision's transforms for {config.name} {name}",
        categories=tuple(members[name].meta["categories"]),
    )


def _import_builder(name: str) -> Callable[[], nn.Module]:
    """Import a user's function that builds a network, named package.module:function.

    The current folder is searched, too.
    """
    module_name, _, function_name = name.partition(":")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(import_module(module_name), function_name, None)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise InputError(f"network.name = {name!r} cannot be imported: {describe(error)}.") from error
    if isinstance(function, nn.Module):
        raise InputError(f"network.name = {name!r} is a network: name a function without arguments that returns it.")
    if not callable(function):
        raise InputError(f"network.name = {name!r}: module {module_name} has no function {function_name!r}.")

    def build() -> nn.Module:
        """Build the module."""
        try:
            module = function()
        except (Exception, SystemExit) as error:  # whatever the user's code raises
            raise InputError(
                f"network.name = {name!r} fails when it is called without arguments: {describe(error)}."
            ) from error
        if not isinstance(module, nn.Module):
            kind = f"the class {module.__name__}" if isinstance(module, type) else f"a {type(module).__name__}"
            raise InputError(f"network.name = {name!r} gives {kind}, not a torch.nn.Module: return the network alone.")
        return module

    return build


def _torchvision(name: str, **options: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        """Build the module."""
        from torchvision import models  # importing it takes seconds, and the project's own networks do not need it

        module: nn.Module = models.get_model_builder(name)(weights=None, **options)
        return module

    return build


def _family(names: str, modules: str | dict[str, str], **options: Any) -> dict[str, Architecture]:
    """Return the members of a torchvision family, whose numbered layers are the same modules."""
    layers = {module: module for module in modules.split()} if isinstance(modules, str) else modules
    settings = {key: options.pop(key) for key in ("mean", "std") if key in options}
    return {name: Architecture(_torchvision(name, **options), layers, **settings) for name in names.split()}


def _vgg(depth: int, convolutions: tuple[int, ...]) -> dict[str, Architecture]:
    """Return VGG with and without batch normalisation. Its layers are the last convolution before each pooling.

    Parameters
    ----------
    convolutions : tuple of int
        How many a stage has.
    """
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
    "tiny_zfnet": Architecture(
        TinyZFNet, _FIVE_CONVOLUTIONS, resize=64, size=(64, 64), wanted_by="tiny_zfnet's training"
    ),
    # The paper subtracts the mean and does not scale: pixels of 0..255.
    "zfnet": Architecture(ZFNet, _FIVE_CONVOLUTIONS, std=(1 / 255, 1 / 255, 1 / 255), wanted_by="the paper"),
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
