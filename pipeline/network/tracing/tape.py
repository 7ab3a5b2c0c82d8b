"""The tape of a forward pass: its operations with the tensors they read, so that parts of it can be run on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from heapq import heappop, heappush
from typing import Any

import torch
from torch import Tensor

from ...errors import check_memory
from ..graph import Operation, outcome, tensors_in

REFUSALS = (RuntimeError, TypeError, ValueError, IndexError, AssertionError)  # of torch's functions
SIZES = (1, -9, 1000, -1000)  # of the numbers on some of which a result differs where an input matters
SEED = 9


@dataclass(frozen=True, eq=False)
class Step:
    """One operation as it ran.

    Attributes
    ----------
    function, args, kwargs
        What was called.
    result
        What it returned, or the tensor that it changed.
    changed : tuple of Tensor
        The tensors that it changed in place.
    unknown : tuple of Tensor
        Those it read that no operation made and no module holds.
    derived : bool
        Its derivative is taken: not inside of ``torch.no_grad`` or of an ``autograd.Function``.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    result: Any
    changed: tuple[Tensor, ...]
    unknown: tuple[Tensor, ...]
    derived: bool = True


@dataclass(frozen=True, eq=False)
class Tape:
    """The operations of one forward pass, in order, with all tensors; ``source`` is the input."""

    source: Tensor
    steps: list[Step]
    operations: tuple[Operation, ...]

    def tensor(self, value: int) -> Tensor:
        """Return the first tensor of a value."""
        return next(tensors_in(self.steps[value - 1].result)) if value else self.source

    def is_single(self, value: int) -> bool:
        """Return whether a value is one tensor of floating-point numbers, beside indices such as ``max`` returns."""
        first, *others = self.tensors(value)
        return first.is_floating_point() and not any(other.is_floating_point() for other in others)

    def pruned(self) -> Tape:
        """Return the tape without inputs on which results do not depend, as that of which only the shape is read."""
        operations = list(self.operations)
        tape = Tape(self.source, self.steps, self.operations)
        for i, operation in enumerate(self.operations):
            if len(operation.inputs) > 1 or (operation.inputs and not operation.windows and not operation.order):
                inputs = tuple(value for value in operation.inputs if tape.matters(i, value))
                operations[i] = replace(operation, inputs=inputs)
        return Tape(self.source, self.steps, tuple(operations))

    def matters(self, i: int, value: int) -> bool:
        """Return whether the result of an operation changes with one of its inputs."""
        read = {id(tensor) for tensor in tensors_in((self.steps[i].args, self.steps[i].kwargs))}
        tensors = [t for t in self.tensors(value) if t.is_floating_point() and id(t) in read]
        if not tensors:  # it reads another view of what an operation changed in place
            return True
        generator = torch.Generator().manual_seed(SEED)

        def numbers(tensors: Iterable[Tensor], size: float) -> dict[int, Tensor]:
            """Return other numbers for some tensors, all of one sign."""
            return {id(t): size * torch.rand(t.shape, generator=generator).to(t.dtype) for t in tensors}

        values = [v for v in self.operations[i].inputs if v != value]
        others = [t for v in values for t in self.tensors(v) if t.is_floating_point() and id(t) in read]
        try:
            # A gate does not change a map that happens to be all zero, as behind weights that begin at zero.
            for constant in ({}, numbers(others, 1)) if others else ({},):
                results = (self._run(i, constant | numbers(tensors, size)) for size in SIZES)
                first = next(results)
                if not all(_equal(first, other) for other in results):
                    return True
            return False
        except REFUSALS as error:  # it takes no other numbers
            check_memory(error)
            return True

    @cached_property
    def readers(self) -> list[list[int]]:
        """For every value, the operations that read it."""
        readers: list[list[int]] = [[] for _ in range(len(self.steps) + 1)]
        for i, operation in enumerate(self.operations):
            for value in operation.inputs:
                readers[value].append(i)
        return readers

    @cached_property
    def dominators(self) -> list[int | None]:
        """For every value, the last value through which all ways from the pixels to it lead.

        None for the pixels themselves and for what does not depend on them.
        """
        dominators: list[int | None] = [None]
        depth = [0]
        for operation in self.operations:
            inputs = [value for value in operation.inputs if self.depends(value, dominators)]
            at = inputs[0] if inputs else None
            for value in inputs[1:]:
                at = _common(at, value, dominators, depth)
            dominators.append(at)
            depth.append(0 if at is None else depth[at] + 1)
        return dominators

    @staticmethod
    def depends(value: int, dominators: list[int | None]) -> bool:
        """Return whether a value depends on the pixels."""
        return value == 0 or dominators[value] is not None

    def between(self, start: int, end: int, most: int) -> list[int] | None:
        """List the operations that compute a value from one that dominates it; None where there are more than most."""
        found, waiting = {end - 1}, [end - 1]
        while waiting:
            for value in self.operations[waiting.pop()].inputs:
                if value != start and value and value - 1 not in found:
                    found.add(value - 1)
                    waiting.append(value - 1)
            if len(found) > most:
                return None
        return sorted(found)

    def exit_of(self, value: int, most: int, barred: Callable[[Operation], bool]) -> int | None:
        """Return the first value through which everything that reads a value goes on; None where there is none.

        None, too, where another path joins before it, or an operation that is barred is met.
        """
        members, processed, waiting = {value}, set[int](), list[int]()
        for i in self.readers[value]:
            heappush(waiting, i)
        pending = set(waiting)
        while waiting and len(processed) < most:
            i = heappop(waiting)
            inputs = {v for v in self.operations[i].inputs if self.depends(v, self.dominators)}
            if barred(self.operations[i]) or not inputs <= members:
                return None
            processed.add(i)
            result = i + 1
            if pending <= processed:
                return result
            members.add(result)
            for reader in self.readers[result]:
                if reader not in pending:
                    pending.add(reader)
                    heappush(waiting, reader)
        return None

    @cached_property
    def dependent(self) -> set[int]:
        """The ids of the tensors that depend on the pixels."""
        values = [value for value in range(len(self.steps) + 1) if self.depends(value, self.dominators)]
        return {id(tensor) for value in values for tensor in self.tensors(value)}

    def variable(self, start: int, operations: Iterable[int]) -> Tensor | None:
        """Return the tensor that operations compute a function of, from a value that dominates them.

        It is a part of the value, where that has several, as what ``chunk`` returns; None where they read several.
        """
        read: dict[int, Tensor] = {}
        made: set[int] = set()
        for i in operations:
            step = self.steps[i]
            for tensor in tensors_in((step.args, step.kwargs)):
                if tensor.is_floating_point() and id(tensor) in self.dependent - made:
                    read[id(tensor)] = tensor
            made |= {id(tensor) for tensor in tensors_in(step.result)}
        if self.is_single(start) and id(self.tensor(start)) in read:
            return self.tensor(start)
        return next(iter(read.values())) if len(read) == 1 else None

    def replay(self, start: Tensor, value: Tensor, operations: Iterable[int], end: int) -> Tensor:
        """Run operations again with another tensor for one that they read; return what a later value becomes."""
        tensors: dict[int, Tensor] = {id(start): value.clone()}
        with torch.no_grad():
            for i in operations:
                step = self.steps[i]
                args, kwargs = self._arguments(step, tensors)
                result = outcome(step.function, args, step.function(*args, **kwargs))
                tensors |= {id(old): new for old, new in _pairs(step.result, result)}
        return tensors[id(self.tensor(end))]

    def rerun(self, i: int, change: Callable[[Tensor], Tensor]) -> list[Tensor]:
        """Run one operation again, with changed tensors of those that depend on the pixels; return its results."""
        read = [value for value in self.operations[i].inputs if self.depends(value, self.dominators)]
        tensors = {id(t): change(t).clone() for value in read for t in self.tensors(value) if t.is_floating_point()}
        return self._run(i, tensors)

    def _run(self, i: int, tensors: dict[int, Tensor]) -> list[Tensor]:
        step = self.steps[i]
        with torch.no_grad():
            args, kwargs = self._arguments(step, tensors)
            return list(tensors_in(outcome(step.function, args, step.function(*args, **kwargs))))

    @staticmethod
    def _arguments(step: Step, tensors: dict[int, Tensor]) -> tuple[Any, Any]:
        """Return the arguments of a step with some tensors replaced; what it changes otherwise is copied first."""
        for tensor in step.changed:
            tensors.setdefault(id(tensor), tensor.detach().clone())
        arguments: tuple[Any, Any] = _replaced((step.args, step.kwargs), tensors)
        return arguments

    def tensors(self, value: int) -> Iterator[Tensor]:
        """Yield the tensors of a value."""
        return tensors_in(self.steps[value - 1].result) if value else iter((self.source,))


def _equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return len(some) == len(others) and all(map(torch.equal, some, others))


def _common(a: int | None, b: int, dominators: list[int | None], depth: list[int]) -> int:
    """Return the last value that dominates two."""
    one, other = a or 0, b
    while one != other:
        if depth[one] >= depth[other]:
            one = dominators[one] or 0
        else:
            other = dominators[other] or 0
    return one


def _replaced(value: Any, tensors: dict[int, Tensor]) -> Any:
    """Return nested arguments with some tensors replaced; named tuples and slices stay as they are."""
    if isinstance(value, Tensor):
        return tensors.get(id(value), value.detach())
    if isinstance(value, tuple | list) and type(value) in (tuple, list):
        return type(value)(_replaced(item, tensors) for item in value)
    if isinstance(value, dict):
        return {key: _replaced(item, tensors) for key, item in value.items()}
    return value


def _pairs(old: Any, new: Any) -> list[tuple[Tensor, Tensor]]:
    return list(zip(tensors_in(old), tensors_in(new), strict=False))
