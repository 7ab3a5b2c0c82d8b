"""What a function of one tensor does, found by trying it on numbers of both signs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

NEAR = 1e-5  # of the numbers compared: what rounding may differ
FEWEST = 64  # numbers that a function is tried on
SEED = 9


def try_function(function: Any, like: Tensor) -> tuple[str, float | None]:
    """Find out what a function of a tensor such as another one does.

    Returns
    -------
    kind : str
        "rectifies", "bends", "affine", "scales" (affine by the same two numbers everywhere), "copies" (the same numbers
        in another order or shape), "normalises"; "" where it is none of these.
    ceiling : float or None
        Of a rectifier.
    """
    a, b, kept = _numbers(like.shape, like.dtype)
    many = _Repeated(function)
    of_a = many(a)
    if of_a.shape == a.shape and _same(many(torch.where(kept, a, b))[kept], of_a[kept]):
        return _try_elementwise(many, a, b, of_a)
    if _is_copy(a, of_a):
        return "copies", None
    return ("normalises" if _normalises(function, like) else ""), None


class _Repeated:
    """Calls a function of a tensor on each of a row of tensors."""

    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, tensors: Tensor) -> Tensor:
        return torch.stack([self._function(tensor) for tensor in tensors])


def _normalises(function: Any, like: Tensor) -> bool:
    """Return whether the scale of the input does not matter, or only divides it, whatever its sign."""
    noise = noise_like(like, 0)
    low, high = function(4 * noise), function(16 * noise)
    if not bool(low.max() > low.min()) or not bool(torch.isfinite(high).all()):
        return False
    near = 1e-3 * float(low.abs().max())
    if torch.allclose(low, high, rtol=1e-3, atol=near):
        return True
    divided = low.shape == noise.shape and bool((low * noise >= 0).all()) and bool((low.abs() <= 4 * noise.abs()).all())
    return divided and torch.allclose(function(-4 * noise), -low, rtol=1e-3, atol=near)


def _try_elementwise(function: Any, a: Tensor, b: Tensor, of_a: Tensor) -> tuple[str, float | None]:
    of_b = function(b)
    if _same(of_a, of_b):
        return "", None  # it does not depend on its input
    ceiling = float(of_a.max()) if bool(of_a.max() < a.max() / 2) else None
    if (ceiling is None or ceiling > 0) and torch.allclose(of_a, a.clamp(0, ceiling), rtol=NEAR, atol=0):
        return "rectifies", ceiling
    offset = function(torch.zeros_like(a))
    if not bool(torch.isfinite(offset).all()):
        return "bends", None
    # Where the offset of an affine function cancels the rest, rounding is as large as the offset makes it.
    for of_other, middle in ((of_b, function((a + b) / 2)), (offset, function(a / 2))):
        if not is_near(middle, (of_a + of_other) / 2, of_a.abs() + of_other.abs() + middle.abs() + offset.abs()):
            return "bends", None
    return ("scales" if _is_uniform((of_a - offset) / a) and _is_uniform(offset) else "affine"), None


def _is_uniform(tensor: Tensor) -> bool:
    return torch.allclose(tensor, tensor.flatten()[:1], rtol=1e-3, atol=1e-6)


@lru_cache(maxsize=16)
def _numbers(shape: torch.Size, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return two tensors of numbers of both signs and all magnitudes from 1e-3 to 1e3, and which half to keep.

    They have one more dimension in front, so that there are enough numbers of a small shape, too.
    """
    shape = torch.Size((max(1, FEWEST // max(1, shape.numel())), *shape))
    generator = torch.Generator().manual_seed(SEED)
    exponents = [torch.rand(shape, generator=generator) * 6 - 3 for _ in range(2)]
    signs = [torch.randint(0, 2, shape, generator=generator) * 2 - 1 for _ in range(2)]
    first, second = (sign * 10**exponent for sign, exponent in zip(signs, exponents, strict=True))
    return first.to(dtype), second.to(dtype), torch.rand(shape, generator=generator) < 0.5


def noise_like(like: Tensor, which: int) -> Tensor:
    """Return normal noise of a tensor's shape and type; ``which`` of several."""
    return _normal(like.shape, like.dtype, which)


@lru_cache(maxsize=8)
def _normal(shape: torch.Size, dtype: torch.dtype, which: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(SEED + which)).to(dtype)


def _same(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a, b, rtol=1e-6, atol=0, equal_nan=True)


def is_near(a: Tensor, b: Tensor, size: Tensor) -> bool:
    """Return whether two tensors are equal up to the rounding of numbers of a size."""
    return a.shape == b.shape and bool(((a - b).abs() <= NEAR * size).all())


def _is_copy(a: Tensor, of_a: Tensor) -> bool:
    """Return whether a result holds the same numbers in another order or shape."""
    if a.numel() != of_a.numel() or a.max() != of_a.max() or a.min() != of_a.min():
        return False
    sums = a.double().sum(), of_a.double().sum()
    return bool((sums[0] - sums[1]).abs() <= 1e-9 * a.double().abs().sum())
