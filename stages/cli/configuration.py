"""The commands about configurations: what is in force and why, and a file with every key explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from topnine.pipeline.errors import InputError
from topnine.stages.cli.options import RunOptions, command
from topnine.stages.cli.terminal import print_result

app = typer.Typer()


@command(app, "config")
def config(options: RunOptions) -> None:
    """Print the configuration that a run with these options has, and where each value comes from."""
    from topnine.pipeline.config.writing import list_values
    from topnine.pipeline.network.registry import complete_decoding

    settings = options.read()
    completed = complete_decoding(settings)
    own = {
        f"decode.{key}": "the network's own"
        for key, value in settings.decode
        if getattr(completed.decode, key) != value
    }
    for line in list_values(completed, {**options.find_origins(), **own}):
        print_result(line)


@command(app, "init")
def init(
    file: Annotated[Path, typer.Argument(help="The TOML file to write; there is none of this name yet.")],
    options: RunOptions,
) -> None:
    """Write a configuration with every key explained; what these options set is set in it."""
    from topnine.pipeline.config.writing import list_explained

    lines = list_explained(options.read(), options.find_origins())
    try:
        with file.open("x", encoding="utf-8") as new:
            new.write("\n".join(lines) + "\n")
    except FileExistsError:
        raise InputError(f"{file} is there already: give another name, or delete it.") from None
    except OSError as error:
        raise InputError(f"{file} cannot be written: {error.strerror}.") from None
    print_result(file)
