"""The weights of a network: bundled, downloaded or read from a file, held against the module; and their digest."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from importlib.resources import files
from typing import Any
from urllib.error import URLError

import safetensors.torch
import torch
from torch import Tensor, nn

from ..config.sections import TIMM_WEIGHTS, TORCHVISION_WEIGHTS, NetworkConfig
from ..errors import InputError, first_line
from .checkpoints.files import ENDINGS, Checkpoint, read_checkpoint
from .checkpoints.finding import Found, find_state, list_names
from .checkpoints.fitting import Match, describe_unloaded, match, read_values
from .modules.tensors import dense, named_constants
from .timm_networks import TIMM, download_timm_weights


@dataclass(frozen=True)
class Weights:
    """The weights of a module.

    Attributes
    ----------
    state : dict
        A state dict of the module.
    unloaded : str
        Which of its keys no file gives, as a part of a sentence: see ``checkpoints.fitting``.
    unloaded_keys : tuple of str
        These keys.
    remarks : tuple of str
        What was chosen or left out, a line each.
    """

    state: dict[str, Any]
    unloaded: str = ""
    unloaded_keys: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


def read_weights(config: NetworkConfig, module: nn.Module) -> Weights:
    """Read the weights that a configuration names, for a module.

    Parameters
    ----------
    config : NetworkConfig
        Its weights: ``bundled`` (tiny_zfnet only), one of ``TORCHVISION_WEIGHTS`` (downloaded by torchvision), or the
        path of a file as ``checkpoints.files`` reads it; ``timm``: those that timm downloads.
    module : nn.Module
        Whose keys and shapes they must have, but for whole modules that they lack.

    Raises
    ------
    InputError
        There are no such weights, or their keys, shapes or values do not fit.
    """
    if config.weights == "bundled":
        checkpoint = Checkpoint(_read_bundled(config.name))
    elif config.weights == TIMM_WEIGHTS:
        checkpoint = Checkpoint(_download_from_timm(config))
    elif config.weights in TORCHVISION_WEIGHTS:
        checkpoint = Checkpoint(_download(config))
    else:
        checkpoint = read_checkpoint(config.weights)
    found = find_state(checkpoint.content, config)
    matched = match(found, module, config)
    state = read_values(checkpoint.fetch(matched.state), module, matched.unloaded, config.weights)
    unloaded = describe_unloaded(matched.unloaded, len(state)) if matched.unloaded else ""
    return Weights(state, unloaded, tuple(matched.unloaded), _list_remarks(found, matched, unloaded, config))


def weights_digest(module: nn.Module) -> str:
    """Return a digest of a module's constants, whatever file they came from.

    Those of its state dict come first, by their keys; then those that no state dict has: buffers that are not
    persistent, and plain tensor attributes.
    """
    digest = hashlib.sha256()
    state = {key: tensor for key, tensor in module.state_dict().items() if isinstance(tensor, Tensor)}
    places = {_place(tensor) for tensor in state.values()}
    others = {
        f"constant {path}": tensor
        for path, tensor in named_constants(module)
        if path not in state and _place(tensor) not in places
    }
    for key, tensor in (*sorted(state.items()), *sorted(others.items())):
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor))
    return digest.hexdigest()[:16]


def _place(tensor: Tensor) -> tuple[int, ...]:
    """Return where in memory a tensor's values are: the same for what is shared under several names."""
    if tensor.layout != torch.strided:
        return (id(tensor),)
    return (tensor.data_ptr(), *tensor.shape)


def _bytes(tensor: Tensor) -> bytes:
    """Return a tensor's values in row-major order, of whatever type they are."""
    values = dense(tensor.detach()).resolve_conj().resolve_neg().cpu().contiguous()
    return values.flatten().view(torch.uint8).numpy().tobytes()


def _read_bundled(name: str) -> dict[str, Tensor]:
    source = files(f"{__package__}.architectures") / f"{name}.safetensors"
    if not source.is_file():
        raise InputError(f"no weights are bundled for {name}: network.weights is 'torchvision', 'random' or a file.")
    return safetensors.torch.load(source.read_bytes())


def _download(config: NetworkConfig) -> dict[str, Tensor]:
    from torchvision import models

    name = "IMAGENET1K_V1" if config.weights == "torchvision" else config.weights
    try:
        choices = models.get_model_weights(config.name)
    except ValueError as error:
        raise InputError(
            f"torchvision has no weights for {config.name}: network.weights is 'random' or a file."
        ) from error
    if name not in choices.__members__:
        raise InputError(
            f"torchvision has no weights {name} for {config.name}: network.weights is {_list_choices(choices)}, "
            "'random' or a file."
        )
    try:
        return dict(choices[name].get_state_dict(check_hash=True, progress=False))
    except (URLError, OSError, RuntimeError) as error:
        raise InputError(
            f"torchvision's weights for {config.name} cannot be downloaded ({first_line(error)}): give the path of a "
            f"file as network.weights, which ends in {ENDINGS}."
        ) from error


def _download_from_timm(config: NetworkConfig) -> dict[str, Tensor]:
    if not config.name.startswith(TIMM):
        raise InputError(f"network.weights = 'timm' is for networks of timm's, and {config.name} is none: timm:NAME.")
    return download_timm_weights(config.name.removeprefix(TIMM))


def _list_choices(choices: Collection[Any]) -> str:
    """Return the names of torchvision's weights that ``network.weights`` can be."""
    return ", ".join(repr(choice.name) for choice in choices if choice.name in TORCHVISION_WEIGHTS)


def _list_remarks(found: Found, matched: Match, unloaded: str, config: NetworkConfig) -> tuple[str, ...]:
    """Return a line for each thing that a user may not expect of what was taken from a file."""
    remarks, weights = [], f"weights {config.weights}"
    if found.others:
        taken = f"those under {found.path!r}" if found.path else "those at the top"
        remarks.append(
            f"{weights}: {taken} are taken; there are others under {list_names(found.others)}, which "
            "network.weights_key can choose."
        )
    if unloaded:
        remarks.append(
            f"{weights}: {unloaded}. {list_names(matched.unloaded)} of {config.name} stay without trained values, and "
            "nothing that is computed with them can be mined."
        )
    if matched.beside:
        remarks.append(f"{weights}: {list_names(matched.beside)} are not taken: {config.name} has no such weights.")
    return tuple(remarks)
