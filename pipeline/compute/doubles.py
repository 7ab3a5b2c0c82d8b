"""Networks in double precision: a copy of a module whose constants are float64, and those that cannot be run so."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError, check_memory, first_line
from ..network.graph import operation_name, outcome, tensors_in
from ..network.layers import Layer
from ..network.loading import Network
from ..network.modules.tensors import converted_copy
from ..network.taps import read_taps
from .normalise import normalisation_rows, normalise
from .probing.references import reference_images


def copy_in_double(module: nn.Module) -> nn.Module:
    """Return a copy of a module with all constants in double precision: parameters, buffers, plain attributes."""
    return converted_copy(module, _double)


def _double(tensor: Tensor) -> Tensor:
    """Return a constant in double precision; one of whole numbers unchanged."""
    if tensor.is_complex():
        return tensor.to(torch.complex128)
    return tensor.double() if tensor.is_floating_point() else tensor


def check_double(network: Network, layers: Sequence[Layer], shape: tuple[int, int, int]) -> None:
    """Run a network in double precision on the CPU, on an image of a height, width and channels.

    Raises
    ------
    InputError
        It cannot be run so, or an operation up to the layers computes in another precision.
    """
    arrays = reference_images(shape)[:1], *normalisation_rows(network.architecture, *shape[1:], "float64")
    pixels = normalise(*(torch.from_numpy(array) for array in arrays))
    with refused_in_double(network, "float64"):
        module = copy_in_double(network.module)
        with torch.no_grad(), _DoubleOnly():
            read_taps(module, pixels, {layer.name: layer.tap for layer in layers}, torch.clone)


@contextmanager
def refused_in_double(network: Network, precision: str) -> Iterator[None]:
    """Have whatever a network raises in float64 say that it cannot be run so: an InputError."""
    try:
        yield
    except Exception as error:
        check_memory(error)
        if precision != "float64":
            raise
        raise InputError(
            f"{network.config.name} cannot be run in float64 ({first_line(error)}): "
            'set deconvolve.precision = "float32".'
        ) from error


class _DoubleOnly(TorchFunctionMode):
    """Raises an error where an operation on doubles returns floating-point numbers of another precision."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = function(*args, **(kwargs or {}))
        if any(tensor.dtype == torch.float64 for tensor in tensors_in((args, kwargs))):
            for tensor in tensors_in(outcome(function, args, returned)):
                if tensor.is_floating_point() and tensor.dtype != torch.float64:
                    coarse = str(tensor.dtype).removeprefix("torch.")
                    raise TypeError(f"its operation {operation_name(function)} returns {coarse}")
        return returned
