"""A Dask preload for workers under test: logs every block that is mined, and makes a chosen one fail.

``DASK_DISTRIBUTED__WORKER__PRELOAD='["tests.faults"]'`` has every worker of a run load it.
"""

import ctypes
import os
import signal

import numpy as np

from topnine.stages import mine as stage

write_block = stage.write_block


def fill_memory() -> None:
    held = []
    while True:
        held.append(np.ones(2**24))


FAULTS = {
    "raise": lambda: np.ones(3).reshape(2),
    "exhaust": lambda: np.ones((2**40, 2**10)),
    "kill": lambda: os.kill(os.getpid(), signal.SIGKILL),
    "segfault": lambda: ctypes.string_at(0),
    "fill": fill_memory,
}


def write_logged_block(store, block, result):
    with open(os.environ["TOPNINE_TEST_LOG"], "a") as log:
        log.write(f"{block}\n")
    fault, _, culprit = os.environ.get("TOPNINE_TEST_FAULT", "").partition(" ")
    if fault and block == int(culprit):
        FAULTS[fault]()
    write_block(store, block, result)


def dask_setup(worker):
    stage.write_block = write_logged_block
