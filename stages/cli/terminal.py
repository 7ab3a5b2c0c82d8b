"""All that the commands print goes through here, a line at a time, without anything that a terminal would obey.

Keys, labels, names of shards, layers and hosts, and messages of libraries come from elsewhere. A control character in
one of them could move the cursor, hide a line or answer a question; a line break could feign a line of topnine's own.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
import traceback
import warnings
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

from topnine.pipeline.errors import TopnineError

# The controls of ASCII and of Latin-1, marks of writing direction, line and paragraph separators, halves of characters.
OBEYED = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

LOGGER = logging.getLogger("topnine")


def escape(text: str) -> str:
    r"""Return a text with the characters written out that a terminal would obey.

    >>> print(escape("red\x1b[31m, two\nlines, turned\u202e"))
    red\x1b[31m, two\x0alines, turned\u202e
    """
    return OBEYED.sub(lambda match: _write_out(match.group()), text)


def print_result(line: object) -> None:
    """Print a line of a command's result to standard output."""
    print(escape(str(line)), flush=True)


def print_message(line: object) -> None:
    """Print a line to standard error."""
    print(escape(str(line)), file=sys.stderr, flush=True)


def print_messages(lines: Iterable[object]) -> None:
    """Print lines to standard error."""
    for line in lines:
        print_message(line)


def print_steps(lines: Iterable[object]) -> None:
    """Print lines about a run that goes well to standard error, unless the user wants none."""
    if not is_quiet():
        print_messages(lines)


def print_error(error: TopnineError) -> None:
    """Print an error's sentence, and what belongs to it below."""
    sentence, *details = error.lines
    print_message(f"topnine: {sentence}")
    for detail in details:
        print_message(f"  {detail}")


def guard_standard_error() -> None:
    """Have this process print warnings, log records and tracebacks of libraries line by line in the same way."""
    warnings.showwarning = _show_warning
    sys.excepthook = _show_traceback
    threading.excepthook = lambda thrown: _show_traceback(thrown.exc_type, thrown.exc_value, thrown.exc_traceback)
    if logging.lastResort is not None:  # prints the records for which nobody has a handler
        logging.lastResort.setFormatter(_EscapingFormatter())


def show_log() -> None:
    """Have this process print what topnine logs: the steps that come before there is progress to be shown."""
    LOGGER.handlers = [_Printer()]
    LOGGER.propagate = False
    set_verbosity()


def set_verbosity(quiet: bool = False, verbose: bool = False) -> None:
    """Have this process say nothing but what goes wrong, or more than usual."""
    LOGGER.setLevel(logging.WARNING if quiet else logging.DEBUG if verbose else logging.INFO)


def is_quiet() -> bool:
    """Return whether this process is to say nothing but what goes wrong."""
    return LOGGER.level == logging.WARNING


def silence_leftovers() -> None:
    """Have nothing printed of requests that are destroyed unfinished when this process ends, with their tracebacks."""
    sys.unraisablehook = lambda _: None
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)


class _EscapingFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return "\n".join(map(escape, super().format(record).split("\n")))


class _Printer(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message."""
        print_message(record.getMessage())


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print_message(f"{filename}:{lineno}: {category.__name__}: {message}")


def _show_traceback(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, /) -> None:
    for line in "".join(traceback.format_exception(kind, error, trace)).rstrip("\n").split("\n"):
        print_message(line)


def _write_out(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"
