"""The configuration that a store records, for commands that are given the store alone.

A store may come from anybody. So what it names is not opened for its word: no file, no address, no code. The user says
where these are, or that the store is to be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from topnine.pipeline.config.sections import NAMED_WEIGHTS, RunConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.timm_networks import TIMM
from topnine.pipeline.store.store import Store

# Settings that name something to be opened, and the values of them that lie in this package or are fetched by it.
OPENED = {
    "data.path": ("photos",),
    "data.classes": ("",),
    "data.labels": ("",),
    "network.name": (*ARCHITECTURES,),
    "network.weights": NAMED_WEIGHTS,
}
OPTIONS = {"data.path": "--data", "network.name": "--network", "network.weights": "--weights"}
LATER_STAGES = ("deconvolve", "rank", "mine")  # the last one has the most settings


def layer_config(store: Store, name: str, changes: Mapping[str, str]) -> RunConfig:
    """Return the configuration that a layer was mined with, from what the store recorded.

    Parameters
    ----------
    changes : mapping
        From sections and keys, as in ``data.path``, to other values.

    Raises
    ------
    InputError
        The store records no configuration that could be one.
    """
    tables: dict[str, Any] = {"cluster": {}, **store.attributes.get("configuration", {}), "store": store.path}
    fingerprints = (store.fingerprint(stage, name) for stage in LATER_STAGES)
    latest = next((fingerprint for fingerprint in fingerprints if fingerprint), {})
    settings = {key: value for key, value in latest.items() if key.split(".")[0] in LATER_STAGES}
    try:
        for key, value in {**settings, "mine.layers": name, **changes}.items():
            section, _, field = key.partition(".")
            tables[section] = {**tables[section], field: value}
        return RunConfig.model_validate(tables)
    except (ValidationError, LookupError, TypeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": repr(error)}
        what = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
        raise InputError(f"store {store.path} records no configuration that could be one: {what}.") from None


def check_named(store: Store, changes: Mapping[str, str]) -> None:
    """Check that nothing would be opened that only the store names; InputError lists what would.

    ``changes`` as for ``layer_config``.
    """
    configuration = store.attributes.get("configuration", {})
    named = {}
    for key, harmless in OPENED.items():
        section, _, field = key.partition(".")
        table = configuration.get(section)
        value = table.get(field, harmless[0]) if isinstance(table, dict) else harmless[0]
        is_timms = key == "network.name" and str(value).startswith(TIMM)  # of which only its own networks are built
        if key not in changes and value not in harmless and not is_timms:
            named[key] = value
    if named:
        listed = ", ".join(f"{key} = {str(value)[:200]!r}" for key, value in named.items())
        remedy = ", ".join(OPTIONS.get(key, f"--set {key}=…") for key in named)
        raise InputError(
            f"store {store.path} names what would be opened or run: {listed}. Say where it is ({remedy}), or give "
            "--trust if the store is yours."
        )
