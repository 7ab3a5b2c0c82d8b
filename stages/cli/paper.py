"""The commands that draw the paper's Figures 4 to 7 from a store."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from topnine.stages.cli.options import Filters, ImageKeys, RunOptions, command, parse_filters, parse_keys
from topnine.stages.cli.run import LOADING, StageRun, find_stages_before, run_plans
from topnine.stages.cli.terminal import print_result, print_steps

if TYPE_CHECKING:
    from topnine.pipeline.config.sections import RunConfig
    from topnine.pipeline.plan import Plan
    from topnine.stages.runner import Stage

# Functions import torch and dask when they are called: `topnine --help` and wrong options need not wait for them.

app = typer.Typer()
logger = logging.getLogger(__name__)


@command(app, "evolution")
def evolution(options: RunOptions, filters: Filters = None) -> None:
    """Figure 4: the strongest activations of a few filters at every checkpoint of network.checkpoints."""
    config, numbers = options.read(), parse_filters(filters)
    logger.info(LOADING)
    from topnine.pipeline.plan import make_plan, plan_checkpoints
    from topnine.pipeline.store.names import quote
    from topnine.stages.paper.evolution import evolution as draw
    from topnine.stages.runner import STAGES
    from topnine.stages.tile import check_filters

    _check_matplotlib()
    checkpoints, plan = plan_checkpoints(config), make_plan(config)
    plan.check_rule()
    check_filters(plan.layers, numbers)
    for each in (*checkpoints, plan):
        print_steps(each.remarks)
    stages = {name: STAGES[name] for name in ("index", "mine", "rank", "deconvolve")}
    runs = [StageRun(checkpoint, stages, Path(checkpoint.config.store).stem) for checkpoint in checkpoints]
    figure = StageRun(plan, {"evolution": partial(draw, checkpoints=checkpoints, filters=numbers)})
    run_plans(config.cluster, [*runs, figure])
    _print_figures(plan.folder, [f"evolution-layer{quote(layer.title)}" for layer in plan.layers])


@command(app, "invariance", without=["layer"])
def invariance(options: RunOptions, images: ImageKeys = None) -> None:
    """Figure 5: how features and class of a few images change when these are translated, scaled and rotated."""
    config = options.read()
    logger.info(LOADING)
    from topnine.stages.paper.invariance import invariance as draw

    plan = _draw(config, "invariance", partial(draw, keys=parse_keys(images)))
    _print_figures(plan.folder, ["invariance"])


@command(app, "first-layer", without=["layer"])
def first_layer(
    options: RunOptions,
    beside: Annotated[
        str | None,
        typer.Option(help="Configuration of a second network to draw beside it; its layer 1 must be ranked, too."),
    ] = None,
) -> None:
    """Figure 6: the first layer's filters, all on one scale."""
    config = options.read()
    logger.info(LOADING)
    from topnine.pipeline.plan import make_plan
    from topnine.stages.paper.first_layer import first_layer as draw

    second = make_plan(RunOptions(config=beside).read()) if beside else None
    _print_figures(_draw(config, "first-layer", partial(draw, beside=second)).folder, ["first-layer"])


@command(app, "occlusion")
def occlusion(
    options: RunOptions,
    images: ImageKeys = None,
    side: Annotated[
        int | None, typer.Option(min=1, help="The square's side in pixels. Default: a quarter of the input's.")
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(min=1, help="Distance of the square's positions in pixels. Default: the input's side / 28."),
    ] = None,
) -> None:
    """Figure 7: how the deepest of the layers and the class respond to a grey square moved over a few images."""
    config = options.read()
    logger.info(LOADING)
    from topnine.pipeline.store.names import quote
    from topnine.stages.paper.occlusion import occlusion as draw

    stage = partial(draw, keys=parse_keys(images), side=side, step=step)
    plan = _draw(config, "occlusion", stage, projects=True)
    _print_figures(plan.folder, [f"occlusion-layer{quote(plan.layers[-1].title)}"])


def _draw(config: RunConfig, name: str, stage: Stage, projects: bool = False) -> Plan:
    """Run a stage that draws from an existing store; ``projects``: it uses the deconvnet, whose rule is checked."""
    from topnine.pipeline.plan import make_plan
    from topnine.pipeline.store.store import Store
    from topnine.stages.runner import STAGES

    _check_matplotlib()
    Store.open(config.store)  # raises InputError where there is none
    plan = make_plan(config)
    if projects:
        plan.check_rule()
    print_steps(plan.remarks)
    before = {each: STAGES[each] for each in find_stages_before(plan, [name])}
    run_plans(config.cluster, [StageRun(plan, {**before, name: stage})])
    return plan


def _check_matplotlib() -> None:
    """Raise InputError, before anything is computed, where matplotlib is not installed."""
    import topnine.pipeline.drawing.paper  # noqa: F401


def _print_figures(folder: Path, stems: Iterable[str]) -> None:
    """Print the paths of figures: a PNG, a PDF and a CSV each."""
    from topnine.pipeline.drawing.style import SUFFIXES

    for stem in stems:
        for suffix in SUFFIXES:
            print_result(folder / "figures" / f"{stem}{suffix}")
