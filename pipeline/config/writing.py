"""A configuration as TOML: its effective values and where each comes from, or every key with what it means."""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Collection, Iterator
from typing import Any

from .base import Table
from .sections import RunConfig

WIDTH = 100  # of an explained configuration, in columns
ORIGIN_COLUMN = 48  # where comments begin that say where a value comes from
UNSET = "# {key} is unset"
LINK = re.compile(r"\[([^]]+)\]\(#[^)]+\)")  # within configs/README.md


def list_values(config: RunConfig, origins: dict[str, str]) -> Iterator[str]:
    """Yield a configuration's values as lines of TOML, each with a comment that says where it comes from.

    Parameters
    ----------
    origins : dict of key to str
        Of ``table.key``; that of all others is "default".
    """
    for table, model in _list_tables(config):
        if table:
            yield from ("", f"[{table}]")
        for key in _list_keys(model, table):
            value, origin = getattr(model, key), origins.get(_full(table, key), "default")
            line = UNSET.format(key=key) if value is None else f"{key} = {to_toml(value)}"
            yield f"{line:<{ORIGIN_COLUMN}} # {origin}" if value is not None else line


def list_explained(config: RunConfig, given: Collection[str]) -> Iterator[str]:
    """Yield a configuration as lines of TOML with every key explained; those that are not given are comments."""
    for table, model in _list_tables(config):
        if table:
            yield from ("", f"[{table}]")
        for key in _list_keys(model, table):
            value, field = getattr(model, key), type(model).model_fields[key]
            meaning = LINK.sub(r'"\1" in configs/README.md', field.description or "")
            yield from textwrap.wrap(meaning, WIDTH, initial_indent="# ", subsequent_indent="# ")
            text = f"{key} =" if value is None else f"{key} = {to_toml(value)}"
            yield text if _full(table, key) in given and value is not None else f"# {text}"


def to_toml(value: Any) -> str:
    """Return a value in TOML's notation.

    >>> to_toml((("stem", "stem.conv"),)), to_toml(True), to_toml((0.5, 1)), to_toml(10_000)
    ('{"stem" = "stem.conv"}', 'true', '[0.5, 1]', '10_000')
    """
    if isinstance(value, dict) or (isinstance(value, tuple) and value and isinstance(value[0], tuple)):
        pairs = value.items() if isinstance(value, dict) else value
        return "{" + ", ".join(f"{json.dumps(key)} = {to_toml(inner)}" for key, inner in pairs) + "}"
    if isinstance(value, str) and "\\" in value and value.isprintable() and "'" not in value:
        return f"'{value}'"
    if isinstance(value, int) and value >= 10_000:
        return f"{value:_}"
    return json.dumps(value, ensure_ascii=False)


def _list_tables(config: RunConfig) -> Iterator[tuple[str, Table]]:
    """Yield the names and the models of the tables; the first has no name."""
    yield "", config
    for name in RunConfig.model_fields:
        if isinstance(value := getattr(config, name), Table):
            yield name, value


def _list_keys(model: Table, table: str) -> Iterator[str]:
    return (key for key in type(model).model_fields if table or not isinstance(getattr(model, key), Table))


def _full(table: str, key: str) -> str:
    return f"{table}.{key}" if table else key
