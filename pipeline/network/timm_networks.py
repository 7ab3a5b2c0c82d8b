"""timm's networks, where timm is installed: ``timm:resnet18``, or with its weights named, ``timm:resnet18.a1_in1k``."""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import torch
from torch import nn

from ..errors import InputError, first_line
from .architecture import Architecture

TIMM = "timm:"  # what the names of its networks begin with, and those of nothing else
FITS = {"center": "crop", "squash": "squash", "border": "pad"}  # of timm's crop_mode
LISTED = 5  # names that a sentence proposes


def find_timm_network(name: str) -> Architecture:
    """Return one of timm's networks, by timm's name for it, with the layers and transforms that timm says it has.

    Its numbered layers are the modules whose maps timm calls features.

    Raises
    ------
    InputError
        timm is not installed, or has no network of that name.
    """
    timm = import_timm()
    try:
        known = timm.models.is_model(name.partition(".")[0]) and timm.models.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag that the network does not have
        raise InputError(f"network.name = 'timm:{name}': {first_line(error)}") from None
    if not known:
        similar = ", ".join(TIMM + model for model in timm.list_models(f"*{name.partition('.')[0]}*")[:LISTED])
        raise InputError(
            f"timm {timm.__version__} has no network {name!r}: `topnine networks --match NAME` lists those that have "
            f"NAME in theirs{f', such as {similar}' if similar else ''}."
        )
    wanted = timm.data.resolve_data_config({}, pretrained_cfg=known.to_dict())
    channels, height, width = wanted["input_size"]
    resize = math.floor(height / wanted["crop_pct"]), math.floor(width / wanted["crop_pct"])
    return Architecture(
        partial(_build, name),
        {module: module for module in _list_features(name)},
        mean=tuple(wanted["mean"]),
        std=tuple(wanted["std"]),
        resize=resize[0] if height == width else resize,
        size=(height, width),
        channels=channels,
        fit=FITS[wanted["crop_mode"]],
        interpolation=wanted["interpolation"],
        wanted_by=f"timm's transforms for {name}" + (f".{known.tag}" if known.tag and "." not in name else ""),
    )


def import_timm() -> Any:
    """Return the package timm; InputError says how to install it."""
    try:
        import timm
        import timm.data
        import timm.models
    except ImportError as error:
        raise InputError(f"timm's networks need timm ({first_line(error)}): pip install 'topnine[timm]'.") from error
    return timm


def download_timm_weights(name: str) -> dict[str, torch.Tensor]:
    """Return the state dict of timm's weights of a network; InputError where they cannot be downloaded."""
    timm = import_timm()
    try:
        state: dict[str, torch.Tensor] = timm.create_model(name, pretrained=True).state_dict()
    except Exception as error:  # whatever the clients of Hugging Face raise
        raise InputError(
            f"timm's weights for {name} cannot be downloaded ({first_line(error)}): give the path of a file as "
            "network.weights, or 'random'."
        ) from error
    return state


def _build(name: str) -> nn.Module:
    module: nn.Module = import_timm().create_model(name, pretrained=False)
    return module


@lru_cache(maxsize=8)  # a run asks several times, and the network is built to be asked
def _list_features(name: str) -> tuple[str, ...]:
    """List the modules whose maps timm calls a network's features; none where it does not say."""
    try:
        with torch.device("meta"):
            module = _build(name)
    except (NotImplementedError, RuntimeError):  # it computes its widths with tensors
        module = _build(name)
    features = getattr(module, "feature_info", None) or []
    names = features.module_name() if hasattr(features, "module_name") else [each.get("module") for each in features]
    present = dict(module.named_modules())
    return tuple(name for name in dict.fromkeys(names) if name in present)
