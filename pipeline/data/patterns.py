"""What ``data.path`` may be: a path, a URL, a pattern of them, or a list of them; and the order of their names."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from itertools import product

from .. import files
from ..errors import InputError

ACCEPTED_PATHS = (
    "a folder of .tar or .parquet shards, of class folders or images; one shard; a .txt list; a pattern; or 'photos'"
)
MAX_SHARDS = 1_000_000  # that one pattern may stand for


def natural_order(name: str) -> list[tuple[int, str]]:
    """Return a sort key that compares numbers in names by their value: shard-9 comes before shard-10.

    >>> sorted(["shard-10.tar", "shard-9.tar"], key=natural_order)
    ['shard-9.tar', 'shard-10.tar']
    """
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def expand_path(path: str) -> list[str]:
    """List the paths or URLs that ``data.path`` stands for, in no particular order.

    A ``.txt`` file holds one of them a line, braces allowed; lines that begin with # are comments. What exists under
    exactly this name is not taken for a pattern. Not all of the paths need to exist.

    Raises
    ------
    InputError
        There is no such list, or the pattern stands for too many paths.
    """
    if path.endswith(".txt"):
        lines = [line.strip() for line in files.read_text(path).splitlines()]
        return [name for line in lines if line and not line.startswith("#") for name in expand_braces(line)]
    if files.exists(path):
        return [path]
    expanded = expand_braces(path)
    if any(set(pattern) & set("*?[") for pattern in expanded):
        return [name for pattern in expanded for name in files.list_matching(pattern)]
    return expanded


def expand_braces(pattern: str) -> list[str]:
    """List the names that a pattern's ranges and lists in braces stand for; InputError if they are too many.

    >>> expand_braces("s-{08..10}.{tar,TAR}")
    ['s-08.tar', 's-08.TAR', 's-09.tar', 's-09.TAR', 's-10.tar', 's-10.TAR']
    """
    parts = re.split(r"\{([^{}]*)\}", pattern)  # text and the inside of braces in turn
    choices = [[part] if i % 2 == 0 else _choices(part) for i, part in enumerate(parts)]
    if math.prod(map(len, choices)) > MAX_SHARDS:
        raise InputError(f"{pattern[:80]} stands for more than {MAX_SHARDS:,} shards: data.path is {ACCEPTED_PATHS}.")
    return ["".join(chosen) for chosen in product(*choices)]


def _choices(inside: str) -> Sequence[str]:
    """List what the inside of braces stands for; of a range that is too long, one more than is allowed."""
    range_match = re.fullmatch(r"(\d{1,12})\.\.(\d{1,12})", inside)
    if not range_match:
        return inside.split(",")
    first, last = range_match.groups()
    numbers = range(int(first), min(int(last), int(first) + MAX_SHARDS) + 1)
    return [str(number).zfill(len(first)) for number in numbers]
