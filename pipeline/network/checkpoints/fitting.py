"""A state dict held against a module: its keys, shapes and values, and which of the module's keys it may lack.

A checkpoint need not hold the whole network. Its classifier often has other classes than the module's, or was left out.
Whole modules that it lacks, or has in other shapes, are filled with a number: see ``network.unloaded`` for who may
nevertheless be computed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ...config.sections import NetworkConfig
from ...errors import InputError
from ..modules.tensors import dense, is_finite
from .finding import Found, is_extra
from .pickles import StandIn
from .renaming import keys_below, rename

UNLOADED_VALUE = 0.01  # of weights that no file gives: not zero, by which a normalised weight would be divided
COUNTERS = ("num_batches_tracked", "n_averaged")  # of training only
# What the modules of a training are called that stand beside the network or behind it: files may hold more of them.
HEADS = {
    *("fc", "head", "heads", "head_dist", "classifier", "linear", "last_linear", "logits", "out", "output"),
    *("aux_classifier", "AuxLogits", "aux1", "aux2"),
    *("projector", "projection", "projection_head", "predictor", "prototypes", "mlp", "queue", "queue_ptr"),
}


@dataclass(frozen=True)
class Match:
    """What of a state dict a module takes.

    Attributes
    ----------
    state : dict of the module's key to what the state dict holds
    unloaded : dict of the module's key to str
        Those that it does not hold, and the shape that it has instead; an empty text where it has none.
    beside : tuple of str
        Keys of the state dict that the module does not take.
    """

    state: dict[str, Any]
    unloaded: dict[str, str]
    beside: tuple[str, ...]


def match(found: Found, module: nn.Module, config: NetworkConfig) -> Match:
    """Find out what of a state dict a module takes, by keys and shapes; values are not looked at.

    Raises
    ------
    InputError
        A key or a shape is not the module's, and no whole module of it is lacking.
    """
    everything = module.state_dict()
    expected = {key: tensor for key, tensor in everything.items() if isinstance(tensor, Tensor) and not is_extra(key)}
    given = _below(found, config)
    renamed = rename(given, everything, config)
    counted = [key for key in given if key.rpartition(".")[2] not in COUNTERS]
    outside = [key for key in counted if key not in renamed and not is_extra(key)]
    state = {name: given[key] for key, name in renamed.items() if name in everything or key in counted}
    extra = {key: state.pop(key) for key in list(state) if is_extra(key)}
    _fill_in(state, module, expected)
    unloaded = _list_unloaded(state, expected)
    _check_whole(unloaded, state, expected, config)
    surplus = [key for key in state if key not in expected]
    _check_surplus(surplus, module, expected, unloaded, config)
    taken = {key: state[key] for key in expected if key not in unloaded}
    taken |= {key: value for key, value in extra.items() if key in everything}
    return Match(taken, unloaded, tuple(sorted(key for key in (*outside, *surplus) if key not in unloaded)))


def read_values(state: Mapping[str, Any], module: nn.Module, unloaded: Collection[str], weights: str) -> dict[str, Any]:
    """Return a whole state dict in a module's types: what was matched, and a number for what is not loaded.

    Raises
    ------
    InputError
        Values are quantised, complex or not finite.
    """
    values = dict(state)
    for key, tensor in module.state_dict().items():
        if key in unloaded:
            values[key] = torch.full(tensor.shape, UNLOADED_VALUE, dtype=tensor.dtype)
        elif is_extra(key):
            if _holds_stand_in(values.get(key)):
                raise InputError(
                    f"weights file {weights} cannot be read: {key!r} holds objects of classes that are not run. "
                    "Save the tensors alone."
                )
        elif isinstance(tensor, Tensor):
            values[key] = _read_value(state[key], key, tensor, weights)
    return values


def describe_unloaded(unloaded: Mapping[str, str], expected: int) -> str:
    """Return which keys a file lacks, or has in another shape, as a part of a sentence.

    >>> describe_unloaded({"fc.weight": "", "fc.bias": ""}, 122)
    "the file lacks 2 of its 122 keys, the first is 'fc.bias'"
    >>> describe_unloaded({"fc.weight": "(10, 512), expected (1000, 512)"}, 122)
    'fc.weight has shape (10, 512), expected (1000, 512)'
    """
    missing = [key for key, shape in unloaded.items() if not shape]
    if missing:
        return f"the file lacks {len(missing)} of its {expected} keys, the first is {min(missing)!r}"
    key = next(iter(unloaded))
    return f"{key} has shape {unloaded[key]}"


def not_its_weights(config: NetworkConfig, reason: str) -> InputError:
    """Return the error that says that weights are not a network's; the reason is a part of a sentence."""
    name = config.name
    return InputError(
        f"weights {config.weights} are not {name}'s: {reason}. Give the weights of {name}, or another network.name."
    )


def _below(found: Found, config: NetworkConfig) -> dict[str, Any]:
    """Return what of a state dict ``network.weights_key`` asks for."""
    if not found.prefix:
        return found.state
    below = keys_below(found.state, found.prefix)
    if not below:
        beginnings = sorted({key.partition(".")[0] for key in found.state})
        where = f" under {found.path!r}" if found.path else ""
        raise InputError(
            f"network.weights_key = {config.weights_key!r} names nothing in weights {config.weights}: its keys{where} "
            f"begin with {', '.join(beginnings[:8])}"
            + (f", and it holds state dicts under {', '.join(found.others)}." if found.others else ".")
        )
    return {inner: found.state[key] for key, inner in below.items()}


def _fill_in(state: dict[str, Any], module: nn.Module, expected: Mapping[str, Tensor]) -> None:
    """Add what files may lack: the counts of batches, and all but one of the names of a parameter that is shared."""
    for key in expected:
        if key.endswith("num_batches_tracked"):  # counted in training only, and missing from older files
            state.setdefault(key, torch.tensor(0))
    names: dict[int, list[str]] = {}
    for key, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(key)
    for shared in names.values():
        given = next((state[key] for key in shared if key in state), None)
        if given is not None:
            state.update({key: given for key in shared if key in expected and key not in state})


def _list_unloaded(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> dict[str, str]:
    unloaded = {}
    for key, tensor in expected.items():
        if key not in state:
            unloaded[key] = ""
        elif not is_lazy(tensor) and state[key].shape != tensor.shape:
            unloaded[key] = f"{tuple(state[key].shape)}, expected {tuple(tensor.shape)}"
    return unloaded


def _check_whole(
    unloaded: Mapping[str, str], state: Collection[str], expected: Mapping[str, Tensor], config: NetworkConfig
) -> None:
    """Raise InputError where nothing is loaded, a module only in part, or no whole numbers: no head looks like that."""
    counted = [key for key in expected if not key.endswith(COUNTERS)]
    of_loaded = {key.rpartition(".")[0] for key in counted if key not in unloaded}
    of_unloaded = {key.rpartition(".")[0] for key in unloaded}
    unfit = any(is_lazy(expected[key]) or not expected[key].is_floating_point() for key in unloaded)
    if unloaded and (not of_loaded or of_loaded & of_unloaded or unfit):
        raise not_its_weights(config, describe_unloaded(unloaded, len(expected)))


def _check_surplus(
    surplus: Collection[str],
    module: nn.Module,
    expected: Collection[str],
    unloaded: Collection[str],
    config: NetworkConfig,
) -> None:
    """Raise InputError where a state dict has keys beside the module's that are not those of a head."""
    holding = {path for path, _ in module.named_modules() if path and _begins(expected, path)}
    loaded = [key for key in expected if key not in unloaded]
    for key in sorted(surplus):
        parts = key.split(".")
        inside = [path for end in range(1, len(parts)) if (path := ".".join(parts[:end])) in holding]
        replaced = any(not _begins(loaded, path) for path in inside)
        if not replaced and (inside or parts[0] not in HEADS):
            counts = f"{len(surplus)} of its {len(expected)} keys"
            raise not_its_weights(config, f"the file has beside them {counts}, the first is {key!r}")


def _begins(keys: Iterable[str], path: str) -> bool:
    """Return whether some keys are those of a module."""
    return any(key.startswith(f"{path}.") for key in keys)


def _holds_stand_in(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_holds_stand_in(item) for item in (*value.keys(), *value.values()))
    if isinstance(value, list | tuple | set):
        return any(_holds_stand_in(item) for item in value)
    return isinstance(value, StandIn) or (isinstance(value, type) and issubclass(value, StandIn))


def _read_value(given: Tensor, key: str, expected: Tensor, weights: str) -> Tensor:
    """Return what a file holds for a key, in the type that the module has; InputError where it does not fit."""
    if given.is_quantized:
        raise InputError(
            f"weights {weights}: {key} holds quantised values, expected {expected.dtype}: give the weights as they "
            "were before they were quantised."
        )
    if (given.is_complex() and not expected.is_complex()) or not is_finite(dense(given)):
        raise InputError(
            f"weights {weights}: {key} holds values that are not finite real numbers: give those of another epoch."
        )
    return dense(given).to(expected.dtype)
