"""Columns to files: CSV and parquet."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from .errors import InputError

Columns = Mapping[str, np.ndarray]


def write_csv(columns: Columns, path: Path) -> None:
    """Write columns of one length as CSV (RFC 4180, UTF-8), with their names in the first line.

    Texts stand as they are: one that begins with =, +, - or @ is a formula to a spreadsheet that is told to see them.
    """
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))  # a float32 in the fewest digits that give it back


def write_parquet(columns: Columns, path: Path) -> None:
    """Write columns of one length as parquet; InputError where pyarrow is not installed."""
    if find_spec("pyarrow") is None:
        raise InputError("--format parquet needs pyarrow: pip install 'topnine[parquet]'.")
    import pyarrow as arrow
    from pyarrow import parquet

    types = {name: arrow.string() if values.dtype == object else None for name, values in columns.items()}
    parquet.write_table(arrow.table({name: arrow.array(values, types[name]) for name, values in columns.items()}), path)


WRITERS = {"csv": write_csv, "parquet": write_parquet}
