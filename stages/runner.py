"""Run stages one after the other on the workers of a plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.cluster import Pool, connect
from pipeline.plan import Plan

from .deconvolve import deconvolve
from .gallery import gallery
from .index import index
from .mine import mine
from .progress import Progress
from .rank import rank
from .tile import tile

Stage = Callable[[Plan, Pool], Iterator[Progress]]

STAGES: dict[str, Stage] = {
    "index": index,
    "mine": mine,
    "rank": rank,
    "deconvolve": deconvolve,
    "tile": tile,
    "gallery": gallery,
}


def run(plan: Plan, stages: dict[str, Stage] = STAGES) -> Iterator[Progress]:
    """Run stages in order; give their progress. What is done already is skipped by the stage itself."""
    with connect(plan.config.cluster) as pool:
        for stage in stages.values():
            yield from stage(plan, pool)
