"""Max-pooling on the way back: where signals of overlapping regions meet, and where rounding decides.

Two values of a region may be nearer than the number format can tell. Which of them is the maximum then depends on the
machine, the batch and the crop, and with it where the signal goes that comes back through the region. A projection is
said to hang on such a near-tie where that signal counts. Values that are equal because all were rectified to zero are
none: the first position is chosen whatever the rounding.

Most near-ties lie in parts of an image that are of one colour: there a filter has the same value at every position but
for the rounding, which is another at each, in float64 as well. So in float64 values that agree in 36 bits count as the
same, and the first position in row-major order is chosen.

Rectifiers of the rules ``guided`` and ``gradient`` are closed or open by rounding, too. They are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial, reduce
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

# How near values are a tie, in roundings of the root mean square of the hit's pooled maps: see ``configs/README.md``.
ROUNDINGS = 4
# The signals that count, as a fraction of the strongest that comes back to the pooled maps.
FAINTEST = 1e-4
CACHED_VALUES = 2**19  # of maps before pooling that a processor compares at once
DROPPED_BITS = 17  # of the 53 of a double's mantissa


class Ties:
    """Notes which hits of a batch hang on a near-tie, while their signals come back; or breaks the near-ties.

    Attributes
    ----------
    breaks : bool
        The first of values that are nearer than 2⁻³⁶ is the maximum, and no hit hangs on one. For float64.
    """

    def __init__(self, breaks: bool = False) -> None:
        self.breaks = breaks
        self._came_back: list[Callable[[], Tensor]] = []  # return which hits hang on a max-pooling

    def watch(self, name: str, args: Any, kwargs: Any, returned: Any) -> None:
        """Keep what a max-pooling pooled, and the signal that comes back to what it returned, for ``hits``.

        Parameters
        ----------
        name : str
            Of the operation, one of ``POOLINGS``.
        args, kwargs
            What it was called with.
        returned : Tensor (hit, channel, row, column), or a tuple that begins with it
        """
        pooled = returned if isinstance(returned, Tensor) else returned[0]
        if not self.breaks and pooled.requires_grad and pooled.dim() == 4:
            input, (others, named) = _split_arguments(args, kwargs)
            maps = input.detach()

            def two_largest(some: Tensor, size: Any) -> tuple[Tensor, Tensor]:
                """Return the two largest values of the regions of some of the maps."""
                return POOLINGS[name].two_largest(some, *others, size=size, **named)

            pooled.register_hook(lambda signal: self._came_back.append(partial(_hang, two_largest, maps, signal)))

    def broken(self, args: Any, kwargs: Any) -> tuple[Any, Any]:
        """Return the arguments of a max-pooling; where near-ties are broken, values that are near made the same."""
        if not self.breaks:
            return args, kwargs
        input, (others, named) = _split_arguments(args, kwargs)
        return (PassBack.apply(input, round_to_36_bits(input.detach())), *others), named

    def hits(self, count: int, device: torch.device) -> Tensor:
        """Return which of a number of hits hang on a near-tie, (hit) bool, once the signals have come back.

        The regions are compared here, not on the way back: torch runs the backward passes of a GPU in one thread.
        """
        hangs = torch.zeros(count, dtype=torch.bool, device=device)
        for compare in self._came_back:
            some = compare()  # where the network pools parts of images as images, each may be of any hit
            hangs |= some if len(some) == count else some.any()
        return hangs


def round_to_36_bits(values: Tensor) -> Tensor:
    """Return doubles rounded to 36 bits of mantissa, by Veltkamp's splitting.

    >>> round_to_36_bits(torch.tensor([1 + 2.0**-35, 1 + 2.0**-40], dtype=torch.float64)) - 1
    tensor([2.9104e-11, 0.0000e+00], dtype=torch.float64)
    """
    scaled: Tensor = values * (2**DROPPED_BITS + 1)
    return scaled - (scaled - values)


def _split_arguments(args: Any, kwargs: Any) -> tuple[Tensor, tuple[Any, dict[str, Any]]]:
    """Return the maps that a max-pooling is called with, and its other arguments."""
    if args:
        return args[0], (args[1:], kwargs)
    return kwargs["input"], ((), {key: value for key, value in kwargs.items() if key != "input"})


def _hang(two_largest: Callable[..., tuple[Tensor, Tensor]], maps: Tensor, signal: Tensor) -> Tensor:
    """Return which hits (hit) hang on a near-tie, from the maps before pooling and the signals that come back."""
    at_once = len(maps) if maps.is_cuda else max(1, CACHED_VALUES // maps[0].numel())
    hangs = []
    for some, back in zip(torch.split(maps, at_once), torch.split(signal.detach(), at_once), strict=True):
        first, second = two_largest(some, back.shape[2:])
        strength = back.abs()
        is_idle = (strength <= FAINTEST * strength.amax((1, 2, 3), keepdim=True)) | (first == 0)
        gap = (first - second).masked_fill_(is_idle, torch.inf).amin((1, 2, 3))
        near = ROUNDINGS * torch.finfo(maps.dtype).eps * first.square().mean((1, 2, 3)).sqrt()
        hangs.append(gap <= near)
    return torch.cat(hangs)


@dataclass(frozen=True)
class Regions:
    """How max-pooling divides maps into regions, [y, x] each."""

    kernel: list[int]
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    ceil_mode: bool

    @classmethod
    def of(  # as torch's max_pool2d is called, the maps apart
        cls,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Regions:
        """Return the regions of a call; no stride, or an empty one, is the kernel's own."""
        kernel = pair(kernel_size)
        return cls(kernel, pair(stride) if stride else kernel, pair(padding), pair(dilation), ceil_mode)


class _Largest(NamedTuple):
    """The largest and the second largest of some values, of every region; the second is None where they are one."""

    first: Tensor
    second: Tensor | None

    def every(self, axis: int, positions: slice) -> _Largest:
        """Return those at some rows or columns alone."""
        at: Any = (..., positions, slice(None)) if axis == 0 else (..., positions)
        return _Largest(self.first[at], None if self.second is None else self.second[at])

    def merge(self, other: _Largest) -> _Largest:
        """Return the largest two of these values and others."""
        second = torch.minimum(self.first, other.first)
        for candidate in (self.second, other.second):
            if candidate is not None:
                second = torch.maximum(second, candidate)
        return _Largest(torch.maximum(self.first, other.first), second)


def _two_largest(input: Tensor, *args: Any, size: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Return the two largest values of every pooling region, (hit, channel, row, column) of a size in rows and columns.

    They are found along each column of the regions first, then along the rows of what that gives: half as many
    operations as one position after the other.
    """
    regions = Regions.of(*args, **kwargs)
    largest = _Largest(_pad(input, size, regions), None)
    for axis in (0, 1):
        step, last = regions.stride[axis], (size[axis] - 1) * regions.stride[axis]
        starts = [regions.dilation[axis] * position for position in range(regions.kernel[axis])]
        columns = [largest.every(axis, slice(start, start + last + 1, step)) for start in starts]
        largest = reduce(_Largest.merge, columns)
    first, second = largest
    return first, torch.full_like(first, -torch.inf) if second is None else second


def _pad(maps: Tensor, size: Any, regions: Regions) -> Tensor:
    """Pad maps with what is no maximum, as far as the regions reach, beyond the padding where ``ceil_mode`` says so."""
    ahead, behind = regions.padding, []
    for i in (0, 1):
        reach = (size[i] - 1) * regions.stride[i] + (regions.kernel[i] - 1) * regions.dilation[i] + 1
        behind.append(max(0, reach - ahead[i] - maps.shape[2 + i]))
    if not any(ahead + behind):
        return maps
    return F.pad(maps, (ahead[1], behind[1], ahead[0], behind[0]), value=-torch.inf)


def _two_largest_adaptive(input: Tensor, *args: Any, size: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
    """Return the two largest values of every region, of regions that divide the maps among them."""
    height, width = input.shape[2:]
    values = [
        input[
            :,
            :,
            row * height // size[0] : -(-(row + 1) * height // size[0]),
            column * width // size[1] : -(-(column + 1) * width // size[1]),
        ]
        for row, column in product(range(size[0]), range(size[1]))
    ]
    largest = [F.pad(region.flatten(2), (0, 1), value=-torch.inf).topk(2).values for region in values]
    both = torch.stack(largest, dim=2)
    return both[..., 0].view(*both.shape[:2], *size), both[..., 1].view(*both.shape[:2], *size)


def pair(value: Any) -> list[int]:
    """Return a number for each of the two axes.

    >>> pair(3), pair((2, 1)), pair([4])
    ([3, 3], [2, 1], [4, 4])
    """
    numbers = [value] if isinstance(value, int) else list(value)
    return numbers * 2 if len(numbers) == 1 else numbers


def _average(input: Tensor, *args: Any, **kwargs: Any) -> Tensor | None:
    """Return the averages of max-pooling's regions; None of dilated ones, of which torch has none."""
    regions = Regions.of(*args, **kwargs)
    if regions.dilation != [1, 1]:
        return None
    return F.avg_pool2d(input, regions.kernel, regions.stride, regions.padding, regions.ceil_mode)


class PassBack(torch.autograd.Function):
    """Returns a value in place of its input, and passes the gradient from above on to the input unchanged."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, value: Tensor) -> Tensor:
        """Return the value."""
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        """Return the gradient from above."""
        return grad_outputs[0], None


class _UnpoolOverwriting(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input: Tensor, pooled: Tensor, switches: Tensor) -> Tensor:
        """Return the pooled maps, and keep the switches."""
        ctx.shape = input.shape
        ctx.save_for_backward(switches)
        return pooled.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None, None]:
        """Put each region's gradient where its switch points; the last region wins."""
        (switches,) = ctx.saved_tensors
        chosen = switches.flatten(2)
        region = torch.arange(1, chosen.shape[2] + 1, device=chosen.device).expand_as(chosen)
        # The last region that chose a position, 0 where none did. It is explicit because scatter promises no order.
        last = torch.zeros((*chosen.shape[:2], ctx.shape[2] * ctx.shape[3]), dtype=region.dtype, device=chosen.device)
        last.scatter_reduce_(2, chosen, region, "amax")
        from_above = F.pad(grad_outputs[0].flatten(2), (1, 0))  # region 0 passes zero
        return from_above.gather(2, last).reshape(ctx.shape), None, None


@dataclass(frozen=True)
class Pooling:
    """A max-pooling of torch's.

    Attributes
    ----------
    pool : callable
    arguments : int
        How many positional ones it takes before ``return_indices``.
    two_largest, average : callable
        Take the same arguments.
    always : bool
        It always returns its switches, too.
    """

    pool: Callable[..., Any]
    arguments: int
    two_largest: Callable[..., tuple[Tensor, Tensor]]
    average: Callable[..., Tensor | None]
    always: bool = False

    def overwriting(self, *args: Any, **kwargs: Any) -> Any:
        """Pool so that of overlapping regions that chose the same position the last one passes its signal back."""
        input, pooled, switches, _ = self._pool(args, kwargs)
        return self._result(_UnpoolOverwriting.apply(input, pooled.detach(), switches), switches, args, kwargs)

    def opened(self, *args: Any, **kwargs: Any) -> Any:
        """Pool, and pass signals back to all of a region, as average pooling does; dilated ones to the maximum."""
        input, pooled, switches, (others, named) = self._pool(args, kwargs)
        average = self.average(input, *others, **named)
        opened = pooled if average is None else average + (pooled - average).detach()
        return self._result(opened, switches, args, kwargs)

    def _pool(self, args: Any, kwargs: Any) -> tuple[Tensor, Tensor, Tensor, tuple[Any, Any]]:
        input, (others, named) = _split_arguments(args[: self.arguments], kwargs)
        named = {key: value for key, value in named.items() if key != "return_indices"}
        return input, *self.pool(input, *others, **named, return_indices=True), (others, named)

    def _result(self, pooled: Tensor, switches: Tensor, args: Any, kwargs: Any) -> Any:
        wanted = self.always or kwargs.get("return_indices", args[self.arguments :] == (True,))
        return (pooled, switches) if wanted else pooled


_SLIDING = Pooling(F.max_pool2d, 6, _two_largest, _average)
_ADAPTIVE = Pooling(F.adaptive_max_pool2d, 2, _two_largest_adaptive, F.adaptive_avg_pool2d)

# The operations that choose maxima, by name.
POOLINGS = {"max_pool2d": _SLIDING, "adaptive_max_pool2d": _ADAPTIVE}
POOLINGS |= {f"{name}_with_indices": replace(pooling, always=True) for name, pooling in POOLINGS.items()}
