"""The commands that run stages: all of them, one of them, or those of the gallery."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from topnine.stages.cli.display import show_progress
from topnine.stages.cli.options import RunOptions, SheetOptions, command
from topnine.stages.cli.terminal import print_message, print_result, print_steps
from topnine.stages.progress import describe_seconds

if TYPE_CHECKING:
    from topnine.pipeline.cluster.pool import Pool
    from topnine.pipeline.config.clusters import ClusterConfig
    from topnine.pipeline.config.sections import RunConfig
    from topnine.pipeline.plan import Plan
    from topnine.pipeline.stored_plan import StoredPlan
    from topnine.stages.progress import Progress
    from topnine.stages.runner import Stage

# Functions import torch and dask when they are called: `topnine --help` and wrong options need not wait for them.

app = typer.Typer()
logger = logging.getLogger(__name__)

ALONE = {"rank", "statistics", "tile"}  # stages that need nothing but a store
ALONE_TABLES, ALONE_KEYS = {"rank", "tile", "cluster"}, {"mine.layers", "store"}  # what may be changed then
LOADING = "loading PyTorch and Dask"  # logged where a command begins to plan: that takes seconds
SINGLE_STAGES = {
    "index": "Write the list of all images into the store.",
    "mine": "Record every filter's strongest activation on every image.",
    "rank": "Find the nine images that activate each filter most.",
    "statistics": "Compute histograms, classes and correlations of every filter's activations.",
    "deconvolve": "Project the nine strongest activations of each filter back to pixels and cut out their patches.",
}


@dataclass(frozen=True)
class StageRun:
    """Stages to be run for a plan, in this order; the title precedes their names in the progress."""

    plan: StoredPlan
    stages: Mapping[str, Stage]
    title: str = ""


@command(app, "run")
def run(
    options: RunOptions,
    sheets: SheetOptions,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what the store holds and which files were written as JSON.")
    ] = False,
) -> None:
    """Run every stage: index, mine, rank, deconvolve, tile."""
    began = time.monotonic()
    store = run_stages(options, ("index", "mine", "rank", "deconvolve", "tile"), sheets, as_json)
    gallery = shlex.join(["topnine", "gallery", "--store", store])
    took = describe_seconds(time.monotonic() - began)
    print_steps([f"took {took}. A site with every layer of the store is made by: {gallery}"])


def _add_single_stage(name: str, help: str) -> None:
    @command(app, name, help=help)
    def run_single_stage(options: RunOptions) -> None:
        """Run the stage of this name."""
        run_stages(options, [name])


for _name, _help in SINGLE_STAGES.items():
    _add_single_stage(_name, _help)


@command(app, "tile")
def tile(options: RunOptions, sheets: SheetOptions) -> None:
    """Draw the sheets of the layers."""
    run_stages(options, ["tile"], sheets)


@command(app, "gallery")
def gallery(options: RunOptions) -> None:
    """Write a static site that shows every deconvolved layer of the store, whatever --layer says."""
    run_stages(options, ["statistics", "gallery"])


def _choose_ranked_layers(config: RunConfig) -> RunConfig:
    """Return the configuration with all ranked layers; without any, unchanged: the stages say what is missing."""
    from topnine.pipeline.store.store import Store

    store = Store.open(config.store)
    ranked = [name for name in store.layers if store.fingerprint("rank", name) is not None]
    if not ranked:
        return config
    return config.model_copy(update={"mine": config.mine.model_copy(update={"layers": " ".join(ranked)})})


def run_stages(
    options: RunOptions, stages: Sequence[str], sheets: SheetOptions | None = None, as_json: bool = False
) -> str:
    """Run stages by name, then print what the store holds and the paths of the store and the pictures.

    Returns
    -------
    str
        The path of the store.
    """
    if options.find_store() is None:
        options.read()  # what is wrong with it is said before anything is imported
    logger.info(LOADING)
    from topnine.pipeline.plan import Plan
    from topnine.stages.cli.summary import describe_run, summarise_run
    from topnine.stages.deconvolve import deconvolve
    from topnine.stages.runner import STAGES
    from topnine.stages.tile import check_filters, preview
    from topnine.stages.tile import tile as draw
    from topnine.stages.tools.plan import describe_probe

    choice = (sheets or SheetOptions()).read()
    plan = _plan_alone(options) if {*stages} <= ALONE and choice.grid is None else None
    if plan is None:
        plan = _plan_stages(options, stages)
        stages = [*find_stages_before(plan, stages), *stages]
    config = plan.config
    check_filters(plan.layers, choice.named_filters)
    print_steps(plan.remarks)
    for layer in plan.layers if isinstance(plan, Plan) else ():
        logger.debug("layer %s: %d filters, %s", layer.name, layer.filters, "; ".join(describe_probe(layer)))
    chosen: dict[str, Stage] = {**STAGES, "tile": partial(draw, choice=choice)}
    if "tile" in stages:
        chosen["deconvolve"] = partial(deconvolve, preview=preview(plan, choice) if isinstance(plan, Plan) else None)
    run_plans(config.cluster, [StageRun(plan, {name: chosen[name] for name in stages})])
    if as_json:
        print_result(json.dumps(summarise_run(plan, stages, choice)))
        return config.store
    for line in describe_run(plan, stages, choice):
        print_result(line)
    return config.store


def _plan_alone(options: RunOptions) -> StoredPlan | None:
    """Return what the store alone says, for stages that need no more; None where another configuration is given."""
    store = options.find_store()
    if store is None or not all(key in ALONE_KEYS or key.split(".")[0] in ALONE_TABLES for key in options.changed()):
        return None
    from topnine.pipeline.store.analysis.run import open_run
    from topnine.pipeline.stored_plan import plan_of_store
    from topnine.stages.tools.export import find_layers

    config = options.read(opens=False)
    views = find_layers(open_run(store.path), config.mine.layers)
    names = sorted((view.name for view in views), key=store.layers.index)
    return plan_of_store(store, config, names)


def _plan_stages(options: RunOptions, stages: Collection[str]) -> Plan:
    """Plan stages that need the network or the images."""
    from topnine.pipeline.plan import make_plan
    from topnine.pipeline.store.store import Store
    from topnine.stages.tools.recorded import remember

    is_stores = options.find_store() is not None
    config = options.read()
    if "index" not in stages:
        Store.open(config.store)  # raises InputError where there is none
    plan = make_plan(_choose_ranked_layers(config) if "gallery" in stages else config)
    if "deconvolve" in stages:
        plan.check_rule()
    if not is_stores:
        remember(plan.config)
    return plan


def find_stages_before(plan: Plan, stages: Collection[str]) -> list[str]:
    """Return the stage that gives the images the labels of the configuration, where the store has those of another."""
    from topnine.pipeline.store.store import Store

    if "index" in stages or Store.open(plan.config.store).fingerprint("labels") == plan.fingerprints.labels:
        return []
    return ["index"]


def run_plans(cluster: ClusterConfig, runs: Collection[StageRun]) -> None:
    """Run the stages of one plan after the other on the same workers and show their progress."""
    from topnine.pipeline.cluster.kinds import connect

    try:
        with show_progress() as show, connect(cluster, _count_gpus(cluster)) as pool:
            announce = _announce_dashboard(pool)
            for stage_run in runs:
                for progress in _run_stages_of(stage_run, pool):
                    announce()
                    show(progress)
    except KeyboardInterrupt:
        print_message("interrupted: what is done is kept, the same command goes on from there.")
        raise typer.Exit(130) from None


def _run_stages_of(stage_run: StageRun, pool: Pool) -> Iterator[Progress]:
    from topnine.stages.runner import run as run_all

    with closing(run_all(stage_run.plan, pool, stage_run.stages)) as running:
        for progress in running:
            yield replace(progress, stage=f"{stage_run.title} {progress.stage}".strip())


def _announce_dashboard(pool: Pool) -> Callable[[], None]:
    """Return a function that prints the address of the pool's dashboard whenever it has changed."""
    printed = ""

    def announce() -> None:
        """Print the dashboard's address once it is known."""
        nonlocal printed
        if pool.dashboard != printed:
            printed = pool.dashboard
            print_steps([f"dashboard: {printed}"])

    return announce


def _count_gpus(cluster: ClusterConfig) -> int:
    """Count this machine's GPUs where the cluster needs their number; for others torch need not be imported."""
    if cluster.kind != "cuda":
        return 0
    from topnine.pipeline.compute.devices import count_gpus

    return count_gpus()
