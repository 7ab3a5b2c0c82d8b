"""Which layers are computed with weights that no file gave.

A checkpoint may lack whole modules, such as the classifier. They are filled with one number so that the digest of the
weights is always the same; what is computed with them is not what the trained network computes, and is refused. It is
found by what changes when other numbers take their place in a copy of the network. One of these is NaN, which passes
through almost every operation; a comparison is false for it, so random numbers are tried as well.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from ..errors import InputError, check_memory
from .checkpoints.fitting import not_its_weights
from .classifier import Classifier
from .loading import Network
from .taps import Tap, read_taps


def check_layers(network: Network, taps: Mapping[str, Tap], pixels: Tensor) -> None:
    """Check that layers are computed with weights that were loaded.

    Parameters
    ----------
    network : Network
    taps : mapping of layer name to Tap
    pixels : Tensor (image, rgb, y, x)
        Any normalised input.

    Raises
    ------
    InputError
        One is not; the sentence says what the weights file lacks.
    """
    spoiled = _list_spoiled(network, taps, pixels)
    if spoiled:
        raise not_its_weights(network.config, f"{network.unloaded}, and layer {spoiled[0]} is computed with it")


def check_classifier(network: Network, classifier: Classifier, shape: tuple[int, ...]) -> None:
    """Check that a network's classifier was loaded; InputError says what the weights file lacks.

    ``shape`` is that of the network's input.
    """
    if _list_spoiled(network, {"scores": classifier.scores}, torch.zeros(shape)):
        raise InputError(
            f"weights {network.config.weights} have no classifier of {network.config.name} ({network.unloaded}): this "
            "figure needs a whole classifier. Give weights that have one, or name a network with theirs, such as a "
            "function of your own (package.module:function)."
        )


def _list_spoiled(network: Network, taps: Mapping[str, Tap], pixels: Tensor) -> list[str]:
    """Return the names of the taps whose maps depend on weights that were not loaded."""
    if not network.unloaded_keys:
        return []
    with torch.no_grad():
        maps = read_taps(network.module, pixels, taps, Tensor.clone)
        changed: set[str] = set()
        for fill in (lambda tensor: tensor.fill_(torch.nan), lambda tensor: tensor.normal_(generator=_seeded())):
            try:
                others = read_taps(_fill(network, fill), pixels, taps, Tensor.clone)
            except Exception as error:  # noqa: BLE001 - what a network does not bear has come from what was not loaded
                check_memory(error)
                return list(taps)
            changed |= {name for name in taps if not torch.equal(maps[name], others[name])}
    return [name for name in taps if name in changed]


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _fill(network: Network, fill: Callable[[Tensor], object]) -> nn.Module:
    """Return a copy of a network with other numbers in the place of all weights that were not loaded."""
    module = copy.deepcopy(network.module)
    state = module.state_dict(keep_vars=True)
    for key in network.unloaded_keys:
        fill(state[key].data)
    return module
