"""The deconvnet of Zeiler & Fergus (2014, section 2.1): projection of single activations back to pixels.

Everything in the tapped layer is zero but one activation. Going down, pooling is undone through the recorded
switches, the maps are rectified, and filtered with the transposed convolutions; nothing is rectified at the pixels.
This is the backward pass with another rule at each rectifier: the gradient from above is clamped at zero, and the sign
of the rectifier's input does not matter. In this form it holds for any graph: one ``TorchFunctionMode`` puts the rules
in place of the functions, and the network is not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from ..network.graph import Rectifier, is_operation, operation_name, outcome, tensors_in
from ..network.taps import Tap, read_taps
from .pooling import POOLINGS, PassBack, Ties, pair

PIXEL_CHANNELS = 4  # a convolution of so few channels is taken back by hand
LONG_STRIDE = 4  # from which it is taken back phase by phase


@dataclass(frozen=True)
class Rules:
    """The deconvnet's choices where it differs from the gradient.

    Attributes
    ----------
    rule : {"deconvnet", "guided", "gradient"}
        At a rectifier, ``deconvnet`` clamps the gradient from above at zero; ``guided`` (Springenberg et al. 2015)
        also stops it where the rectifier's input was not positive; ``gradient`` only does the latter.
    pooling : {"sum", "overwrite"}
        Where overlapping pooling regions chose the same position: add up (the transpose of max pooling), or keep
        the last in row-major order, as unpooling by assignment does.
    lrn : {"gradient", "identity"}
        What local response normalisation passes back: its derivative, or the signal unchanged.
    """

    rule: Literal["deconvnet", "guided", "gradient"] = "deconvnet"
    pooling: Literal["sum", "overwrite"] = "sum"
    lrn: Literal["gradient", "identity"] = "gradient"


def project(
    network: nn.Module,
    tap: Tap,
    pixels: Tensor,
    filter: Tensor,
    row: Tensor,
    column: Tensor,
    rules: Rules,
    ties: Ties | None = None,
) -> tuple[Tensor, Tensor]:
    """Project one activation of each of some images back to pixel space.

    Parameters
    ----------
    network : nn.Module
        In evaluation mode, its parameters without gradients.
    pixels : Tensor (hit, rgb, y, x)
        Its normalised input; an image with several hits is in it several times.
    filter, row, column : Tensor (hit) int64
        Position of the activation in the tapped layer.
    rules : Rules
    ties : Ties, optional
        Notes which of the hits hang on a near-tie of a pooling region, or breaks these.

    Returns
    -------
    activation : Tensor (hit)
        The activations, computed anew.
    projection : Tensor (hit, rgb, y, x)
        In units of the normalised input.
    """
    leaf = pixels.detach().requires_grad_(True)
    with torch.enable_grad():
        kept = torch.contiguous_format if tap.contiguous else torch.preserve_format
        source = leaf.clone(memory_format=kept)  # the first operation may be in place
        with RuleMode(rules, tap.rectifiers, source, ties=ties):
            maps = read_taps(network, source, {"layer": tap}, lambda maps: maps)["layer"]
    # The mode has to be left before the backward pass: inside it, the backward passes of the replacements, which call
    # torch's functions themselves, would be replaced again.
    hit = torch.arange(len(leaf), device=leaf.device)
    activation = maps.detach()[hit, filter, row, column]
    seed = torch.zeros_like(maps)
    seed[hit, filter, row, column] = activation
    with torch.enable_grad():  # a sum, because torch imports sympy, which takes a second, for a gradient from above
        (projection,) = torch.autograd.grad((maps * seed).sum(), leaf)
    return activation, projection


class RuleMode(TorchFunctionMode):
    """Runs rectifiers, max-pooling and local response normalisation by their rules on the way down.

    Operations are counted as the trace counted them.

    Parameters
    ----------
    rules : Rules
    rectifiers : tuple of Rectifier
        Of the graph, up to the layer.
    source : Tensor
        The network's input.
    opened : bool
        Rectifiers pass everything back, and max-pooling to all of a region: what a unit can see at all.
    ties : Ties, optional
        Watches max-pooling, or breaks its near-ties.
    """

    def __init__(
        self,
        rules: Rules,
        rectifiers: tuple[Rectifier, ...],
        source: Tensor,
        opened: bool = False,
        ties: Ties | None = None,
    ) -> None:
        super().__init__()
        self._ties = ties
        self._guided, self._opened = rules.rule == "guided", opened
        self._rectifiers = {r.operation: r for r in rectifiers} if rules.rule != "gradient" else {}
        self._replacements: dict[str, Callable[..., Any]] = {"conv2d": _convolve}
        if rules.pooling == "overwrite":
            self._replacements |= {pooling: of.overwriting for pooling, of in POOLINGS.items()}
        if rules.lrn == "identity":
            self._replacements["local_response_norm"] = _normalise_identity
        if opened:
            self._replacements |= {pooling: of.opened for pooling, of in POOLINGS.items()}
        longer = [r for r in self._rectifiers.values() if not r.direct]
        self._wanted = {r.input: r.changed for r in longer}
        self._kept: dict[int, Tensor] = {}
        self._value = 0
        self._keep(source)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = operation_name(function)
        rectifier = self._rectifiers.get(self._value)  # the index of the next operation
        if rectifier is not None and rectifier.name != name:
            rectifier = None  # it returns no tensor: it is no operation
        if self._ties is not None and name in POOLINGS:
            args, kwargs = self._ties.broken(args, kwargs)
        if rectifier is not None and rectifier.direct:
            returned = self._rectify(function, args, kwargs, rectifier)
        elif name in self._replacements:
            returned = self._replacements[name](*args, **kwargs)
        else:
            returned = function(*args, **kwargs)
        if self._ties is not None and name in POOLINGS:
            self._ties.watch(name, args, kwargs, returned)
        result = outcome(function, args, returned)
        if is_operation(result):
            self._value += 1
            if rectifier is not None and not rectifier.direct:
                returned = self._rectify_longer(rectifier, returned, next(tensors_in(result)))
                result = outcome(function, args, returned)
            self._keep(next(tensors_in(result)))
        return returned

    def _keep(self, tensor: Tensor) -> None:
        """Keep a value that a function of several operations rectifies; a copy where it is changed meanwhile."""
        if self._value in self._wanted:
            self._kept[self._value] = tensor.clone() if self._wanted[self._value] else tensor

    def _rectify(self, function: Any, args: Any, kwargs: Any, rectifier: Rectifier) -> Tensor:
        """Call a function that rectifies the one tensor that it reads."""
        input = next(tensor for tensor in tensors_in((args, kwargs)) if tensor.requires_grad)
        back = self._backward(input, rectifier.ceiling)
        output: Tensor = _Rectify.apply(input, lambda: outcome(function, args, function(*args, **kwargs)), back)
        return output

    def _rectify_longer(self, rectifier: Rectifier, returned: Any, value: Tensor) -> Any:
        """Have what comes from above bypass the operations that rectified a value together."""
        input = self._kept[rectifier.input]
        back = self._backward(input, rectifier.ceiling)
        if rectifier.in_place:
            _Bypass.apply(input, value, back, True)
            return returned
        bypassed: Tensor = _Bypass.apply(input, value.detach(), back, False)
        if isinstance(returned, Tensor):
            return bypassed
        return type(returned)([bypassed if item is value else item for item in returned])

    def _backward(self, input: Tensor, ceiling: float | None) -> Callable[[Tensor], Tensor]:
        """Return what a rectifier of an input does with what comes from above."""
        if self._opened:
            return lambda from_above: from_above
        if not self._guided:
            return lambda from_above: from_above.clamp(min=0)
        is_open = input.detach() > 0 if ceiling is None else (input.detach() > 0) & (input.detach() < ceiling)
        return lambda from_above: from_above.clamp(min=0) * is_open


class _Rectify(torch.autograd.Function):
    """Calls a function that rectifies its input; the gradient goes through another one."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, call: Callable[[], Tensor], back: Callable[[Tensor], Tensor]) -> Tensor:
        """Call the function; it may change its input."""
        ctx.back = back
        output = call()
        if output is input:
            ctx.mark_dirty(input)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Pass the gradient from above through the other function."""
        return ctx.back(grad_outputs[0]), None, None


class _Bypass(torch.autograd.Function):
    """Returns a value that was computed from an input; the gradient goes to the input as in ``_Rectify``."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value: Tensor, back: Callable[[Tensor], Tensor], in_place: bool) -> Tensor:
        """Return the value; ``in_place`` = as the same tensor."""
        ctx.back = back
        if in_place:
            ctx.mark_dirty(value)
            return value
        return value.view_as(value)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Pass the gradient from above through the function."""
        return ctx.back(grad_outputs[0]), None, None, None


def _convolve(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    is_plain = groups == 1 and input.dim() == 4 and not isinstance(padding, str) and not weight.requires_grad
    if not is_plain or input.shape[1] > PIXEL_CHANNELS:
        return F.conv2d(input, weight, bias, stride, padding, dilation, groups)
    output: Tensor = _ConvolvePixels.apply(input, weight, bias, stride, padding, dilation)
    return output


class _ConvolvePixels(torch.autograd.Function):
    """A convolution of the pixels. Its transpose, to three channels, is two to four times as fast by hand as oneDNN's.

    In float32 with strides of four and more the transpose is computed as an ordinary convolution, whose channels are
    the places of a pixel between two steps of the stride; otherwise as the sum of what each window passes back.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any
    ) -> Tensor:
        """Convolve the pixels."""
        ctx.geometry = input.shape[2:], pair(stride), pair(padding), pair(dilation)
        ctx.save_for_backward(weight)
        return F.conv2d(input, weight, bias, stride, padding, dilation)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        """Filter the gradient from above with the transposed convolution."""
        (weight,) = ctx.saved_tensors
        size, stride, padding, dilation = ctx.geometry
        if weight.dtype == torch.float32 and min(stride) >= LONG_STRIDE and dilation == [1, 1]:
            back = _transpose_by_phases(grad_outputs[0], weight, size, stride, padding)
        else:
            columns = weight.flatten(1).t() @ grad_outputs[0].flatten(2)
            back = F.fold(columns, size, weight.shape[2:], dilation, padding, stride)
        return back, None, None, None, None, None


def _transpose_by_phases(
    signal: Tensor, weight: Tensor, size: Sequence[int], stride: list[int], padding: list[int]
) -> Tensor:
    """Return the transposed convolution of a signal (hit, filter, row, column), of a size in pixels.

    A pixel's phase is its place modulo the stride. The pixels of one phase are an ordinary convolution of the signal
    with every stride-th weight; so all phases are the channels of one convolution, and are put in their places after.
    """
    (height, width), (step_y, step_x), (top, left) = size, stride, padding
    filters, channels, kernel_y, kernel_x = weight.shape
    weight = F.pad(weight, (0, -kernel_x % step_x, 0, -kernel_y % step_y))
    weight = weight.reshape(filters, channels, -(-kernel_y // step_y), step_y, -(-kernel_x // step_x), step_x)
    weight = weight.flip(2, 4).permute(3, 5, 1, 0, 2, 4).flatten(0, 2)  # (phase and channel, filter, row, column)
    phases = F.conv2d(signal, weight, padding=(weight.shape[2] - 1, weight.shape[3] - 1))
    rows, columns = phases.shape[2:]
    phases = phases.view(-1, step_y, step_x, channels, rows, columns).permute(0, 4, 1, 5, 2, 3)
    pixels = phases.reshape(-1, rows * step_y, columns * step_x, channels).permute(0, 3, 1, 2)
    below, right = height + top - rows * step_y, width + left - columns * step_x  # pixels that no window reaches
    return F.pad(pixels, (-left, right, -top, below))


def _normalise_identity(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    output: Tensor = PassBack.apply(input, F.local_response_norm(input.detach(), *args, **kwargs))
    return output
