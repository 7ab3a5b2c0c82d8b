"""The strongest activations of a layer as a table, for other programs: ``topnine export``."""

from __future__ import annotations

from pathlib import Path

from pipeline.analysis import open_run
from pipeline.errors import InputError
from pipeline.plan import run_folder
from pipeline.shards.files import is_url
from pipeline.tables import WRITERS


def export(store: str, layer: str, form: str, to: str | None) -> Path:
    """Write a table of a row a filter and rank (see ``LayerView.table``); give its path.

    Parameters
    ----------
    form : str
        ``csv`` or ``parquet``.
    to : str, optional
        The file; its folder is made where there is none. ``tables/layer<N>.<form>`` in the run's folder, unless given.
    """
    view = open_run(store).layer(layer)
    to = to or str(run_folder(store) / "tables" / f"layer{view.number or view.name}.{form}")
    if is_url(to):
        raise InputError(f"--to {to} is a URL: tables are written to files of this machine.")
    path = Path(to)
    if path.is_dir():
        raise InputError(f"--to {to} is a folder: give the name of a file in it.")
    columns = view.table()
    path.parent.mkdir(parents=True, exist_ok=True)
    WRITERS[form](columns, path)
    return path
