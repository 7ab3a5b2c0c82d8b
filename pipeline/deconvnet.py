"""The deconvnet of Zeiler & Fergus (2014, section 2.1): projection of single activations back to pixels.

Everything in the tapped layer is zero but one activation. Going down, pooling is undone through the
recorded switches, the maps are rectified, and filtered with the transposed convolutions; at the pixels
nothing is rectified. This is the backward pass with another rule at each rectifier: what comes from above
is clamped at zero, and what the rectifier saw on the way up does not matter. In that form it holds for any
graph: one ``TorchFunctionMode`` puts the rules in place of the functions, and the network is not touched.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from .graph import operation_name
from .taps import Tap, read_taps

FEW = 4  # channels into a convolution that is undone by hand


@dataclass(frozen=True)
class Rules:
    """What the deconvnet does where it differs from the gradient.

    Attributes
    ----------
    rule : {"deconvnet", "guided", "gradient"}
        At a rectifier: clamp what comes from above; clamp it and stop it where the rectifier was closed
        (Springenberg et al. 2015); only the latter.
    pooling : {"sum", "overwrite"}
        Where overlapping pooling regions chose the same position: add up (the transpose of max pooling), or keep
        the last in row-major order, as unpooling by assignment does.
    lrn : {"gradient", "identity"}
        Through local response normalisation.
    """

    rule: Literal["deconvnet", "guided", "gradient"] = "deconvnet"
    pooling: Literal["sum", "overwrite"] = "sum"
    lrn: Literal["gradient", "identity"] = "gradient"


def project(
    network: nn.Module, tap: Tap, pixels: Tensor, filter: Tensor, row: Tensor, column: Tensor, rules: Rules
) -> tuple[Tensor, Tensor]:
    """Project one activation of each of some images back to pixel space.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, its parameters without gradients.
    pixels : Tensor (hit, rgb, y, x)
        Its normalised input; an image with several hits stands here several times.
    filter, row, column : Tensor (hit) int64
        Place of the activation in the tapped layer.
    rules : Rules

    Returns
    -------
    activation : Tensor (hit)
        The activations, computed anew.
    projection : Tensor (hit, rgb, y, x)
        In units of the normalised input.
    """
    pixels = pixels.detach().requires_grad_(True)
    with torch.enable_grad(), _RuleMode(rules):
        maps = read_taps(network, pixels, {"layer": tap}, lambda maps: maps)["layer"]
    hit = torch.arange(len(pixels), device=pixels.device)
    activation = maps.detach()[hit, filter, row, column]
    seed = torch.zeros_like(maps)
    seed[hit, filter, row, column] = activation
    (projection,) = torch.autograd.grad(maps, pixels, seed)
    return activation, projection


class _RuleMode(TorchFunctionMode):
    """Runs rectifiers, max-pooling and local response normalisation by their rules on the way down."""

    def __init__(self, rules: Rules) -> None:
        super().__init__()
        self._replacements: dict[str, Callable[..., Any]] = {"conv2d": _convolve}
        if rules.rule != "gradient":
            self._replacements |= _rectifiers(rules.rule == "guided")
        if rules.pooling == "overwrite":
            self._replacements["max_pool2d"] = _max_pool_overwriting
        if rules.lrn == "identity":
            self._replacements["local_response_norm"] = _normalise_identity

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        replacement = self._replacements.get(operation_name(function))
        if replacement is None:
            return function(*args, **(kwargs or {}))
        in_place = getattr(function, "__name__", "").endswith("_")
        return replacement(*args, **(kwargs or {}), **({"inplace": True} if in_place else {}))


def _rectifiers(guided: bool) -> dict[str, Callable[..., Tensor]]:
    """Give the functions that rectify, and what takes their places: max(0, x), which may have a ceiling."""

    def relu(input: Tensor, inplace: bool = False) -> Tensor:
        return _Rectify.apply(input, None, guided, inplace)

    def relu6(input: Tensor, inplace: bool = False) -> Tensor:
        return _Rectify.apply(input, 6.0, guided, inplace)

    def hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
        if min_val != 0:
            return F.hardtanh(input, min_val, max_val, inplace)
        return _Rectify.apply(input, max_val, guided, inplace)

    def clamp(input: Tensor, min: Any = None, max: Any = None, inplace: bool = False) -> Tensor:
        if min != 0 or isinstance(min, Tensor) or isinstance(max, Tensor):
            return input.clamp_(min, max) if inplace else input.clamp(min, max)
        return _Rectify.apply(input, max, guided, inplace)

    return {"relu": relu, "relu6": relu6, "hardtanh": hardtanh, "clamp": clamp, "clamp_min": clamp}


class _Rectify(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, ceiling: float | None, guided: bool, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(input)
        ctx.guided = guided
        if guided:
            is_open = input > 0 if ceiling is None else (input > 0) & (input < ceiling)
            ctx.save_for_backward(is_open)
        return input.clamp_(0, ceiling) if inplace else input.clamp(0, ceiling)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None, None]:
        from_above = grad_outputs[0].clamp(min=0)
        if ctx.guided:
            from_above = from_above * ctx.saved_tensors[0]
        return from_above, None, None, None


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if input.shape[1] > FEW or groups > 1 or isinstance(padding, str) or input.dim() != 4:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    return _ConvolveFew.apply(input, weight, bias, stride, padding, dilation)


class _ConvolveFew(torch.autograd.Function):
    """A convolution of the pixels. The way back to three channels by hand is twice as fast as oneDNN's."""

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
    ) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.places = input.shape[2:], weight.shape[2:], dilation, padding, stride
        return F.conv2d(input, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (weight,) = ctx.saved_tensors
        columns = weight.flatten(1).t() @ grad_outputs[0].flatten(2)
        return F.fold(columns, *ctx.places), None, None, None, None, None


def _max_pool_overwriting(
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    pooled, switches = F.max_pool2d(input, kernel_size, stride, padding, dilation, ceil_mode, return_indices=True)
    unpooled = _UnpoolOverwriting.apply(input, pooled.detach(), switches)
    return (unpooled, switches) if return_indices else unpooled


class _UnpoolOverwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, pooled: Tensor, switches: Tensor) -> Tensor:
        ctx.shape = input.shape
        ctx.save_for_backward(switches)
        return pooled.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        (switches,) = ctx.saved_tensors
        chosen = switches.flatten(2)
        region = torch.arange(1, chosen.shape[2] + 1, device=chosen.device).expand_as(chosen)
        # The last region that chose a position, 0 where none did: explicit, for scatter promises no order.
        last = torch.zeros((*chosen.shape[:2], ctx.shape[2] * ctx.shape[3]), dtype=region.dtype, device=chosen.device)
        last.scatter_reduce_(2, chosen, region, "amax")
        from_above = F.pad(grad_outputs[0].flatten(2), (1, 0))  # region 0 brings zero
        return from_above.gather(2, last).reshape(ctx.shape), None, None


def _normalise_identity(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return _PassBack.apply(input, F.local_response_norm(input.detach(), *args, **kwargs))


class _PassBack(torch.autograd.Function):
    """Gives a value in the place of its input, and passes what comes from above on to the input."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        return grad_outputs[0], None
