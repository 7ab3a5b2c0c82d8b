"""Tables to files, CSV and Parquet, part by part; a file is put in its place only when it is complete."""

from __future__ import annotations

import csv
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from .errors import InputError

Columns = Mapping[str, np.ndarray]


def write_table(parts: Iterable[Columns], path: Path) -> None:
    """Write a table in the form that the path's ending names; errors as ``check_form`` and ``write_parquet``."""
    WRITERS[check_form(path)](parts, path)


def check_form(path: Path) -> str:
    """Return the ending of a table's path, ``.csv`` or ``.parquet``; InputError where it has another."""
    form = path.suffix.lower()
    if form not in WRITERS:
        raise InputError(f"{path} does not end in {' or '.join(WRITERS)}: a table's form is that of its file's name.")
    return form


def write_csv(parts: Iterable[Mapping[str, Sequence[Any] | np.ndarray]], path: Path) -> None:
    """Write a table as CSV (RFC 4180, UTF-8), with the columns' names in the first line.

    Texts are not changed: a spreadsheet may take one that begins with =, +, - or @ for a formula.

    Parameters
    ----------
    parts : iterable of mapping of str to sequence
        Consecutive rows, one part or more: columns of one length, by name, the same in every part. One part at a time
        is in memory.
    path : Path
    """
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        for number, columns in enumerate(parts):
            if number == 0:
                writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))  # a float32 in the fewest digits that identify it


def write_parquet(parts: Iterable[Columns], path: Path) -> None:
    """Write a table as Parquet, a row group for every part (see ``write_csv``).

    Raises
    ------
    InputError
        pyarrow is not installed.
    """
    if find_spec("pyarrow") is None:
        raise InputError(f"{path} needs pyarrow: pip install 'topnine[parquet]', or give a name that ends in .csv.")
    import pyarrow as arrow
    from pyarrow import parquet

    with replacing(path) as temporary, ExitStack() as open_files:
        writer = None
        for columns in parts:
            types = {name: arrow.string() if values.dtype == object else None for name, values in columns.items()}
            table = arrow.table({name: arrow.array(values, types[name]) for name, values in columns.items()})
            writer = writer or open_files.enter_context(parquet.ParquetWriter(temporary, table.schema))
            writer.write_table(table)


WRITERS: Mapping[str, Callable[[Iterable[Columns], Path], None]] = {".csv": write_csv, ".parquet": write_parquet}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield the path of a temporary file beside ``path``, which replaces ``path`` if no error is raised.

    A link is kept: the file that it leads to is replaced. A pipe or a device cannot be replaced: its own path is
    yielded, and what is written there cannot be taken back.
    """
    if path.exists() and not path.is_file():
        yield path
        return
    target = path.resolve()
    temporary = target.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        yield temporary
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
