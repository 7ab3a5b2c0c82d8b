"""Progress on standard error, for whoever looks: bars on a terminal, elsewhere plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .progress import Progress


@contextmanager
def show_progress() -> Iterator[Callable[[Progress], None]]:
    """Give what shows progress: bars on a terminal, elsewhere a line a stage and every ten seconds."""
    if sys.stderr.isatty():
        with _bars() as show:
            yield show
    else:
        yield _Lines().show


@contextmanager
def _bars() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task) -> Text:  # type: ignore[no-untyped-def]
            return Text(f"{task.speed:.1f} {task.fields['unit']}/s" if task.speed else "")

    columns = TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn()
    bars = Bars(*columns, console=Console(stderr=True), speed_estimate_period=60)
    tasks = {}

    def show(progress: Progress) -> None:
        if progress.stage not in tasks:
            tasks[progress.stage] = bars.add_task(
                progress.stage, total=progress.total, completed=progress.skipped, unit=progress.unit
            )
        bars.update(tasks[progress.stage], completed=progress.done)

    with bars:
        yield show


class _Lines:
    """Plain lines: when a stage begins and ends, and every ten seconds between."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._printed = 0.0

    def show(self, progress: Progress) -> None:
        now = time.monotonic()
        if progress.stage != self._stage:
            self._stage, self._began, self._printed = progress.stage, now, 0.0
        if progress.done < progress.total and now - self._printed < 10:
            return
        self._printed = now
        new, seconds = progress.done - progress.skipped, now - self._began
        rate = new / seconds if new and seconds else 0
        left = (
            f", {(progress.total - progress.done) / rate:.0f} s left" if rate and progress.done < progress.total else ""
        )
        if progress.skipped == progress.total:
            speed = ", done before"
        else:
            speed = f", {rate:.1f} {progress.unit}/s{left}" if rate else ""
        print(
            f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}{speed}",
            file=sys.stderr,
            flush=True,
        )
