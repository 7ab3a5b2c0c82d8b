"""A wall clock that can be stepped."""

import time
from collections.abc import Callable
from pathlib import Path


def step_by(file: str) -> None:
    """Make this process's clock be ahead by the seconds that stand in a file; before anything else is imported."""
    time.time, time.time_ns = _ahead(time.time, file, 1), _ahead(time.time_ns, file, 10**9)


def _ahead(clock: Callable[[], float], file: str, units: int) -> Callable[[], float]:
    return lambda: clock() + type(clock())(float(Path(file).read_text()) * units)
