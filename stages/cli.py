"""The command ``topnine``: results go to standard output, what it says of itself to standard error."""

from __future__ import annotations

import inspect
import json
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.config import RunConfig, read_config
from pipeline.errors import InputError, TopnineError, WorkError
from pipeline.memory import limit_arenas

from .display import show_progress

if TYPE_CHECKING:
    from pipeline.plan import Plan

    from .runner import Stage

app = typer.Typer(
    help="Find and draw what the filters of a convolutional network look for in your images.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class PictureForm(StrEnum):
    """What sheets are written as."""

    png = "png"
    pdf = "pdf"
    webp = "webp"


class TableForm(StrEnum):
    """What tables are written as."""

    csv = "csv"
    parquet = "parquet"


Filters = Annotated[str | None, typer.Option(help="Filters to draw: 3,17,40. Default: a seeded random subset.")]
Filter = Annotated[int | None, typer.Option(help="Draw one filter, enlarged.")]
Grid = Annotated[int | None, typer.Option(min=1, help="With --filter: its N strongest patches as one grid.")]
Pictures = Annotated[PictureForm, typer.Option("--format", help="Of the sheets; pdf has 300 pixels an inch.")]


def _settings(
    config: Annotated[str, typer.Option("--config", "-c", help="A TOML configuration.")] = "configs/demo.toml",
    layer: Annotated[
        str | None, typer.Option("--layer", "-l", help='Number, name, list "1 3 conv5", all, or every.')
    ] = None,
    data: Annotated[str | None, typer.Option(help="Shards, folders, a pattern, a list of them, or 'photos'.")] = None,
    weights: Annotated[str | None, typer.Option(help="bundled, torchvision, random, or a weights file.")] = None,
    store: Annotated[str | None, typer.Option("--store", "-s", help="The Zarr store: runs/<config>.zarr.")] = None,
    cluster: Annotated[
        str | None, typer.Option(help="A cluster kind, or a TOML file that has a cluster table.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, … or auto.")] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, for any key of the configuration.")
    ] = None,
) -> RunConfig:
    given = {
        "mine.layers": layer,
        "data.path": data,
        "network.weights": weights,
        "store": store,
        "cluster.device": device,
    }
    settings = {key: json.dumps(value) for key, value in given.items() if value is not None}
    for change in changes or []:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"--set {change} is not of the form section.key=value.")
        settings[key.strip()] = value.strip()
    return read_config(config, settings, cluster)


def _command(name: str, help: str, without: tuple[str, ...] = ()) -> Callable[[Callable[..., None]], None]:
    """Make a command of a function of a RunConfig and its own options: ``_settings`` gives the others but some."""

    def decorate(function: Callable[..., None]) -> None:
        options = inspect.signature(_settings, eval_str=True).parameters
        common = {name: option for name, option in options.items() if name not in without}
        own = list(inspect.signature(function, eval_str=True).parameters.values())[1:]

        def command(**options: Any) -> None:
            settings = _settings(**{key: options.pop(key) for key in common})
            function(settings, **options)

        parameters = [*common.values(), *own]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        app.command(name, help=help)(command)

    return decorate


@_command("run", "Run every stage: index, mine, rank, deconvolve, tile.")
def _run_all(
    settings: RunConfig,
    filters: Filters = None,
    filter: Filter = None,
    grid: Grid = None,
    form: Pictures = PictureForm.png,
) -> None:
    _run(settings, ["index", "mine", "rank", "deconvolve", "tile"], filters, filter, grid, form)


@_command("index", "List the images of every shard in the store.")
def _index(settings: RunConfig) -> None:
    _run(settings, ["index"])


@_command("mine", "Record every filter's strongest activation on every image.")
def _mine(settings: RunConfig) -> None:
    _run(settings, ["mine"])


@_command("rank", "Rank the nine strongest images of every filter.")
def _rank(settings: RunConfig) -> None:
    _run(settings, ["rank"])


@_command("statistics", "Histograms, classes and correlations of every filter's activations.")
def _statistics(settings: RunConfig) -> None:
    _run(settings, ["statistics"])


@_command("deconvolve", "Cut the patches of these and project them back to pixels.")
def _deconvolve(settings: RunConfig) -> None:
    _run(settings, ["deconvolve"])


@_command("tile", "Draw the sheets.")
def _tile(
    settings: RunConfig,
    filters: Filters = None,
    filter: Filter = None,
    grid: Grid = None,
    form: Pictures = PictureForm.png,
) -> None:
    _run(settings, ["tile"], filters, filter, grid, form)


@_command("gallery", "Write a static site of every layer that is deconvolved, whichever --layer names.")
def _gallery(settings: RunConfig) -> None:
    from pipeline.store import Store

    store = Store.open(settings.store)
    ranked = [name for name in store.layers if store.fingerprint("rank", name) is not None]
    if ranked:  # else the stages say what is missing
        mine = settings.mine.model_copy(update={"layers": " ".join(ranked)})
        settings = settings.model_copy(update={"mine": mine})
    _run(settings, ["statistics", "gallery"])


Images = Annotated[str | None, typer.Option(help="Keys of images: key1,key2. Default: a seeded random few.")]


@_command("evolution", "Figure 4: a few filters' strongest activations over network.checkpoints.")
def _evolution(settings: RunConfig, filters: Filters = None) -> None:
    from pipeline.plan import make_plan, plan_checkpoints

    from .evolution import evolution
    from .runner import STAGES
    from .tile import check_filters

    _check_figures()
    checkpoints, made, numbers = plan_checkpoints(settings), make_plan(settings), _numbers(filters)
    made.check_rule()
    check_filters(made, numbers)
    draw = partial(evolution, checkpoints=checkpoints, filters=numbers)
    stages = {name: STAGES[name] for name in ("index", "mine", "rank", "deconvolve")}
    runs = [(Path(own.config.store).stem, own, stages) for own in checkpoints]
    _drive(settings, [*runs, ("", made, {"evolution": draw})])
    _print_figures(made, [f"evolution-layer{layer.title}" for layer in made.layers])


@_command(
    "invariance", "Figure 5: features and class of a few images, translated, scaled, rotated.", without=("layer",)
)
def _invariance(settings: RunConfig, images: Images = None) -> None:
    from .invariance import invariance

    _draw(settings, "invariance", partial(invariance, keys=_keys(images)))


@_command("first-layer", "Figure 6: the first layer's filters on one scale.", without=("layer",))
def _first_layer(
    settings: RunConfig,
    beside: Annotated[str | None, typer.Option(help="The TOML configuration of a second network, mined, too.")] = None,
) -> None:
    from pipeline.plan import make_plan

    from .first_layer import first_layer

    second = make_plan(read_config(beside)) if beside else None
    _draw(settings, "first-layer", partial(first_layer, beside=second))


@_command("occlusion", "Figure 7: a grey square over a few images, for the deepest layer.")
def _occlusion(
    settings: RunConfig,
    images: Images = None,
    side: Annotated[int | None, typer.Option(min=1, help="Of the square, in pixels: a quarter of the input.")] = None,
    step: Annotated[int | None, typer.Option(min=1, help="From place to place, in pixels: input / 28.")] = None,
) -> None:
    from .occlusion import occlusion

    drawn = partial(occlusion, keys=_keys(images), side=side, step=step)
    _draw(settings, "occlusion", drawn, deepest=True)


@_command("plan", "Tell what a run would do: images, blocks, bytes and time. Nothing is written.")
def _plan(settings: RunConfig) -> None:
    from pipeline.plan import make_plan

    from .estimate import estimate

    with TemporaryDirectory() as folder:
        for line in estimate(make_plan(settings, Path(folder))):
            print(line, flush=True)


@app.command()
def pack(
    data: Annotated[str, typer.Option(help="Shards, folders, a pattern, or a list of them.")],
    to: Annotated[Path, typer.Option(help="A folder that is new or empty.")],
    shard_mib: Annotated[int, typer.Option(min=1, help="Size of a shard in MiB.")] = 256,
    resize: Annotated[int | None, typer.Option(min=1, help="Shrink to this shortest side, in pixels.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="Of the JPEGs, where images are shrunk.")] = 95,
    classes: Annotated[str | None, typer.Option(help="A TSV of index, wnid, name.")] = None,
) -> None:
    """Pack images of any form into tar shards, as they are or shrunk to the network's input."""
    from pipeline.labels import read_classes

    from .pack import pack as run_pack

    with show_progress() as show:
        for progress in run_pack(data, to, shard_mib, resize, quality, read_classes(classes) if classes else None):
            show(progress)
    print(to)


@app.command()
def status(
    store: Annotated[str, typer.Argument(help="The Zarr store.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts.")] = False,
) -> None:
    """Tell how far a store is, from the store alone."""
    from pipeline.store import Store

    from .report import status as report

    found = report(Store.open(store))
    if as_json:
        print(json.dumps(found))
        return
    print(f"{found['store']}: {found['images']:,} images, {_undecodable(found['reasons'])}")
    for name, layer in found["layers"].items():
        blocks = f"{layer['done']:,} of {layer['blocks']:,} blocks mined, {layer['to_do']:,} to do"
        failed = f", {layer['failed']:,} failed" if layer["failed"] else ""
        stages = [stage if layer[stage] else f"{stage} to do" for stage in ("rank", "deconvolve")]
        stages += ["statistics"] if layer["statistics"] else []
        print(f"  {name}: {blocks}{failed}, {', '.join(stages)}")
        for block, reason in layer["reasons"].items():
            print(f"    block {block}: {reason}")
    holder = found["holder"]
    if holder:
        print(f"a run on {holder['host']} (process {holder['pid']}) since {holder['started']}: {_pace(holder)}")


@app.command()
def export(
    store: Annotated[str, typer.Argument(help="The Zarr store.")],
    layer: Annotated[str, typer.Option("--layer", "-l", help="Number or name.")],
    form: Annotated[TableForm, typer.Option("--format", help="Of the file.")] = TableForm.csv,
    to: Annotated[str | None, typer.Option(help="The file: layer<N>.csv in the run's folder tables.")] = None,
) -> None:
    """Write a layer's strongest activations as a table: a row for every filter and rank."""
    from .export import export as write

    print(write(store, layer, form.value, to))


@app.command()
def verify(
    store: Annotated[str, typer.Argument(help="The Zarr store.")],
    data: Annotated[str | None, typer.Option(help="Where the data is now, if it was moved.")] = None,
    weights: Annotated[str | None, typer.Option(help="Where the weights are now, if they were moved.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, … or auto.")] = "auto",
    seed: Annotated[int, typer.Option(min=0, help="Of the samples that are mined and deconvolved again.")] = 0,
) -> None:
    """Check every chunk and ranking of a store, and samples of it against the images and the network."""
    from .verify import verify as checks

    given = {"data.path": data, "network.weights": weights, "cluster.device": device}
    failed = 0
    for check in checks(store, {key: value for key, value in given.items() if value is not None}, seed):
        print(check, flush=True)
        failed += bool(check.problems)
    if failed:
        raise WorkError(f"{failed} checks failed: {store} is not what a run would make. Mine into another STORE.")


@app.command()
def networks(
    name: Annotated[str | None, typer.Argument(help="A network, for its layers.")] = None,
    every: Annotated[bool, typer.Option(help="List every convolution, not only the numbered layers.")] = False,
    size: Annotated[int, typer.Option(min=1, help="Side of its input in pixels.")] = 224,
) -> None:
    """List the networks; or a network's layers, their numbers and receptive fields in pixels."""
    from pipeline.config import NetworkConfig
    from pipeline.layers import find_layers
    from pipeline.networks import ARCHITECTURES, architecture, trace_shapes

    if name is None:
        print("\n".join(ARCHITECTURES))
        return
    graph = trace_shapes(name, size, size)
    numbered = architecture(NetworkConfig(name=name)).layers
    for layer in find_layers(graph, numbered, "all every" if every or not numbered else "all"):
        field, number = layer.field.attributes(), f"{layer.number} = " if layer.number else ""
        print(
            f"{number}{layer.name}: {layer.filters} filters, receptive field {field['size']}, "
            f"stride {field['stride']}, tapped after {layer.tap.follows} of {layer.module}"
        )


def _run(
    settings: RunConfig,
    stages: list[str],
    filters: str | None = None,
    filter: int | None = None,
    grid: int | None = None,
    form: PictureForm = PictureForm.png,
) -> None:
    # Imported here: torch and dask take seconds, `topnine --help` and wrong options should not.
    from pipeline.plan import make_plan
    from pipeline.store import Store

    from .runner import STAGES
    from .tile import check_filters
    from .tile import tile as draw

    if grid is not None and filter is None:
        raise InputError("--grid needs --filter: it draws one filter's strongest patches.")
    if "index" not in stages:
        Store.open(settings.store)
    made = make_plan(settings)
    if "deconvolve" in stages:
        made.check_rule()
    numbers = _numbers(filters)
    check_filters(made, [*numbers, *([] if filter is None else [filter])])
    chosen = {name: STAGES[name] for name in stages}
    if "tile" in chosen:
        chosen["tile"] = partial(draw, filters=numbers, single=filter, grid=grid, form=form.value)
    _drive(settings, [("", made, chosen)])
    _summary(made, stages, filter, grid, form.value)


def _drive(settings: RunConfig, runs: list[tuple[str, Plan, dict[str, Stage]]]) -> None:
    """Run the stages of plans, one plan after the other, on the same workers; progress has the name of its plan."""
    from pipeline.cluster import connect

    from .runner import run as run_stages

    try:
        with show_progress() as show, connect(settings.cluster) as pool:
            dashboard = ""
            for name, made, stages in runs:
                with closing(run_stages(made, pool, stages)) as running:
                    for progress in running:
                        if pool.dashboard != dashboard:
                            dashboard = pool.dashboard
                            print(f"dashboard: {dashboard}", file=sys.stderr, flush=True)
                        show(replace(progress, stage=f"{name} {progress.stage}".strip()))
    except KeyboardInterrupt:
        print("interrupted: what is done is kept, the same command goes on from there.", file=sys.stderr)
        raise typer.Exit(130) from None


def _draw(settings: RunConfig, name: str, stage: Stage, deepest: bool = False) -> None:
    """Draw one of the paper's other figures from a store."""
    from pipeline.plan import make_plan
    from pipeline.store import Store

    _check_figures()
    Store.open(settings.store)
    made = make_plan(settings)
    if deepest:
        made.check_rule()
    _drive(settings, [("", made, {name: stage})])
    _print_figures(made, [f"{name}-layer{made.layers[-1].title}" if deepest else name])


def _check_figures() -> None:
    """Raise InputError, before anything is computed, where there is no matplotlib."""
    import pipeline.plots  # noqa: F401


def _print_figures(plan: Plan, stems: list[str]) -> None:
    from pipeline.plots import SUFFIXES

    for stem in stems:
        for suffix in SUFFIXES:
            print(plan.folder / "figures" / f"{stem}{suffix}")


def _keys(text: str | None) -> list[str]:
    return [key.strip() for key in (text or "").split(",") if key.strip()]


def _numbers(text: str | None) -> list[int]:
    try:
        return [int(word) for word in (text or "").replace(",", " ").split()]
    except ValueError:
        raise InputError(f"--filters {text} is not a list of numbers: --filters 3,17,40.") from None


def _summary(plan: Plan, stages: list[str], filter: int | None, grid: int | None, form: str) -> None:
    from pipeline.store import Store

    from .report import status as report
    from .tile import sheet_paths

    found = report(Store.open(plan.config.store))
    states = [(layer, found["layers"].get(layer.name, {})) for layer in plan.layers]
    dead = [
        f"{state['dead']} of {layer.filters} in {layer.name}"
        for layer, state in states
        if state.get("dead") is not None
    ]
    print(f"{found['images']:,} images, {_undecodable(found['reasons'])}")
    if dead:
        print(f"dead filters: {', '.join(dead)}")
    print(plan.config.store)
    if "tile" in stages:
        for layer in plan.layers:
            for path in sheet_paths(plan, layer, filter, grid, form):
                print(path)
    if "gallery" in stages:
        print(plan.folder / "gallery" / "index.html")


def _pace(holder: dict[str, Any]) -> str:
    if not holder["stage"]:
        return "starting"
    text = f"{holder['stage']}, {holder['done']:,} of {holder['total']:,} {holder['unit']}"
    if not holder["per_second"]:
        return text
    return f"{text}, {holder['per_second']:.1f} {holder['unit']}/s, {holder['seconds_left']:,.0f} s left"


def _undecodable(reasons: dict[str, int]) -> str:
    listed = "".join(f"\n  {count} × {reason}" for reason, count in reasons.items())
    return f"{sum(reasons.values()):,} undecodable{listed}"


# -- the program ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Run the command line: a user's error is one sentence and its exit code, without a traceback."""
    limit_arenas()
    for number in (signal.SIGINT, signal.SIGTERM):  # SIGINT too: a shell's background job would ignore it
        signal.signal(number, _interrupt)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup wants it
        signal.signal(signal.SIGHUP, _interrupt)
    try:
        app()
    except TopnineError as error:
        print(f"topnine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:  # a full disk, a network that is gone
        print(f"topnine: {error}. What is done is kept, the same command goes on from there.", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
