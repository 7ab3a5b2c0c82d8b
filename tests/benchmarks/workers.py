"""Workers that share one fast GPU, simulated: how many processes hand over as many images as the threads decode.

Decoding an image takes 2 ms, in which it does not hold Python's lock, and the network costs nothing. So 16 threads
could do 8,000 images/s, whether they are of one process or of several. Each worker loads this module as a Dask preload.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dask
import numpy as np

from tests.benchmarks.measure import Row, at_least, in_turn, reported
from tests.benchmarks.mining import mined, nothing, planned, repeated
from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.compute.activations import Forward
from topnine.pipeline.data import images
from topnine.pipeline.data.decoding.decode import Decoded, decode
from topnine.pipeline.data.decoding.preparation import Preparation
from topnine.pipeline.store.store import Store

THREADS = 16  # of all processes together
DECODING_S = 2e-3  # an image
PROCESSES = (1, 2, 4)
RECOMMENDED = 2
NAPS = 1000  # of each thread that only sleeps
TASKS = 4  # of equal size, so that none of the processes is idle while others work
TIMES = 128  # that the 500 photographs are mined

_decoded: list[Decoded] = []  # the first image, in place of all others


def sleep_and_decode(data: bytes, preparation: Preparation, out: np.ndarray | None = None) -> Decoded:
    """Return the first image that was decoded, after as long as decoding takes where nothing else is to be done."""
    if not _decoded:
        _decoded.append(decode(data, preparation, out))
    time.sleep(DECODING_S)
    return _decoded[0]


def dask_setup(worker: Any) -> None:
    """Have a worker sleep in place of decoding, and compute nothing."""
    images.decode = sleep_and_decode
    Forward.run_batch = nothing  # type: ignore[assignment, method-assign]


def sleep() -> None:
    """Sleep in as many threads, and do nothing else."""

    def nap(_: int) -> None:
        for _ in range(NAPS):
            time.sleep(DECODING_S)

    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(nap, range(THREADS)))


def worker_rows(data: Path, folder: Path, rounds: int) -> Iterator[Row]:
    """Compare mining in one, two and four processes with what their threads could decode."""
    many = repeated(data, folder / "shared", TIMES)
    ways = {}
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.preload": [__name__]}))
        for number in PROCESSES:
            options = {"kind": "local", "maximum": number, "threads": THREADS // number}
            settings = {f"cluster__{key}": value for key, value in options.items()}
            plan = planned(folder, many, mine__block=1000, mine__span=TIMES // 2 // TASKS, mine__batch=256, **settings)
            pool = stack.enter_context(connect(plan.config.cluster))
            ways[str(number)] = partial(mined, plan, pool)
        took = in_turn({**ways, "asleep": sleep}, rounds)
    asleep = THREADS * NAPS / took.pop("asleep")
    count = len(Store.open(plan.config.store).images)
    for name, seconds in took.items():
        could = THREADS / DECODING_S
        detail = (
            f"{count / seconds:,.0f} of {could:,.0f} images/s, {THREADS // int(name)} threads in each; threads that "
        )
        detail += f"only sleep, {asleep:,.0f}"
        title = f"mine in {name} process{'es' * (name != '1')} on one GPU, simulated, of what 16 threads decode"
        row = at_least if int(name) == RECOMMENDED else lambda title, ratio, _, detail: reported(title, ratio, detail)
        yield row(title, count / seconds / could, 0.9, detail)
