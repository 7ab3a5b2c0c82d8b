import io
import sys

import pytest

from topnine.stages.cli import display
from topnine.stages.cli.display import Lines, describe_progress, show_progress
from topnine.stages.progress import Progress


@pytest.mark.parametrize(
    ("progress", "seconds", "line"),
    [
        (Progress("mine", 0, 536, "images"), 0.0, "mine: 0 of 536 images"),
        (Progress("mine", 0, 536, "images"), 3.0, "mine: 0 of 536 images"),
        (Progress("mine", 536, 536, "images", skipped=536), 1.0, "mine: 536 of 536 images, done before"),
        (Progress("index", 0, 0, "shards"), 1.0, "index: 0 of 0 shards, done before"),
        (Progress("mine", 1200, 2200, "images", skipped=200), 10.0,
         "mine: 1,200 of 2,200 images, 100.0 images/s, 10 s left"),
        (Progress("deconvolve", 64, 576, "filters", cost=1, total_cost=91), 2.0,
         "deconvolve: 64 of 576 filters, 32.0 filters/s, 3 min 0 s left"),
        (Progress("mine", 2200, 2200, "images", skipped=200), 16.0, "mine: 2,200 of 2,200 images, 125.0 images/s"),
    ],
)  # fmt: skip
def test_a_line_has_what_is_done_now_as_its_speed(progress, seconds, line):
    assert describe_progress(progress, seconds) == line


def test_lines_come_when_a_stage_begins_every_ten_seconds_and_when_it_ends(monkeypatch, capsys):
    clock = iter([1.0, 5.0, 11.0, 12.0, 13.0, 13.2, 13.5])
    monkeypatch.setattr(display.time, "monotonic", lambda: next(clock))
    lines = Lines()
    for done in (0, 4, 10, 11, 12, 12):
        lines.show(Progress("mine", done, 12, "images"))
    lines.show(Progress("rank", 0, 5, "layers"))
    assert capsys.readouterr().err.splitlines() == [
        "mine: 0 of 12 images",
        "mine: 10 of 12 images, 1.0 images/s, 2 s left",
        "mine: 12 of 12 images, 1.0 images/s",
        "rank: 0 of 5 layers",
    ]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_has_a_bar_for_every_stage(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "100")
    with show_progress() as show:
        for done in (100, 150, 200):
            show(Progress("mine", done, 200, "images", skipped=100))
        show(Progress("rank", 0, 3, "layers"))
    assert "mine" in terminal.getvalue()
    assert "200/200" in terminal.getvalue()
    assert "0/3" in terminal.getvalue()
