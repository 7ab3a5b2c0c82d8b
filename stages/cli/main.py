"""The program ``topnine``: results go to standard output, everything else that it says to standard error."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from types import FrameType
from typing import Annotated, NoReturn

import typer

from topnine.pipeline.errors import TopnineError
from topnine.pipeline.machine import limit_arenas
from topnine.stages.cli import configuration, paper, run, tools
from topnine.stages.cli.terminal import (
    guard_standard_error,
    print_error,
    print_message,
    print_result,
    show_log,
    silence_leftovers,
)

app = typer.Typer(
    help="Find and draw what the filters of a convolutional network look for in your images.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
for module in (run, paper, tools, configuration):
    app.add_typer(module.app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print_result(f"topnine {version('topnine')}")
        raise typer.Exit


@app.callback()
def _add_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Take the options that stand before a command."""


def main() -> None:
    """Run the command line; an error that a user can cause is one sentence and an exit code, without a traceback."""
    limit_arenas()
    guard_standard_error()
    show_log()
    _handle_signals()
    try:
        app()
    except TopnineError as error:
        print_error(error)
        _exit(error.exit_code)
    except KeyboardInterrupt:
        _exit(130)
    except OSError as error:  # a full disk, a server of a bucket that is gone
        print_message(f"topnine: {error}. What is done is kept, the same command goes on from there.")
        _exit(1)


def _exit(code: int) -> NoReturn:
    """Exit after a failure; what is still on its way to a bucket is given up without a word."""
    silence_leftovers()
    sys.exit(code)


def _handle_signals() -> None:
    """Have SIGINT, SIGTERM and SIGHUP end the program in an orderly way."""
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell lets a background job ignore it
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup lets the program ignore it
        signal.signal(signal.SIGHUP, _interrupt)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
