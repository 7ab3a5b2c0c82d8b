"""Timing in turn: what is compared runs one after the other, over and over, and medians are compared."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

IMAGENET_IMAGES = 1_281_167  # in its training set


@dataclass(frozen=True)
class Row:
    """A line of the table: a ratio, what it should be, and whether it is. Without a target it is only reported."""

    name: str
    ratio: float
    target: float | None
    met: bool
    detail: str

    def table(self) -> dict:
        """Return the row as runs/bench.json has it."""
        return asdict(self)


def at_least(name: str, ratio: float, target: float, detail: str) -> Row:
    """Return a row whose ratio has to reach a target."""
    return Row(name, ratio, target, ratio >= target, detail)


def at_most(name: str, ratio: float, target: float, detail: str) -> Row:
    """Return a row whose ratio has to stay below a target."""
    return Row(name, ratio, target, ratio <= target, detail)


def reported(name: str, ratio: float, detail: str) -> Row:
    """Return a row without a target."""
    return Row(name, ratio, None, True, detail)


def seconds(function: Callable[[], object]) -> float:
    """Return how long a call takes, in s."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def in_turn(ways: Mapping[str, Callable[[], object]], rounds: int, warm: bool = True) -> dict[str, float]:
    """Run every way in turn, as many rounds, after one that does not count; return the median time of each, in s."""
    times: dict[str, list[float]] = {way: [] for way in ways}
    for turn in range(rounds + warm):
        for way, function in ways.items():
            took = seconds(function)
            if turn >= warm:
                times[way].append(took)
    return {way: statistics.median(durations) for way, durations in times.items()}
