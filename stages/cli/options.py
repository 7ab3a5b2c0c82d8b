"""Options that several commands share, and how a function becomes a command that has them."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from topnine.pipeline.errors import InputError
from topnine.stages.cli.terminal import set_verbosity

if TYPE_CHECKING:
    from topnine.pipeline.config.sections import RunConfig
    from topnine.pipeline.store.store import Store
    from topnine.stages.tile import SheetChoice

Command = Callable[..., None]


class SheetFormat(StrEnum):
    """The file formats of sheets."""

    png = "png"
    pdf = "pdf"
    webp = "webp"


# Options that set one key of the configuration each.
NAMED = {
    "layer": "mine.layers",
    "data": "data.path",
    "weights": "network.weights",
    "store": "store",
    "device": "cluster.device",
}

Filters = Annotated[
    str | None,
    typer.Option(
        "--filter",
        "-f",
        help="Numbers of the filters to draw, such as 3,17,40. Default: a random choice, always the same.",
    ),
]
ImageKeys = Annotated[
    str | None,
    typer.Option(help="Keys of the images to draw, such as key1,key2. Default: a random choice, always the same."),
]


@dataclass(frozen=True)
class RunOptions:
    """The options of every command that takes a configuration."""

    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            "-c",
            help="The configuration, a TOML file. Default: configs/demo.toml; with --network, none; with the --store "
            "of a run, the one that made it.",
        ),
    ] = None
    network: Annotated[
        str | None,
        typer.Option(
            "--network", "-n", help="The network: one that `topnine networks` lists, or package.module:function."
        ),
    ] = None
    layer: Annotated[
        str | None,
        typer.Option(
            "--layer",
            "-l",
            help='Layers: a number, a name, a list ("1 3 conv5"), "all" numbered layers, or "every" convolution.',
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            help="The images: a folder, a shard, a pattern, a .txt list of shards, or 'photos' for the demo's."
        ),
    ] = None
    weights: Annotated[
        str | None, typer.Option(help="The network's weights: bundled, torchvision, random, or a checkpoint.")
    ] = None
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            "-s",
            help="Path or URL of the Zarr store. Default: runs/<configuration>.zarr; where options name the network "
            "or the data, runs/<network>-<data>.zarr.",
        ),
    ] = None
    cluster: Annotated[
        str | None,
        typer.Option(help="Where tasks run: inline, local, cuda, slurm, or a TOML file with a cluster table."),
    ] = None
    device: Annotated[str | None, typer.Option(help="What the network runs on: cpu, cuda, cuda:1, … or auto.")] = None
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="section.key=value: change any key of the configuration. Can be repeated."),
    ] = None
    trust: Annotated[
        bool, typer.Option("--trust", help="Open and run what only the store names: data, weights, code.")
    ] = False
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but results and what goes wrong.")] = False
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Say also what was found of the network's layers.")
    ] = False

    def read(self, opens: bool = True) -> RunConfig:
        """Read the configuration with the changes that the options make to it.

        Parameters
        ----------
        opens : bool
            The command opens what the configuration names: where only a store names it, it has to be trusted.
        """
        from topnine.pipeline.config.reading import read_config

        store = self.find_store()
        if store is None:
            return read_config(self.config, self.changed(), self.cluster, self.network)
        from topnine.stages.tools.recorded import check_named, store_config

        if opens and not self.trust:
            check_named(store, self.changed())
        return store_config(store, self.changed(), self.cluster)

    def find_store(self) -> Store | None:
        """Return the store whose own configuration is meant: it is given and there, and no other configuration is."""
        store = self.changed().get("store", '""').strip('"')
        if self.config is not None or self.network is not None or not store:
            return None
        from topnine.pipeline.store.store import Store  # importing it takes a while

        if not Store.exists(store):
            return None
        found = Store.open(store)
        return found if found.fingerprint("index") is not None else None

    def find_origins(self) -> dict[str, str]:
        """Return for each key that the configuration or an option gives which of them does, by ``table.key``."""
        from topnine.pipeline.config.reading import list_keys

        store = self.find_store()
        if store is None:
            file = list_keys(self.config, self.cluster, self.network)
        else:
            tables = store.attributes.get("configuration", {})
            file = {f"{name}.{key}": "the store" for name, table in tables.items() for key in table}
        named = {key: f"--{option}" for option, key in NAMED.items() if getattr(self, option) is not None}
        network = {"network.name": "--network"} if self.network is not None else {}
        return {**file, **network, **named, **dict.fromkeys(parse_changes(self.changes), "--set")}

    def changed(self) -> dict[str, str]:
        """Return the changes as TOML values by key; those of ``--set`` count where two name one key."""
        named = {key: getattr(self, option) for option, key in NAMED.items()}
        changes = {key: json.dumps(value) for key, value in named.items() if value is not None}
        return changes | parse_changes(self.changes)


@dataclass(frozen=True)
class SheetOptions:
    """The options of the commands that draw sheets."""

    filters: Annotated[
        str | None,
        typer.Option(
            "--filter",
            "-f",
            help="Numbers of the filters to draw, such as 3,17,40; one alone is drawn enlarged. Default: a random "
            "choice, always the same.",
        ),
    ] = None
    grid: Annotated[
        int | None, typer.Option(min=1, help="With one --filter: draw its N strongest patches as one grid.")
    ] = None
    form: Annotated[
        SheetFormat, typer.Option("--format", help="File format of the sheets; PDF has 300 pixels an inch.")
    ] = SheetFormat.png

    def read(self) -> SheetChoice:
        """Return what to draw; InputError where the options contradict each other."""
        numbers = tuple(parse_filters(self.filters))
        if self.grid is not None and len(numbers) != 1:
            raise InputError("--grid needs one --filter: it draws this filter's strongest patches.")
        from topnine.stages.tile import SheetChoice

        single = numbers[0] if len(numbers) == 1 else None
        return SheetChoice(() if single is not None else numbers, single, self.grid, self.form.value)


def parse_changes(texts: list[str] | None) -> dict[str, str]:
    """Return what ``--set`` names, by key; InputError where one has another form."""
    changes = {}
    for text in texts or []:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"--set {text} is not of the form section.key=value.")
        changes[key.strip()] = value.strip()
    return changes


def parse_filters(text: str | None) -> list[int]:
    """Return the numbers of a list such as ``3,17,40``; InputError where a word is no number."""
    try:
        return [int(word) for word in (text or "").replace(",", " ").split()]
    except ValueError:
        raise InputError(f"--filter {text} is not a list of numbers: --filter 3,17,40.") from None


def parse_keys(text: str | None) -> list[str]:
    """Return the keys of a list such as ``key1,key2``."""
    return [key.strip() for key in (text or "").split(",") if key.strip()]


def command(
    app: typer.Typer, name: str, *, help: str = "", without: Collection[str] = ()
) -> Callable[[Command], Command]:
    """Return a decorator that adds a function to an app as a command.

    A parameter of the function whose type is a dataclass stands for several options: the dataclass's fields.

    Parameters
    ----------
    help : str
        Default: the function's docstring.
    without : collection of str
        Fields that are no options of this command and keep their defaults.
    """

    def add(function: Command) -> Command:
        """Add a function to the commands."""
        parameters = inspect.signature(function, eval_str=True).parameters.values()
        options = {parameter.name: _list_options(parameter, without) for parameter in parameters}
        groups: dict[str, Any] = {
            parameter.name: parameter.annotation for parameter in parameters if is_dataclass(parameter.annotation)
        }

        def call(**values: Any) -> None:
            """Call the command's function with its options put together."""
            for parameter, group in groups.items():
                values[parameter] = group(**{option.name: values.pop(option.name) for option in options[parameter]})
                if isinstance(values[parameter], RunOptions):
                    set_verbosity(values[parameter].quiet, values[parameter].verbose)
            function(**values)

        signature = inspect.Signature([option for listed in options.values() for option in listed])
        call.__signature__ = signature  # type: ignore[attr-defined]
        call.__annotations__ = {option.name: option.annotation for option in signature.parameters.values()}
        app.command(name, help=help or function.__doc__)(call)
        return function

    return add


def _list_options(parameter: inspect.Parameter, without: Collection[str]) -> list[inspect.Parameter]:
    """List what typer makes options of: the parameter itself, or the fields where its type is a dataclass."""
    if not is_dataclass(parameter.annotation):
        return [parameter.replace(kind=parameter.KEYWORD_ONLY)]
    types = get_type_hints(parameter.annotation, include_extras=True)
    return [
        inspect.Parameter(field.name, parameter.KEYWORD_ONLY, default=field.default, annotation=types[field.name])
        for field in fields(parameter.annotation)
        if field.name not in without
    ]
