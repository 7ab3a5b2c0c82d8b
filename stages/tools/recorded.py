"""The configuration that a store records, for commands that are given the store alone.

A store may come from anybody. So what it names is not opened for its word: no file, no address, no code. It is opened
where this user's own run made the store with it, which is remembered outside of the store, or where the user says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from topnine.pipeline.config.reading import absolute, change_recorded
from topnine.pipeline.config.sections import NAMED_WEIGHTS, RunConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.files import is_url
from topnine.pipeline.network.registry import ARCHITECTURES
from topnine.pipeline.network.timm_networks import TIMM
from topnine.pipeline.store.store import Store

logger = logging.getLogger(__name__)

# Settings that name something to be opened, and the values of them that lie in this package or are fetched by it.
OPENED: Mapping[str, tuple[Any, ...]] = {
    "data.path": ("photos",),
    "data.classes": ("",),
    "data.labels": ("",),
    "network.name": (*ARCHITECTURES,),
    "network.weights": NAMED_WEIGHTS,
    "network.checkpoints": ([],),
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
    tables: dict[str, Any] = {"cluster": {}, **recorded_tables(store, name), "store": store.path}
    try:
        for key, value in {"mine.layers": name, **changes}.items():
            section, _, field = key.partition(".")
            tables[section] = {**tables[section], field: value}
        return RunConfig.model_validate(tables)
    except (ValidationError, LookupError, TypeError) as error:
        raise _no_configuration(store, error) from None


def store_config(store: Store, changes: Mapping[str, str], cluster: str | None = None) -> RunConfig:
    """Return the configuration that a store records, with changes in TOML's notation: see ``reading.read_config``.

    Its layers are those of the store, unless others are named; the settings of later stages are those that the first of
    these was made with.

    Raises
    ------
    InputError
        The store records no configuration, or a change does not fit.
    """
    layers = store.layers
    named = changes.get("mine.layers", "").strip('"').replace(",", " ").split()
    first = next((name for name in layers if {name, str(store.layer(name).attributes["number"])} & {*named}), None)
    tables = recorded_tables(store, first or next(iter(layers), ""))
    if layers:
        tables["mine"] = {**tables.get("mine", {}), "layers": " ".join(layers)}
    if not isinstance(tables.get("network"), dict) or not isinstance(tables.get("data"), dict):
        raise _no_configuration(store, LookupError("network, data"))
    return change_recorded(tables, store.path, changes, cluster)


def recorded_tables(store: Store, name: str) -> dict[str, Any]:
    """Return the tables that a store records, with the settings of the stages that a layer was made with since."""
    tables: dict[str, Any] = dict(store.attributes.get("configuration", {}))
    fingerprints = (store.fingerprint(stage, name) for stage in LATER_STAGES) if name else iter(())
    latest = next((fingerprint for fingerprint in fingerprints if fingerprint), {})
    for key, value in latest.items():
        section, _, field = key.partition(".")
        if section in LATER_STAGES:
            table = tables.get(section)
            tables[section] = {**(table if isinstance(table, dict) else {}), field: value}
    return tables


def _no_configuration(store: Store, error: Exception) -> InputError:
    first = error.errors()[0] if isinstance(error, ValidationError) else {"loc": (), "msg": repr(error)}
    what = f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
    return InputError(f"store {store.path} records no configuration that could be one: {what}.")


def check_named(store: Store, changes: Mapping[str, str]) -> None:
    """Check that nothing would be opened that only the store names; InputError lists what would.

    ``changes`` as for ``layer_config``.
    """
    configuration, remembered = store.attributes.get("configuration", {}), _recall(store.path)
    named = {}
    for key, harmless in OPENED.items():
        value = _value(configuration, key, harmless[0])
        is_timms = key == "network.name" and str(value).startswith(TIMM)  # of which only its own networks are built
        is_known = key in remembered and remembered[key] == value
        if key not in changes and value not in harmless and not is_timms and not is_known:
            named[key] = value
    if named:
        listed = ", ".join(f"{key} = {str(value)[:200]!r}" for key, value in named.items())
        remedy = ", ".join(OPTIONS.get(key, f"--set {key}=…") for key in named)
        raise InputError(
            f"store {store.path} names what would be opened or run: {listed}. Say where it is ({remedy}), or give "
            "--trust if the store is yours."
        )


def remember(config: RunConfig) -> None:
    """Remember, outside of the store, what a run of this user opens for its store: it may be opened again."""
    tables, path = absolute(config), _memory(config.store)
    opened = {key: _value(tables, key, harmless[0]) for key, harmless in OPENED.items()}
    partial = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps({"store": config.store, **opened}), encoding="utf-8")
        os.replace(partial, path)
    except OSError as error:  # a home that cannot be written: the user is asked then
        logger.debug("%s cannot be written: %s", path, error)


def _recall(store: str) -> dict[str, Any]:
    try:
        remembered = json.loads(_memory(store).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return remembered if isinstance(remembered, dict) else {}


def _memory(store: str) -> Path:
    """Return the file in the user's own folder that remembers what a store was made from."""
    place = store.rstrip("/") if is_url(store) else os.path.realpath(store)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
    return state / "topnine" / "stores" / f"{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()}.json"


def _value(tables: Any, key: str, otherwise: Any) -> Any:
    section, _, field = key.partition(".")
    table = tables.get(section) if isinstance(tables, dict) else None
    return table.get(field, otherwise) if isinstance(table, dict) else otherwise
