"""Reading a configuration from TOML, with the changes of the command line, and saying what is wrong with it."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ..errors import InputError
from . import base
from .clusters import CLUSTERS
from .sections import NAMED_WEIGHTS, RunConfig

DEMO = "configs/demo.toml"
MEANT = ("network.name", "data.path")  # what a store is of: where changes name it, so does the store's name
OTHER_NAMES = {"decode.crop": "decode.size"}  # of keys


def read_config(
    path: str | None, changes: Mapping[str, str] | None = None, cluster: str | None = None, network: str | None = None
) -> RunConfig:
    """Read a configuration.

    Parameters
    ----------
    path : str or None
        A TOML file. Where ``configs/…`` is not in the current folder, the file that the package brings is read. None
        stands for the demo's; where a network is given, for none at all.
    changes : mapping, optional
        From ``table.key`` to a value in TOML's notation; a value that is not TOML is taken as text.
    cluster : str, optional
        A kind of cluster, or a TOML file with a ``[cluster]`` table that replaces the configuration's.
    network : str, optional
        The name of a network, which takes the place of the configuration's ``[network]`` table.

    Raises
    ------
    InputError
        A file that is missing or not TOML, an unknown key, a value that does not fit.
    """
    path = DEMO if path is None and network is None else path
    tables = _read_tables(path, cluster, network)
    named = network is not None or any(key in MEANT for key in changes or {})
    changed = _change_all(tables, changes or {})
    changed.setdefault("store", f"runs/{_name_store(path, changed, named)}.zarr")
    return _validate(changed, path or "no configuration")


def change_recorded(
    tables: Mapping[str, Any], store: str, changes: Mapping[str, str], cluster: str | None = None
) -> RunConfig:
    """Return the configuration that a store records, with changes and a cluster as for ``read_config``; errors, too."""
    recorded = {**tables, "cluster": {} if cluster is None else _read_cluster(cluster), "store": store}
    return _validate(_change_all(recorded, {**changes, "store": json.dumps(store)}), f"store {store}")


def _validate(tables: Mapping[str, Any], origin: str) -> RunConfig:
    try:
        return RunConfig.model_validate(tables)
    except ValidationError as error:
        raise InputError(_describe(origin, error)) from None


def _change_all(tables: Mapping[str, Any], changes: Mapping[str, str]) -> dict[str, Any]:
    changed = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    for key, value in changes.items():
        _change(changed, key, value)
    return changed


def _name_store(path: str | None, tables: Mapping[str, Any], named: bool) -> str:
    """Return the name of a run's store: the configuration's, or that of the network and the data that changes name."""
    if path is not None and not named:
        return Path(path).stem
    network, data = (tables.get(table, {}) for table in ("network", "data"))
    if not isinstance(network, dict) or not isinstance(data, dict):
        return "run"  # the configuration is refused in a moment
    return f"{_short(str(network.get('name')))}-{_short(str(data.get('path')))}"


def _short(name: str) -> str:
    """Return the last part of a path or of a function's full name, for a file's name.

    >>> _short("mypackage.models:build"), _short("s3://bucket/imagenet/val-{000..127}.tar"), _short("pictures/")
    ('models-build', 'val', 'pictures')
    """
    if ":" in name and "/" not in name:
        module, _, function = name.partition(":")
        return f"{module.rpartition('.')[2]}-{function}"
    last = name.rstrip("/").rpartition("/")[2]
    return re.split(r"[.*?{\[]", last.lstrip("."))[0].strip("-_") or "data"


def list_keys(path: str | None, cluster: str | None, network: str | None) -> dict[str, str]:
    """Return the keys that the files of ``read_config`` give, as ``table.key``, and which file gives each."""
    path = DEMO if path is None and network is None else path
    tables = _read_tables(path, cluster, network)
    keys: dict[str, str] = {}
    for name, value in tables.items():
        origin = "--cluster" if name == "cluster" and cluster is not None else path or ""
        keys |= {f"{name}.{key}": origin for key in value} if isinstance(value, dict) else {name: origin}
    return keys


def absolute(config: RunConfig) -> dict[str, Any]:
    """Return a configuration as a store records it, with absolute paths: it holds from any folder.

    What has no effect on the store is left out: who did the work, and from where the index was taken.
    """
    tables = config.model_dump(mode="json", exclude={"store": True, "cluster": True, "data": {"index"}})
    network, data = tables["network"], tables["data"]
    network["weights"] = _absolute_weights(network["weights"])
    network["checkpoints"] = [_absolute_weights(weights) for weights in network["checkpoints"]]
    if data["path"] != "photos" and "://" not in data["path"]:
        data["path"] = str(Path(data["path"]).absolute())
    for key in ("labels", "classes"):
        if data[key] and "://" not in data[key]:
            data[key] = str(Path(data[key]).absolute())
    return tables


def _absolute_weights(weights: str) -> str:
    return weights if weights in NAMED_WEIGHTS else str(Path(weights).absolute())


def _read_tables(path: str | None, cluster: str | None, network: str | None) -> dict[str, Any]:
    tables = {} if path is None else _rename(_read_toml(path))
    if network is not None:
        tables["network"] = {"name": network}
    if cluster is not None:
        tables["cluster"] = _read_cluster(cluster)
    return tables


def _rename(tables: dict[str, Any]) -> dict[str, Any]:
    """Return the tables of a file with the names of keys that this project uses."""
    renamed = {name: dict(table) if isinstance(table, dict) else table for name, table in tables.items()}
    for other, name in OTHER_NAMES.items():
        (section, old), new = other.split("."), name.split(".")[1]
        table = renamed.get(section)
        if isinstance(table, dict) and old in table:
            if new in table:
                raise InputError(f"{other} is another name of {name}: give one of them.")
            table[new] = table.pop(old)
    return renamed


def _read_cluster(cluster: str) -> Any:
    if not cluster.endswith(".toml"):
        return {"kind": cluster}
    if not _find_file(cluster).is_file():
        raise InputError(f"there is no cluster file {cluster}: CLUSTER is a kind, or a file with a [cluster] table.")
    return _read_toml(cluster).get("cluster", {})


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(_find_file(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no configuration {path}: configs/ has some to start from.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"configuration {path} cannot be read as TOML: {error}.") from None


def _find_file(path: str) -> Traversable:
    """Return the file of the current folder, or the package's own where ``configs/…`` is not there."""
    if path.startswith("configs/") and not Path(path).exists():
        packaged = resources.files("topnine").joinpath(path)
        if packaged.is_file():
            return packaged
    return Path(path)


def _change(tables: dict[str, Any], key: str, value: str) -> None:
    *sections, name = OTHER_NAMES.get(key, key).split(".")
    for section in sections:
        tables = tables.setdefault(section, {})
        if not isinstance(tables, dict):
            raise InputError(f"{key} is not a key of the configuration: {section} has no keys of its own.")
    tables[name] = _toml_value(value)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _describe(path: str, error: ValidationError) -> str:
    """Return a sentence that says what is wrong with the first value that does not fit, or with a misspelled key."""
    problems = error.errors()
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    location = [str(part) for part in problem["loc"]]
    kind = location.pop(1) if location[0] == "cluster" and len(location) > 1 else ""  # pydantic inserts the kind
    key, value = ".".join(location), problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return _describe_unknown_key(path, location, kind)
        case "union_tag_invalid":
            return f"cluster.kind = {value.get('kind')!r} does not fit ({path}): it is {', '.join(CLUSTERS)}."
        case "missing" if key == "data":
            return "no images are named: give --data, or data.path in a configuration."
        case "missing":
            return f"configuration {path} lacks {key}."
        case base.WHOLE_SENTENCE:
            return problem["msg"]
    subject = "the configuration" if isinstance(value, dict) else f"{key} = {value!r}"
    return f"{subject} does not fit ({path}): {problem['msg'].removeprefix('Value error, ')}."


def _describe_unknown_key(path: str, location: Sequence[str], kind: str) -> str:
    of_kind = f" where cluster.kind = {kind!r}" if kind else ""
    known = _list_keys(location[:-1], kind)
    similar = get_close_matches(location[-1], known, 1)
    meant = f"{similar[0]} may be meant; " if similar else ""
    key = ".".join(location)
    return f"{key} is not a key of the configuration{of_kind} ({path}): {meant}known are {', '.join(known)}."


def _list_keys(tables: Sequence[str], cluster: str) -> list[str]:
    model: Any = RunConfig
    for table in tables:
        model = CLUSTERS[cluster] if table == "cluster" else model.model_fields[table].annotation
    return sorted(model.model_fields)
