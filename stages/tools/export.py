"""A run's tables for other programs: ``topnine export``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from topnine.pipeline.errors import InputError
from topnine.pipeline.files import is_url
from topnine.pipeline.store.analysis.layer_view import LayerView
from topnine.pipeline.store.analysis.run import Run, open_run
from topnine.pipeline.store.names import quote
from topnine.pipeline.stored_plan import run_folder
from topnine.pipeline.tables import check_form, write_table

ALL_LAYERS = ("all", "every")


def export(store: str, layers: str, to: str | None = None, activations: bool = False) -> Path:
    """Write a table of the strongest activations, or of all activations, and return its path.

    Parameters
    ----------
    store : str
        Path or URL of the store.
    layers : str
        Numbers or names of layers; ``all`` = the numbered layers, ``every`` = every layer of the store. Their rows
        follow one another in one table.
    to : str, optional
        The file, whose ending is its form, ``.csv`` or ``.parquet``; a folder that does not exist is made. Default: in
        the run's folder ``tables/layer<number>.csv`` or ``tables/layer<number>-activations.parquet``.
    activations : bool
        Write a row for every image and filter (see ``LayerView.activation_table``), not for every filter and rank (see
        ``LayerView.table``).

    Raises
    ------
    InputError
        There is no such store or layer, a layer is not ranked or not mined, or ``to`` is no path of a table.
    """
    run = open_run(store)
    views = find_layers(run, layers)
    path = Path(to) if to else run_folder(store) / "tables" / default_name(views, layers, activations)
    if to and is_url(to):
        raise InputError(f"--to {to} is a URL: tables are written to files of this machine.")
    if path.is_dir():
        raise InputError(f"--to {to} is a folder: give the name of a file in it.")
    check_form(path)
    parts = list_parts(views, activations)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_table(parts, path)
    return path


def find_layers(run: Run, wanted: str) -> list[LayerView]:
    """List the layers of a run that a user names, in the order of the names; InputError where there is no such layer.

    ``all`` is every layer where none has a number.
    """
    by_name = run.layers
    if wanted in by_name:
        return [by_name[wanted]]
    words = wanted.replace(",", " ").split()
    if not words:
        raise InputError("no layer is named: --layer is a number, a name, a list of these, 'all' or 'every'.")
    numbered = [layer for layer in by_name.values() if layer.number] or [*by_name.values()]
    every = {"all": numbered, "every": [*by_name.values()]}
    found = chain.from_iterable(every[word] if word in every else [run.layer(word)] for word in words)
    views = list({view.name: view for view in found}.values())
    if not views:
        raise InputError(f"{run.path} has no layers yet: `topnine run` mines some.")
    return views


def default_name(views: Sequence[LayerView], wanted: str, activations: bool) -> str:
    """Return the name of a table's file; nothing that a store holds leads out of the folder it is in."""
    titles = "+".join(str(view.number or quote(view.name)) for view in views)
    stem = "layers" if wanted in ALL_LAYERS else f"layer{titles}"
    return f"{stem}-activations.parquet" if activations else f"{stem}.csv"


def list_parts(views: Sequence[LayerView], activations: bool) -> Iterator[dict[str, np.ndarray]]:
    """Return the parts of a table; InputError, before any is computed, where a layer is not far enough."""
    if activations:
        return chain.from_iterable([view.activation_table() for view in views])
    return iter([view.table() for view in views])
