import logging
import sys
import threading
import unicodedata
import warnings

import pytest

from topnine.pipeline.errors import WorkError
from topnine.stages.cli import terminal
from topnine.stages.cli.terminal import escape, guard_standard_error, print_error


def test_no_control_character_and_no_turn_of_direction_is_left():
    for number in range(sys.maxunicode + 1):
        character = chr(number)
        turns = unicodedata.bidirectional(character) in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI")
        obeyed = turns or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        escaped = escape(character)
        assert (escaped != character) >= obeyed, hex(number)
        assert escaped == character or escaped.isascii()


@pytest.mark.parametrize("name", ["", "conv1: 9 of 9 blocks, 3 × not an image", "Ünïcødé 学 🐈", "שלום", "a\\b"])
def test_what_people_write_is_left_alone(name):
    assert escape(name) == name


def test_the_lines_of_an_error_are_its_own(capsys):
    print_error(WorkError("two\nfailed", "block 1: \x1b[2K", "block 2"))
    assert capsys.readouterr().err == "topnine: two\\x0afailed\n  block 1: \\x1b[2K\n  block 2\n"
    assert str(WorkError("two failed", "block 1", "block 2")) == "two failed\n  block 1\n  block 2"


def test_warnings_log_records_and_tracebacks_of_libraries_are_printed_in_the_same_way(monkeypatch, capsys):
    for module, name in ((sys, "excepthook"), (threading, "excepthook"), (warnings, "showwarning")):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(logging, "lastResort", logging._StderrHandler(logging.WARNING))
    guard_standard_error()
    raised = "\x1b[31mraised\u202e"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = terminal._show_warning  # catch_warnings has put its own there
        warnings.warn("\x1b[31mwarned", stacklevel=1)
    logging.lastResort.handle(logging.LogRecord("obstore", logging.ERROR, "", 1, "\x1b[31mlogged", None, None))
    for hook in (sys.excepthook, lambda *thrown: threading.excepthook(threading.ExceptHookArgs([*thrown, None]))):
        try:
            raise KeyError("a") from ValueError(raised)
        except KeyError as error:
            hook(type(error), error, error.__traceback__)
    printed = capsys.readouterr().err
    assert printed.count("\\x1b[31m") == 4
    assert printed.count("\\u202e") == 2
    assert "\x1b" not in printed
    assert "Traceback (most recent call last):\n" in printed
