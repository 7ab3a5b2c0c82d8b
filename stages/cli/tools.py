"""The commands beside the stages: plan, pack, status, export, verify and networks."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated

import typer

from topnine.pipeline.errors import InputError, WorkError
from topnine.stages.cli.display import show_progress
from topnine.stages.cli.options import RunOptions, command, parse_changes
from topnine.stages.cli.run import LOADING
from topnine.stages.cli.terminal import print_result

if TYPE_CHECKING:
    from topnine.pipeline.network.layers import Layer

# Functions import torch and dask when they are called: `topnine --help` and wrong options need not wait for them.

app = typer.Typer()
logger = logging.getLogger(__name__)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StorePath = Annotated[str, typer.Argument(help="Path or URL of the Zarr store.")]


@command(app, "plan")
def plan(options: RunOptions, as_json: AsJson = False) -> None:
    """Estimate the images, blocks, bytes and times of a run. Nothing is written."""
    config = options.read()
    logger.info(LOADING)
    from topnine.pipeline.plan import make_plan
    from topnine.stages.tools.plan import describe_estimate, estimate

    with TemporaryDirectory() as folder:
        found = estimate(make_plan(config, Path(folder)))
    _print_all(describe_estimate(found), asdict(found), as_json)


@app.command()
def pack(
    data: Annotated[str, typer.Option(help="The images: shards, folders, a pattern, or a .txt list of shards.")],
    to: Annotated[Path, typer.Option(help="The folder of the tar shards; it is new or empty.")],
    shard_mib: Annotated[int, typer.Option(min=1, help="Size of a shard in MiB.")] = 256,
    resize: Annotated[int | None, typer.Option(min=1, help="Shrink images to this shortest side, in pixels.")] = None,
    quality: Annotated[int, typer.Option(min=1, max=100, help="JPEG quality of the images that are shrunk.")] = 95,
    classes: Annotated[str | None, typer.Option(help="A TSV file of class index, wnid, name.")] = None,
) -> None:
    """Pack images of any form into tar shards: as they are, or shrunk with --resize."""
    from topnine.pipeline.data.labels import read_classes
    from topnine.stages.tools.pack import Packing
    from topnine.stages.tools.pack import pack as write_shards

    packing = Packing(shard_mib, resize, quality)
    names = read_classes(classes) if classes else None
    with show_progress() as show, closing(write_shards(data, to, packing, names)) as running:
        for progress in running:
            show(progress)
    print_result(to)


@app.command()
def status(
    store: StorePath,
    as_json: AsJson = False,
) -> None:
    """Print how much of a run is done. Only its store is read."""
    from topnine.pipeline.store.store import Store
    from topnine.stages.cli.summary import describe_store
    from topnine.stages.tools.status import status as read_status

    state = read_status(Store.open(store))
    if as_json:
        print_result(json.dumps(asdict(state)))
        return
    for line in describe_store(state):
        print_result(line)


@app.command()
def export(
    store: StorePath,
    layer: Annotated[
        str,
        typer.Option(
            "--layer",
            "-l",
            help="Numbers or names of layers; all = the numbered ones, every = all in the store.",
        ),
    ],
    to: Annotated[
        str | None,
        typer.Option(
            help="The file: its name ends in .csv or .parquet. Default: tables/layer<number>.csv in the run's folder."
        ),
    ] = None,
    activations: Annotated[
        bool, typer.Option("--activations", help="Write all activations: a row for every image and filter.")
    ] = False,
) -> None:
    """Write the strongest activations as a table: a row for every filter and rank."""
    from topnine.stages.tools.export import export as write_table

    print_result(write_table(store, layer, to, activations))


@app.command()
def verify(
    store: StorePath,
    data: Annotated[str | None, typer.Option(help="Where the images are.")] = None,
    weights: Annotated[str | None, typer.Option(help="Where the weights are.")] = None,
    network: Annotated[str | None, typer.Option(help="The network: its name, or package.module:function.")] = None,
    named: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value: another file's place, as of data.classes.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Open and run what only the store names: data, weights, code.")
    ] = False,
    device: Annotated[str, typer.Option(help="What the network runs on: cpu, cuda, cuda:1, … or auto.")] = "auto",
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the choice of samples that are mined and deconvolved again.")
    ] = 0,
    repair: Annotated[bool, typer.Option("--repair", help="First make again what is missing or damaged.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check every chunk and every ranking of a store, and mine and deconvolve samples of it again."""
    from topnine.pipeline.store.store import Store
    from topnine.stages.tools.recorded import check_named
    from topnine.stages.tools.repair import repair as make_again
    from topnine.stages.tools.verify import verify as check

    changes = {"data.path": data, "network.weights": weights, "network.name": network, "cluster.device": device}
    moved = {key: value for key, value in changes.items() if value is not None} | parse_changes(named)
    if not trust:
        check_named(Store.open(store), moved)
    if repair:
        with show_progress() as show, closing(make_again(store, moved)) as running:
            for progress in running:
                show(progress)
    results = []
    for result in check(store, moved, seed):
        results.append(result)
        if not as_json:
            print_result(result)
    if as_json:
        print_result(json.dumps([asdict(result) for result in results]))
    failed = sum(bool(result.problems) for result in results)
    if failed:
        raise WorkError(
            f"{failed} checks failed: {store} is not what a run would make. `topnine verify --repair` makes again what "
            "is missing or damaged; where the data or the network has changed, mine into another STORE."
        )


@app.command()
def networks(
    name: Annotated[str | None, typer.Argument(help="The network whose layers are listed.")] = None,
    match: Annotated[
        str | None, typer.Option(help="List the networks whose names contain this, timm's too where it is installed.")
    ] = None,
    every: Annotated[bool, typer.Option(help="List every convolution, not only the numbered layers.")] = False,
    size: Annotated[int, typer.Option(min=1, help="Side of the network's input in pixels.")] = 224,
    as_json: AsJson = False,
) -> None:
    """List the networks with their weights, or the layers of one with their numbers and receptive fields in pixels."""
    from topnine.pipeline.network.catalogue import list_networks

    if name is not None and match is not None:
        raise InputError(f"--match lists networks, and {name} is one: give one of both.")
    if name is None:
        offers = list(list_networks(match))
        _print_all(offers, [asdict(offer) for offer in offers], as_json)
    else:
        layers = _find_layers(name, every, size)
        _print_all(
            map(_describe_layer, layers), [layer.attributes() | {"name": layer.name} for layer in layers], as_json
        )


def _print_all(lines: Iterable[object], records: object, as_json: bool) -> None:
    """Print lines, or what they tell as JSON."""
    if as_json:
        print_result(json.dumps(records))
        return
    for line in lines:
        print_result(line)


def _find_layers(network: str, every: bool, size: int) -> list[Layer]:
    """Return the layers of a network whose input has a side of ``size`` pixels."""
    from topnine.pipeline.config.sections import NetworkConfig
    from topnine.pipeline.network.layers import find_layers
    from topnine.pipeline.network.loading import trace_shapes
    from topnine.pipeline.network.registry import find_architecture

    graph = trace_shapes(network, size, size)
    numbered = find_architecture(NetworkConfig(name=network)).layers
    return find_layers(graph, numbered, "all every" if every or not numbered else "all")


def _describe_layer(layer: Layer) -> str:
    field, number = layer.field.attributes(), f"{layer.number} = " if layer.number else ""
    known = f"{layer.filters} filters, receptive field {field['size']}, stride {field['stride']}"
    described = known if layer.field.source == "graph" else "its map is measured by `topnine plan`"
    return f"{number}{layer.name}: {described}, tapped after {layer.tap.follows} of {layer.module}"
