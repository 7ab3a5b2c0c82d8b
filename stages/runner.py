"""Run stages one after the other on the workers of a plan."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator

from pipeline.cluster import Pool
from pipeline.lease import hold
from pipeline.plan import Plan
from pipeline.store import Store

from .deconvolve import deconvolve
from .gallery import gallery
from .index import index
from .mine import mine
from .progress import Progress
from .rank import rank
from .statistics import statistics
from .tile import tile

Stage = Callable[[Plan, Pool], Iterator[Progress]]

WRITERS: dict[str, Stage] = {  # of the store
    "index": index,
    "mine": mine,
    "rank": rank,
    "statistics": statistics,
    "deconvolve": deconvolve,
}
STAGES: dict[str, Stage] = {**WRITERS, "tile": tile, "gallery": gallery}


def run(plan: Plan, pool: Pool, stages: dict[str, Stage] = STAGES) -> Generator[Progress, None, None]:
    """Run stages in order; give their progress. What is done already is skipped by the stage itself.

    Raises
    ------
    BusyError
        Another run is writing to the store.
    """
    if not WRITERS.keys() & stages.keys():
        for stage in stages.values():
            yield from stage(plan, pool)
        return
    store = Store.create(plan.config.store)
    try:
        with hold(store) as note:
            store.discard_unfinished()
            for stage in stages.values():
                for progress in stage(plan, pool):
                    note(progress.stage, progress.unit, progress.skipped, progress.done, progress.total)
                    yield progress
    finally:
        if store.fingerprint("index") is None and store.lease() is None:  # nothing was begun
            store.discard()
