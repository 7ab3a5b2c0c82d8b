"""Run stages one after the other on the workers of a plan."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress

from topnine.pipeline.cluster.pool import Pool
from topnine.pipeline.errors import BusyError, DamageError
from topnine.pipeline.store.holder import GONE_S
from topnine.pipeline.store.lease import hold_lease, watch_silent
from topnine.pipeline.store.store import Store
from topnine.pipeline.store.verification import mend
from topnine.pipeline.stored_plan import StoredPlan
from topnine.stages.deconvolve import deconvolve
from topnine.stages.gallery.stage import gallery
from topnine.stages.index import index
from topnine.stages.mine import mine
from topnine.stages.progress import Progress
from topnine.stages.rank import rank
from topnine.stages.statistics import statistics
from topnine.stages.tile import tile
from topnine.stages.work import describe_lost

Stage = Callable[..., Iterator[Progress]]  # of a plan and a pool; those that write, of the store, too

WRITERS: Mapping[str, Stage] = {
    "index": index,
    "mine": mine,
    "rank": rank,
    "statistics": statistics,
    "deconvolve": deconvolve,
}
STAGES: Mapping[str, Stage] = {**WRITERS, "tile": tile, "gallery": gallery}

MENDED = 3  # times that a run makes again what is missing in its store; then the disk loses it as fast as it is written


def run(
    plan: StoredPlan, pool: Pool, stages: Mapping[str, Stage] = STAGES, thorough: bool = False
) -> Generator[Progress, None, None]:
    """Run stages in order; yield their progress. Each stage skips what is done already.

    Parameters
    ----------
    thorough : bool
        Read all that is done already, too, and do again what is damaged. Else what is damaged is done again where a
        stage reads it, or where a file is missing or empty.

    Raises
    ------
    BusyError
        Another run is writing to the store, or went on with it because this one was paused or cut off from it.
    """
    if not WRITERS.keys() & stages.keys():
        for stage in stages.values():
            yield from stage(plan, pool)
        return
    path = plan.config.store
    if Store.exists(path):
        Store.open(path)  # raises InputError where it is another's
    silent = yield from _watch(path)
    with hold_lease(path, silent) as lease:
        store = Store.create(path, lease)
        store.discard_unfinished(recent=silent is None)
        try:
            for progress in _run_mending(plan, pool, store, stages, thorough):
                lease.report(progress.stage, progress.unit, progress.skipped, progress.done, progress.total)
                yield progress
        except Exception:
            lease.check()  # of what fails when the store is another's, that is the reason
            raise
        finally:
            if store.fingerprint("index") is None:  # no stage wrote anything
                with suppress(BusyError):
                    store.discard()


def _watch(path: str) -> Generator[Progress, None, bytes | None]:
    """Watch a run that has been silent for a while, where there is one."""
    watching = watch_silent(path)
    while True:
        try:
            yield Progress("wait", next(watching), GONE_S, "seconds")
        except StopIteration as ended:
            silent: bytes | None = ended.value
            return silent


def _run_mending(
    plan: StoredPlan, pool: Pool, store: Store, stages: Mapping[str, Stage], thorough: bool
) -> Iterator[Progress]:
    """Run stages; where one finds that the store lacks what it should hold, take its markers back, and go on."""
    if thorough and store.fingerprint("index") is not None:
        yield from _mend(plan, store)
    for attempt in range(MENDED + 1):
        try:
            for name, stage in stages.items():
                yield from stage(plan, pool, store) if name in WRITERS else stage(plan, pool)
        except DamageError:
            mended = [*_mend(plan, store)]
            if not mended or attempt == MENDED:
                raise
            yield from mended
        else:
            return


def _mend(plan: StoredPlan, store: Store) -> Iterator[Progress]:
    """Take back what vouches for parts of the plan's layers that are missing or damaged, and say so, if any is."""
    names = [layer.name for layer in plan.layers if store.layer(layer.name).is_added]
    lost = [*mend(store, names, thorough=True)]
    if lost:
        yield Progress("mend", len(lost), len(lost), "parts", note=describe_lost(lost))
