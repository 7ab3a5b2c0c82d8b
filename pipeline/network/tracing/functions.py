"""What the operations of a network do, found by running them on numbers of both signs: names do not matter.

A rectifier is whatever gives max(0, x), or that with a ceiling: ``relu``, ``x.clip(min=0)``, ``x * (x > 0)``,
``x[x < 0] = 0``, ``(x + x.abs()) / 2``. Every value is compared with the last value through which all ways from the
pixels to it lead (its dominator), so that a function may take several operations.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ...errors import check_memory
from ..graph import Bend, Following, Operation, Rectifier, is_foreign
from .tape import REFUSALS, Tape
from .trials import is_near, noise_like, try_function

LONGEST = 24  # operations of one function
FARTHEST = 6  # dominators up which a rectifier's input is looked for
TINY = 1e-30
SEED = 9
PLAIN = ("affine", "scales", "copies")  # kinds of functions that neither rectify nor bend

# Operations with weights of their own. A function of one map ends at them, and so does what only scales another map.
WEIGHTED = frozenset(
    """
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear bilinear addmm baddbmm
    multi_head_attention_forward
    """.split()  # noqa: SIM905
)
LINEAR = WEIGHTED - {"multi_head_attention_forward"}
PRODUCTS = frozenset(
    """
    mul rmul multiply div rdiv truediv rtruediv divide true_divide matmul rmatmul bmm mm einsum baddbmm
    scaled_dot_product_attention
    """.split()  # noqa: SIM905
)
MATRIX_PRODUCTS = frozenset("matmul rmatmul bmm mm einsum baddbmm scaled_dot_product_attention".split())  # noqa: SIM905
POOLING = frozenset(
    """
    max_pool2d max_pool2d_with_indices adaptive_max_pool2d adaptive_max_pool2d_with_indices max_pool1d max_pool3d
    """.split()  # noqa: SIM905
)


def study(tape: Tape) -> dict[str, Any]:
    """Return what the operations on a tape do: the fields of ``Graph`` from ``rectifiers`` to ``passing``."""
    with warnings.catch_warnings():  # torch warns of numbers that operations are only tried on
        warnings.simplefilter("ignore")
        return _study(tape)


def _study(tape: Tape) -> dict[str, Any]:
    effects = _Effects(tape)
    for value in range(1, len(tape.steps) + 1):
        if tape.dominators[value] is not None:
            effects.study(value)
    bends = effects.unresolved()
    scaling = {value for value in bends if effects.only_scales(value)}
    return {
        "keeps": {value: tuple(keeps) for value, keeps in effects.keeping()},
        "rectifiers": tuple(effects.rectifiers[value] for value in sorted(effects.rectifiers)),
        "bends": tuple(Bend(effects.name(value), value) for value in bends if value not in scaling),
        "bent": frozenset(effects.bent),
        "following": dict(effects.following()),
        "passing": dict(effects.passing(scaling)),
        "unknown": tuple(effects.unknown()),
    }


@dataclass
class _Effects:
    tape: Tape
    rectifiers: dict[int, Rectifier] = field(default_factory=dict)  # by their result
    bends: set[int] = field(default_factory=set)  # results of functions that bend
    bent: dict[int, int] = field(default_factory=dict)  # those and affine functions of them, with what they bend
    kinds: dict[tuple[int, int], tuple[str, float | None]] = field(default_factory=dict)
    affine: dict[int, bool | None] = field(default_factory=dict)  # operations that were tried

    def study(self, value: int) -> None:
        """Find out what a value is as a function of the one that dominates it, or of one farther up."""
        start = self.tape.dominators[value]
        assert start is not None
        start = self._of_its_shape(start, value)
        kind, ceiling = self.kind(start, value)
        if kind == "rectifies":
            self._rectifies(start, value, ceiling)
        elif kind == "bends" or (kind in PLAIN and start in self.bent):
            for farther in self._farther(start):
                of_farther, ceiling = self.kind(farther, value)
                if of_farther == "rectifies":
                    self._rectifies(farther, value, ceiling)
                    return
            if kind == "bends":
                self.bends.add(value)
            self.bent[value] = start if kind == "bends" else self.bent[start]

    def _of_its_shape(self, start: int, value: int) -> int:
        """Return the nearest value of the same shape that dominates one; the nearest of all where there is none."""
        shape, at = self.tape.tensor(value).shape, start
        for _ in range(FARTHEST):
            if any(tensor.shape == shape for tensor in self.tape.tensors(at)):
                return at
            above = self.tape.dominators[at]
            if above is None:
                break
            at = above
        return start

    def _farther(self, start: int) -> Iterator[int]:
        """Yield the values that dominate one, nearest first, while what lies between is a function of one map."""
        for _ in range(FARTHEST):
            above = self.tape.dominators[start]
            if above is None or self.kind(above, start)[0] not in (*PLAIN, "bends", "rectifies"):
                return
            yield above
            start = above

    def _rectifies(self, start: int, value: int, ceiling: float | None) -> None:
        tape, i = self.tape, value - 1
        step, input = tape.steps[i], tape.variable(start, tape.between(start, value, LONGEST) or [i])
        in_place = any(tensor is tape.tensor(value) for tensor in step.changed)
        changed = any(tensor is input for between in tape.steps[start:value] for tensor in between.changed)
        inputs = [v for v in tape.operations[i].inputs if self._depends(v)]
        direct = inputs == [start] and isinstance(step.result, Tensor) and (not in_place or step.result is input)
        if not step.derived:  # nothing comes back through it
            return
        if not direct and input is not tape.tensor(start):  # a part of what chunk returned, which cannot be bypassed
            self.bends.add(value)
            self.bent[value] = start
            return
        name = tape.operations[i].name
        self.rectifiers[value] = Rectifier(i, name, start, ceiling, direct, in_place, changed)

    def kind(self, start: int, value: int) -> tuple[str, float | None]:
        """Return what a value is of one that dominates it, and the ceiling of a rectifier; "" = none of the kinds."""
        if (start, value) not in self.kinds:
            self.kinds[start, value] = self._kind(start, value)
        return self.kinds[start, value]

    def _kind(self, start: int, value: int) -> tuple[str, float | None]:
        tape = self.tape
        operations = tape.between(start, value, LONGEST)
        if operations is None or any(tape.operations[i].name in WEIGHTED for i in operations):
            return "", None
        variable = tape.variable(start, operations)
        if variable is None or not tape.is_single(value):
            return "", None
        try:
            return try_function(lambda tensor: tape.replay(variable, tensor, operations, value), variable)
        except REFUSALS as error:  # it takes no other numbers
            check_memory(error)
            return "", None

    def unresolved(self) -> list[int]:
        """List the results of functions that bend, without those that only go into a rectifier or a longer function."""
        regions = [(rectifier.input, value) for value, rectifier in self.rectifiers.items()]
        regions += [(start, value) for value, start in self.bent.items()]
        inside = {region: set(self.tape.between(*region, LONGEST) or ()) for region in regions}
        return [
            value
            for value in sorted(self.bent)
            if value in self.bends
            and not any(
                value != end and value - 1 in operations and set(self.tape.readers[value]) <= operations
                for (_, end), operations in inside.items()
                if not self._is_continued(value, end)
            )
        ]

    def _is_continued(self, value: int, end: int) -> bool:
        """Return whether a later result is an affine function of one that bends: then the first counts."""
        return end in self.bent and end not in self.bends

    def only_scales(self, value: int) -> bool:
        """Return whether a result is never negative, and only multiplies or divides other maps.

        It is a gate, or part of a normalisation. No weights are between.
        """
        if bool((self.tape.tensor(value).detach() < 0).any()):
            return False
        seen, waiting = {value}, [value]
        while waiting:
            readers = self.tape.readers[waiting.pop()]
            if not readers:
                return False
            for i in readers:
                operation = self.tape.operations[i]
                others = [v for v in operation.inputs if v not in seen and self._depends(v)]
                if operation.name in PRODUCTS and (others or len(set(operation.inputs) & seen) > 1):
                    continue
                if operation.name in WEIGHTED or others or operation.name in MATRIX_PRODUCTS:
                    return False
                if i + 1 not in seen:
                    seen.add(i + 1)
                    waiting.append(i + 1)
        return True

    def _depends(self, value: int) -> bool:
        return self.tape.depends(value, self.tape.dominators)

    def name(self, value: int) -> str:
        """Return the name of a function that bends: those of its operations."""
        operations = self.tape.between(self.bent[value], value, LONGEST) or [value - 1]
        return " and ".join(dict.fromkeys(self.tape.operations[i].name for i in operations))

    def following(self) -> Iterator[tuple[int, Following]]:
        """Yield, for the values that are read by one function alone, its result and what it does."""
        by_input = {rectifier.input: value for value, rectifier in sorted(self.rectifiers.items(), reverse=True)}
        for value in range(len(self.tape.steps) + 1):
            if not self._depends(value) or not self.tape.readers[value]:
                continue
            exit, kind = self._exit(value), ""
            for _ in range(FARTHEST):  # a function may begin with a part that is none, as a norm by hand does
                if exit is None or (kind := self.kind(value, exit)[0]):
                    break
                exit = self._exit(exit)
            if exit is None:
                continue
            rectified, end = by_input.get(value, 0), exit
            while 0 < end < rectified:
                end = self._exit(end) or 0
            if end == rectified:  # what follows first is a part of a rectifier
                yield value, Following(rectified, "rectifies")
            elif kind:
                yield value, Following(exit, kind)

    def _exit(self, value: int) -> int | None:
        return self.tape.exit_of(value, LONGEST, _is_weighted)

    def passing(self, scaling: set[int]) -> Iterator[tuple[int, str]]:
        """Yield the values and names of operations that are neither affine nor rectifiers nor max-pooling."""
        for value in range(1, len(self.tape.steps) + 1):
            i = value - 1
            if value in scaling or (self._is_other(value) and not self.is_affine(i) and not self._is_unknown(i)):
                yield value, self.tape.operations[i].name

    def unknown(self) -> Iterator[tuple[int, str]]:
        """Yield the operations of which it is not known what they do: those of extensions, unless they are affine.

        An extension's operation may be a rectifier together with something else. And those that take no other numbers.
        """
        for value in range(1, len(self.tape.steps) + 1):
            if self._is_other(value) and self._is_unknown(value - 1):
                yield value - 1, self.tape.operations[value - 1].name

    def _is_unknown(self, i: int) -> bool:
        is_affine = self.is_affine(i)
        return is_affine is None or (not is_affine and is_foreign(self.tape.steps[i].function))

    def _is_other(self, value: int) -> bool:
        """Return whether a value depends on the pixels in a way that is none of those that are known."""
        start, operation = self.tape.dominators[value], self.tape.operations[value - 1]
        is_number = any(tensor.is_floating_point() for tensor in self.tape.tensors(value))
        if start is None or not is_number or value in self._inside_rectifiers or operation.name in POOLING:
            return False
        if value in self.bent or self.kinds.get((start, value), ("",))[0] in PLAIN:
            return False
        return operation.name not in LINEAR or len(operation.inputs) > 1

    def keeping(self) -> Iterator[tuple[int, list[int]]]:
        """Yield, for every value, the dimensions along which each of its positions depends on that of the inputs alone.

        Dimensions count from the end. Only the last three are looked at.
        """
        for value in range(1, len(self.tape.steps) + 1):
            operation = self.tape.operations[value - 1]
            if self.tape.dominators[value] is not None and not (operation.windows or operation.order):
                yield value, [dimension for dimension in (-3, -2, -1) if self._keeps(value, dimension)]

    def _keeps(self, value: int, dimension: int) -> bool:
        i, result = value - 1, self.tape.tensor(value)
        tensors = [t for v in self.tape.operations[i].inputs if self._depends(v) for t in self.tape.tensors(v)]
        sizes = {t.shape[dimension] for t in tensors if t.dim() >= -dimension}
        numbers = all(t.is_floating_point() or t.dtype == torch.bool for t in tensors)
        size = result.shape[dimension] if result.dim() >= -dimension else 0
        if size not in sizes or sizes - {1, size} or not numbers:
            return False
        order = torch.randperm(size, generator=torch.Generator().manual_seed(SEED))
        kept = order >= len(order) // 2

        def half_changed(tensor: Tensor) -> Tensor:
            """Change a tensor at every second position."""
            if tensor.dim() < -dimension:
                return noise_like(tensor, 1)
            if tensor.shape[dimension] != size:  # it is repeated, and the same at every position
                return noise_like(tensor, 0)
            shape = [-1 if d == tensor.dim() + dimension else 1 for d in range(tensor.dim())]
            return torch.where(kept.reshape(shape), noise_like(tensor, 0), noise_like(tensor, 1))

        index = kept.nonzero().flatten()
        try:
            before, after = self.tape.rerun(i, lambda t: noise_like(t, 0))[0], self.tape.rerun(i, half_changed)[0]
        except REFUSALS as error:  # it takes no other numbers
            check_memory(error)
            return False
        before, after = (r.index_select(dimension, index) for r in (before, after))
        return bool(torch.isclose(before.float(), after.float(), rtol=1e-4, atol=1e-5, equal_nan=True).all())

    @cached_property
    def _inside_rectifiers(self) -> set[int]:
        return {
            i + 1
            for value, rectifier in self.rectifiers.items()
            for i in self.tape.between(rectifier.input, value, LONGEST) or ()
        }

    def is_affine(self, i: int) -> bool | None:
        """Return whether an operation is affine in all that depends on the pixels; None where it cannot be tried."""
        if i not in self.affine:
            self.affine[i] = self._is_affine(i)
        return self.affine[i]

    def _is_affine(self, i: int) -> bool | None:
        try:
            one, other, middle = (self.tape.rerun(i, change) for change in _thirds())
        except REFUSALS as error:  # it takes no other numbers
            check_memory(error)
            return None
        return all(_is_middle(*results) for results in zip(one, other, middle, strict=True))


def _is_middle(one: Tensor, other: Tensor, middle: Tensor) -> bool:
    """Return whether a result is the middle between two others, up to rounding; indices are no results."""
    if not middle.is_floating_point():
        return True
    size = one.abs() + other.abs() + middle.abs()
    return is_near(middle, (one + other) / 2, size + size.mean() + TINY)


def _is_weighted(operation: Operation) -> bool:
    return operation.name in WEIGHTED


def _thirds() -> tuple[Any, ...]:
    """Return three functions that replace tensors: by numbers, by others, and by the middle between these."""
    return (
        lambda tensor: noise_like(tensor, tensor.dim()),
        lambda tensor: noise_like(tensor, tensor.dim() + 9),
        lambda tensor: (noise_like(tensor, tensor.dim()) + noise_like(tensor, tensor.dim() + 9)) / 2,
    )
