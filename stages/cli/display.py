"""Progress on standard error: bars on a terminal, lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from topnine.stages.cli.terminal import escape, is_quiet, print_message
from topnine.stages.progress import Progress, describe_seconds

if TYPE_CHECKING:
    from rich.progress import Progress as ProgressBars
    from rich.progress import TaskID

Show = Callable[[Progress], None]

LINE_INTERVAL_S = 10
SPEED_WINDOW_S = 60  # the speed beside a bar is that of so many seconds


@contextmanager
def show_progress() -> Iterator[Show]:
    """Yield a function that shows progress, as bars where standard error is a terminal, else as lines.

    Where the user wants to see nothing that goes well, it shows notes alone.
    """
    if is_quiet():
        yield _show_note
        return
    if not sys.stderr.isatty():
        yield Lines().show
        return
    bars = _make_bars()
    with bars:
        yield _Bars(bars).show


def _show_note(progress: Progress) -> None:
    if progress.note:
        print_message(progress.note)


def describe_progress(progress: Progress, seconds: float) -> str:
    """Return a stage's progress, its speed and the time left as one line; ``seconds`` are those since it began.

    >>> describe_progress(Progress("mine", 1500, 2000, "images", skipped=500), 10.0)
    'mine: 1,500 of 2,000 images, 100.0 images/s, 5 s left'
    """
    line = f"{progress.stage}: {progress.done:,} of {progress.total:,} {progress.unit}"
    if progress.skipped == progress.total:
        return f"{line}, done before"
    rate = (progress.done - progress.skipped) / seconds if seconds else 0
    if not rate:
        return line
    left = progress.estimate_left(seconds)
    return f"{line}, {rate:.1f} {progress.unit}/s" + (f", {describe_seconds(left)} left" if left else "")


class Lines:
    """Prints a line when a stage begins, one every ten seconds, and one when the stage ends."""

    def __init__(self) -> None:
        self._stage = ""
        self._began = self._printed = 0.0
        self._ended = False

    def show(self, progress: Progress) -> None:
        """Print the progress if it is time for a line, and a note in any case."""
        if progress.note:
            print_message(progress.note)
        now = time.monotonic()
        begins, ends = progress.stage != self._stage, progress.done >= progress.total
        if begins:
            self._stage, self._began, self._ended = progress.stage, now, False
        if begins or (ends and not self._ended) or now - self._printed >= LINE_INTERVAL_S:
            self._printed, self._ended = now, ends
            print_message(describe_progress(progress, now - self._began))


class _Bars:
    """Draws a bar for every stage."""

    def __init__(self, bars: ProgressBars) -> None:
        self._bars = bars
        self._of_stage: dict[str, TaskID] = {}

    def show(self, progress: Progress) -> None:
        """Show a stage's progress, and a note above the bars."""
        if progress.note:
            self._bars.console.print(escape(progress.note), markup=False, highlight=False)
        stage = progress.stage
        if stage not in self._of_stage:
            self._of_stage[stage] = self._bars.add_task(
                escape(stage), total=progress.total, completed=progress.skipped, progress=progress
            )
        self._bars.update(self._of_stage[stage], completed=progress.done, progress=progress)


def _make_bars() -> ProgressBars:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, Task, TextColumn
    from rich.progress import Progress as ProgressBars
    from rich.text import Text

    class SpeedColumn(ProgressColumn):
        def render(self, task: Task) -> Text:
            """Return the speed of a stage as text."""
            return Text(f"{task.speed:.1f} {task.fields['progress'].unit}/s" if task.speed else "")

    class LeftColumn(ProgressColumn):
        max_refresh = 0.5  # seconds

        def render(self, task: Task) -> Text:
            """Return the time that a stage has left as text."""
            left = task.fields["progress"].estimate_left(task.elapsed or 0)
            return Text(str(timedelta(seconds=round(left))) if left else "")

    name = TextColumn("{task.description:>10}", markup=False)
    columns = name, BarColumn(), MofNCompleteColumn(), SpeedColumn(), LeftColumn()
    return ProgressBars(*columns, console=Console(stderr=True), speed_estimate_period=SPEED_WINDOW_S)
