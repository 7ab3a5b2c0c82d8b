"""Make again what a store lost: chunks that are missing or damaged, and what was computed from them."""

from __future__ import annotations

from collections.abc import Generator, Mapping

from topnine.pipeline.cluster.kinds import connect
from topnine.pipeline.errors import InputError
from topnine.pipeline.plan import make_plan
from topnine.pipeline.store.names import layer_path
from topnine.pipeline.store.store import Store
from topnine.pipeline.store.verification import list_marked_layers
from topnine.stages.progress import Progress
from topnine.stages.runner import STAGES, run
from topnine.stages.tools.recorded import layer_config

# An array that a stage writes: it shows that a layer came so far, also where the layer's attributes are lost.
ARRAYS = {"rank": "top_image", "statistics": "histogram", "deconvolve": "patch"}


def repair(path: str, changes: Mapping[str, str]) -> Generator[Progress, None, None]:
    """Read all of a store, and do again what is missing or damaged, with the settings that it was made with.

    Parameters
    ----------
    path : str
        The store.
    changes : mapping
        As for ``verify``.

    Raises
    ------
    InputError
        There is no such store, it has no index, or the images or the network are not what it was made from.
    """
    store = Store.open(path)
    if store.fingerprint("index") is None:
        raise InputError(f"store {path} has no index yet: there is nothing to repair.")
    for name in list_marked_layers(store):
        later = [stage for stage, array in ARRAYS.items() if store.arrays.has_file(f"{layer_path(name)}/{array}")]
        plan = make_plan(layer_config(store, name, changes))
        with connect(plan.config.cluster) as pool:
            yield from run(plan, pool, {stage: STAGES[stage] for stage in ("index", "mine", *later)}, thorough=True)
