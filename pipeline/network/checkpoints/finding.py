"""The state dict within a checkpoint: a training saves it beside much else, under a dozen names."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...config.sections import NetworkConfig
from ...errors import InputError
from .pickles import StandIn

# Where trainings save a state dict, the one that is taken first coming first: trained weights before their averages.
TRAINED_KEYS = ("state_dict", "model", "model_state_dict", "network", "net", "backbone", "module")
AVERAGED_KEYS = ("model_ema", "state_dict_ema", "ema", "ema_model", "ema_state_dict")
KEYS = (*TRAINED_KEYS, *AVERAGED_KEYS)
DEEPEST = 2  # names to a state dict: checkpoint["state"]["model"]
OPTIMISERS = ("optim", "sched")  # what their states' names begin with
EXTRA_STATE = "_extra_state"  # the name that torch gives what get_extra_state returns
LISTED = 4  # names in a sentence


@dataclass(frozen=True)
class Found:
    """A state dict, and where in its checkpoint it is.

    Attributes
    ----------
    state : dict of key to Tensor or extra state
    path : str
        Its names in the checkpoint, joined by dots; empty where the checkpoint is a state dict itself.
    prefix : str
        Of ``network.weights_key``, what is no name in the checkpoint: the keys asked for begin with it.
    others : tuple of str
        The paths of the other state dicts.
    """

    state: dict[str, Any]
    path: str = ""
    prefix: str = ""
    others: tuple[str, ...] = ()


def find_state(checkpoint: Any, config: NetworkConfig) -> Found:
    """Find the state dict in a checkpoint: the one that ``network.weights_key`` names, or the first of ``KEYS``.

    Raises
    ------
    InputError
        There is none, several of which none comes first, or not the one that is asked for.
    """
    if not config.weights_key:
        return _choose(checkpoint, config)
    inside, path, prefix = _follow(checkpoint, config.weights_key)
    found = _choose(inside, config)
    return Found(found.state, ".".join(filter(None, (path, found.path))), prefix, found.others)


def is_extra(key: str) -> bool:
    """Return whether a key of a state dict is that of a module's ``get_extra_state``."""
    return key.rpartition(".")[2] == EXTRA_STATE


def list_names(names: Collection[str]) -> str:
    """Return the first names of many as a part of a sentence.

    >>> list_names(["a", "b", "c", "d", "e", "f"])
    "'a', 'b', 'c', 'd' and 2 more"
    """
    listed = ", ".join(repr(name) for name in list(names)[:LISTED])
    return f"{listed} and {len(names) - LISTED} more" if len(names) > LISTED else listed


def _choose(checkpoint: Any, config: NetworkConfig) -> Found:
    """Return the state dict that comes first in a checkpoint; its own tensors where it holds no other."""
    states, tensors = dict(_list_states(checkpoint, ())), _tensors(checkpoint)
    usual = sorted((path for path in states if _order(path) < len(KEYS)), key=_order)
    if tensors and not usual:
        return Found(tensors, others=tuple(states))
    if not states:
        raise InputError(f"weights file {config.weights} holds no state dict (names and tensors){_why_not(checkpoint)}")
    if not usual and len(states) > 1:
        raise InputError(
            f"weights file {config.weights} holds {len(states)} state dicts, under {list_names(states)}: "
            f"choose one, as in network.weights_key = {next(iter(states))!r}."
        )
    path = next(iter(usual or states))
    return Found(states[path], path, others=tuple(other for other in states if other != path))


def _order(path: str) -> int:
    """Return the number of the first of ``KEYS`` that is among the names of a path, their count where none is."""
    return min((KEYS.index(name) for name in path.split(".") if name in KEYS), default=len(KEYS))


def _list_states(checkpoint: Any, names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and the entries of every state dict in a checkpoint, which is none itself."""
    if not isinstance(checkpoint, dict):
        return
    for name, value in checkpoint.items():
        if not isinstance(name, str) or not isinstance(value, dict) or name.startswith(OPTIMISERS) or is_extra(name):
            continue
        state = _tensors(value)
        if state and (len(state) == len(value) or name in KEYS):
            yield ".".join((*names, name)), state
        elif not state and len(names) + 1 < DEEPEST:
            yield from _list_states(value, (*names, name))


def _tensors(checkpoint: Any) -> dict[str, Any]:
    """Return the tensors and extra states that a dict holds by names; none where there are no tensors."""
    if not isinstance(checkpoint, dict):
        return {}
    entries = {key: value for key, value in checkpoint.items() if isinstance(key, str)}
    state = {key: value for key, value in entries.items() if isinstance(value, Tensor) or is_extra(key)}
    return state if any(isinstance(value, Tensor) for value in state.values()) else {}


def _follow(checkpoint: Any, key: str) -> tuple[Any, str, str]:
    """Follow the names of a key into a checkpoint: return what is there, the names followed, and those left over."""
    names = key.split(".")
    for count, name in enumerate(names):
        inside = checkpoint.get(name) if isinstance(checkpoint, dict) else None
        if not isinstance(inside, dict):
            return checkpoint, ".".join(names[:count]), ".".join(names[count:])
        checkpoint = inside
    return checkpoint, key, ""


def _why_not(checkpoint: Any) -> str:
    """Return what a checkpoint without a state dict holds, as the end of a sentence."""
    entries = checkpoint if isinstance(checkpoint, dict) else {"": checkpoint}
    objects = {str(key): value for key, value in entries.items() if isinstance(value, StandIn)}
    named = [key for key in objects if key in ("", *KEYS)] or list(objects)
    if not named:
        return f", but {type(checkpoint).__name__}: save one, torch.save(model.state_dict(), 'weights.pth')."
    where = f" under {named[0]!r}" if named[0] else ""
    return (
        f", but an object of {objects[named[0]].name}{where}, which cannot be had without running code: where a whole "
        "module was saved, load it in Python and save its weights, torch.save(model.state_dict(), 'weights.pth')."
    )
