"""What is done to a user's module before it is mined: wrappers are taken off, lazy modules run, others refused."""

from __future__ import annotations

import copy
import sys
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import is_lazy

from ...errors import InputError, first_line
from .tensors import constants, is_finite, named_constants

# Modules that only run another one, by the names of their classes (apex and timm have their own), and where it is.
WRAPPERS = {
    "OptimizedModule": "_orig_mod",  # of torch.compile
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "AveragedModel": "module",  # of torch.optim.swa_utils
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
}
COLOURS = 3  # channels
MATERIALISED_AT_PX = 224
_QUANTISED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized")


def unwrap(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """Take the wrappers of ``WRAPPERS`` off a module and off its submodules, which are replaced in their parents.

    Returns
    -------
    module : nn.Module
    wrappers : tuple of str
        The path of each module that was wrapped, as the user has it: ``module``, ``features._orig_mod``.
    """
    wrappers: list[str] = []
    unwrapped = _unwrap(module, "", wrappers)
    if "torch._dynamo" in sys.modules:  # functions that are compiled run as they are written, too
        torch.compiler.set_stance("force_eager")
    return unwrapped, tuple(wrappers)


def unwrapped_path(path: str, wrappers: tuple[str, ...]) -> str:
    """Return the path that a submodule has once the wrappers around it are taken off.

    >>> unwrapped_path("module.b", ("module",)), unwrapped_path("a.module.0", ("a.module",)), unwrapped_path("b", ())
    ('b', 'a.0', 'b')
    """
    for wrapper in sorted(wrappers, key=len, reverse=True):
        if f"{path}.".startswith(f"{wrapper}."):
            outside = wrapper.rpartition(".")[0]
            path = ".".join(part for part in (outside, path[len(wrapper) + 1 :]) if part)
    return path


def check_minable(module: nn.Module, name: str) -> None:
    """Check that the operations of a module can be seen and have derivatives.

    Raises
    ------
    InputError
        It is a scripted or quantised network.
    """
    if isinstance(module, torch.jit.ScriptModule):
        raise InputError(
            f"network.name = {name!r} gives a scripted network ({type(module).__name__}), whose operations cannot be "
            "seen one by one: return the torch.nn.Module that it was scripted or traced from."
        )
    for path, submodule in module.named_modules():
        if type(submodule).__module__.startswith(_QUANTISED):
            _refuse_quantised(name, path, f"{type(submodule).__module__}.{type(submodule).__name__}")
    for path, tensor in named_constants(module):
        if not is_lazy(tensor) and tensor.is_quantized:
            _refuse_quantised(name, path, str(tensor.dtype))


def check_values(module: nn.Module, name: str) -> None:
    """Check that every constant of a module has values, and every parameter finite ones; InputError names the first."""
    parameters = {path for path, _ in module.named_parameters(remove_duplicate=False)}
    for path, tensor in named_constants(module):
        if tensor.is_meta:
            raise InputError(
                f"network.name = {name!r} gives a network on torch's meta device, whose {path!r} has no values: "
                "build it on the CPU."
            )
        if path in parameters and not is_finite(tensor):
            raise InputError(
                f"network.name = {name!r} gives a network whose {path!r} holds values that are not finite: "
                "its weights are damaged, give it others, or network.weights."
            )


def materialise(module: nn.Module, name: str) -> bool:
    """Make lazy modules the modules that they stand for, by one forward pass of a black image.

    Parameters that have no shape get it, and random values; return whether there were any. Those that were read from a
    weights file are kept.

    Raises
    ------
    InputError
        Some have no shape afterwards: the pass failed, or does not come by them.
    """
    lazy_modules = [each for each in module.modules() if isinstance(each, LazyModuleMixin)]
    if not lazy_modules:
        return False
    lacks = any(is_lazy(tensor) for tensor in constants(module))
    side, why = MATERIALISED_AT_PX, "does not come by them"
    module.eval()
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, side, side, dtype=torch.float32))
    except Exception as error:  # noqa: BLE001 - whatever the network raises: what is left without a shape decides
        why = f"raises {describe(error)}"
    for path, tensor in named_constants(module):
        if is_lazy(tensor):
            raise InputError(
                f"network.name = {name!r} has lazy modules without weights, the first is {path!r}, and a forward pass "
                f"of {side}×{side} pixels {why}: run it once on an image of its own size in the function."
            )
    for submodule in lazy_modules:
        _settle(submodule)
    return lacks


def describe(error: BaseException) -> str:
    """Return an error's type and the first line of its message.

    >>> describe(KeyError("a")), describe(AssertionError())
    ("KeyError: 'a'", 'AssertionError')
    """
    return f"{type(error).__name__}: {first_line(error)}" if str(error) else type(error).__name__


def _unwrap(module: nn.Module, path: str, wrappers: list[str]) -> nn.Module:
    while attribute := _wrapped_attribute(module):
        path = f"{path}.{attribute}" if path else attribute
        wrappers.append(path)
        module = module.get_submodule(attribute)
    if not isinstance(module, torch.jit.ScriptModule):
        for name, child in list(module._modules.items()):
            if child is not None:
                module._modules[name] = _unwrap(child, f"{path}.{name}" if path else name, wrappers)
    return module


def _wrapped_attribute(module: nn.Module) -> str:
    """Return where a wrapper has the module that it runs, an empty text where a module is no wrapper."""
    kinds = {kind.__name__ for kind in type(module).__mro__}
    attributes = (attribute for kind, attribute in WRAPPERS.items() if kind in kinds)
    return next((attribute for attribute in attributes if module._modules.get(attribute) is not None), "")


def _refuse_quantised(name: str, path: str, kind: str) -> None:
    raise InputError(
        f"network.name = {name!r} gives a quantised network ({path!r} is {kind}), which has no derivatives: "
        "return the network as it was before it was quantised."
    )


def _settle(module: Any) -> None:
    """Make a lazy module that has weights what it stands for.

    torch does so in the forward pass; it may not have come to the module, and does not count channels that it knows.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        module.in_channels = module.weight.shape[1] * module.groups
    if hasattr(module, "_initialize_hook"):
        module._initialize_hook.remove()
        module._load_hook.remove()
        del module._initialize_hook, module._load_hook
    if isinstance(module, LazyModuleMixin) and module.cls_to_become is not None:
        module.__class__ = module.cls_to_become


def first_channels(module: nn.Module) -> int:
    """Return how many channels the first of a network's convolutions takes; 3 where it has none."""
    convolutions = (each for each in module.modules() if isinstance(each, nn.Conv2d))
    return next((each.in_channels for each in convolutions), COLOURS)


def count_channels(module: nn.Module) -> int:
    """Return how many channels a network takes: three where it runs on three, else as many as its first convolution.

    The first convolution may take others than the network, which rearranges its pixels or adds their coordinates. A
    copy is run: a first pass may leave something behind.
    """
    first = first_channels(module)
    if first == COLOURS:
        return first
    try:
        with torch.no_grad():
            copy.deepcopy(module).eval()(torch.zeros(1, COLOURS, MATERIALISED_AT_PX, MATERIALISED_AT_PX))
    except Exception:  # noqa: BLE001 - what a network raises on an input that is not its own
        return first
    return COLOURS
