"""A Dask preload for workers under test: they have a GPU that they share, which the driver does not have.

Dask's setting ``distributed.worker.preload`` has every worker of a run load it.
"""

from tests.watched import Account, Watched
from topnine.pipeline.compute import devices


def dask_setup(worker):
    Watched.account = Account()
    devices.KINDS["cuda"] = Watched
