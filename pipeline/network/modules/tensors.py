"""The constants of a module: the tensors that it holds, listed and converted.

A constant is a parameter, a buffer, or a plain attribute, also of the module's class, and in lists, tuples and dicts of
these: all that a forward pass reads beside its input, as far as it can be listed.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

_REGISTERED = ("_parameters", "_buffers", "_modules")

Convert = Callable[[Tensor], Tensor]


def constants(module: nn.Module) -> Iterator[Tensor]:
    """Yield every parameter, buffer and plain tensor attribute of a module and its submodules, each once."""
    return (tensor for _, tensor in named_constants(module))


def named_constants(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield the constants of a module with their paths: ``conv.weight``, ``kernels.0``; each once, registered first."""
    registered = [*module.named_parameters(), *module.named_buffers()]
    seen = {id(tensor) for _, tensor in registered}
    paths: set[str] = set()
    for path, tensor in chain(registered, _named_constants(module, "", seen)):
        if path not in paths:
            paths.add(path)
            yield path, tensor


def convert(module: nn.Module, function: Convert) -> None:
    """Replace every constant of a module by what a function returns for it; one that is shared stays shared."""
    _Conversion(function).convert(module)


def converted_copy(module: nn.Module, function: Convert) -> nn.Module:
    """Return a copy of a module with every constant replaced by what a function returns for it."""
    copied = copy.deepcopy(module)
    for submodule in copied.modules():
        _take_from_class(submodule)
    convert(copied, function)
    return copied


def convert_to_float32(module: nn.Module) -> str:
    """Make a module's constants tensors of the CPU without gradients, and those of another precision float32.

    Returns
    -------
    str
        What its weights were before: ``float16``, ``bfloat16``; empty where they were float32. float64 is converted
        where all parameters have it, else it is a constant that a network computes with on purpose.
    """
    floating = {tensor.dtype for tensor in module.parameters() if tensor.is_floating_point()}
    converted = {tensor.dtype for tensor in constants(module) if _is_coarse(tensor.dtype)}
    converted |= floating if floating == {torch.float64} else set()
    if converted and any(is_lazy(tensor) for tensor in constants(module)):
        module.float()

    def plain(tensor: Tensor) -> Tensor:
        """Return a constant without gradients, on the CPU, in float32 where its precision is converted."""
        dtype = torch.float32 if tensor.dtype in converted else tensor.dtype
        dtype = torch.complex64 if dtype == torch.complex32 else dtype
        if is_lazy(tensor):
            return tensor
        is_here = tensor.device.type in ("cpu", "meta")
        if is_here and tensor.dtype == dtype and tensor.is_leaf and not tensor.is_inference():
            return tensor.requires_grad_(False)
        return tensor.detach().to("meta" if tensor.is_meta else "cpu", dtype, copy=True)

    convert(module, plain)
    return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in converted))


def dense(tensor: Tensor) -> Tensor:
    """Return a tensor with all its values in memory, also those that a sparse one leaves out."""
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def is_finite(tensor: Tensor) -> bool:
    """Return whether all values of a tensor are finite; integers are."""
    if not tensor.is_floating_point() and not tensor.is_complex():
        return True
    return bool(torch.isfinite(tensor.float() if tensor.itemsize == 1 else tensor).all())


def _is_coarse(dtype: torch.dtype) -> bool:
    return (dtype.is_floating_point and dtype.itemsize < 4) or dtype == torch.complex32


def _named_constants(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, torch.jit.ScriptModule):  # whose tensors are made anew whenever they are asked for
        for name, tensor in (*value.named_parameters(), *value.named_buffers()):
            yield _join(path, name), tensor
    elif isinstance(value, Tensor | nn.Module | dict | list | tuple) and id(value) not in seen:
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield path, value
        else:
            for name, item in _items(value):
                yield from _named_constants(item, _join(path, name), seen)


def _join(path: str, name: Any) -> str:
    return f"{path}.{name}" if path else str(name)


def _items(value: Any) -> list[tuple[Any, Any]]:
    """List what a module, dict, list or tuple holds, by name; of a module its own tensors before its submodules."""
    if isinstance(value, nn.Module):
        plain = {name: item for name, item in vars(value).items() if name not in _REGISTERED}
        plain = {**_class_attributes(type(value)), **plain}
        return [*value._parameters.items(), *value._buffers.items(), *plain.items(), *value._modules.items()]
    return list(value.items()) if isinstance(value, dict) else list(enumerate(value))


def _take_from_class(module: nn.Module) -> None:
    """Copy the containers of tensors of a module's class into the module: all modules of the class share them."""
    if not isinstance(module, torch.jit.ScriptModule):
        for name, item in _class_attributes(type(module)).items():
            if name not in vars(module) and not isinstance(item, Tensor):
                vars(module)[name] = copy.deepcopy(item)


def _class_attributes(kind: type) -> Mapping[str, Any]:
    """Return the tensors, dicts, lists and tuples that a user's class holds, by name."""
    attributes: dict[str, Any] = {}
    for base in reversed(kind.__mro__):
        if not base.__module__.startswith("torch."):
            attributes |= {name: item for name, item in vars(base).items() if not name.startswith("__")}
    return {name: item for name, item in attributes.items() if isinstance(item, Tensor | dict | list | tuple)}


class _Conversion:
    """Replaces constants, the same ones by the same ones."""

    def __init__(self, function: Convert) -> None:
        self._function = function
        self._results: dict[int, tuple[Any, Any]] = {}  # by the id of what was converted, which is kept alive

    def convert(self, value: Any) -> Any:
        """Convert a value, whatever it is, and return what takes its place: the same object unless that changes."""
        if not isinstance(value, Tensor | nn.Module | dict | list | tuple):
            return value
        if id(value) not in self._results:
            self._results[id(value)] = value, value  # for what holds itself
            self._results[id(value)] = value, self._convert(value)
        return self._results[id(value)][1]

    def _convert(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return self._convert_tensor(value)
        if isinstance(value, torch.jit.ScriptModule):
            for parameter in value.parameters():
                parameter.requires_grad_(False)
            return value._apply(lambda tensor: self._function(tensor.detach()))  # type: ignore[no-untyped-call]
        items = [(name, item, self.convert(item)) for name, item in _items(value)]
        changed = {name: new for name, item, new in items if new is not item}
        if isinstance(value, tuple) and changed:
            values = [new for _, _, new in items]
            return type(value)(*values) if hasattr(value, "_fields") else type(value)(values)
        for name, new in changed.items():
            _replace(value, name, new)
        return value

    def _convert_tensor(self, tensor: Tensor) -> Tensor:
        converted = self._function(tensor)
        if isinstance(tensor, nn.Parameter) and not isinstance(converted, nn.Parameter):
            return nn.Parameter(converted, requires_grad=False)
        return converted


def _replace(holder: Any, name: Any, item: Any) -> None:
    """Put an item in the place of one that a module, dict or list holds."""
    if isinstance(holder, nn.Module):
        registered: Any = (getattr(holder, kind) for kind in _REGISTERED)
        holder = next((items for items in registered if name in items), vars(holder))
    holder[name] = item
