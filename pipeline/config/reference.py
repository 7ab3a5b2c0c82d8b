"""The reference of every key as Markdown; ``python -m topnine.pipeline.config.reference FILE`` renews it in a file."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from .base import Table
from .clusters import CLUSTERS
from .sections import Band, Byte, Limits, RunConfig, Side
from .writing import to_toml

BEGIN, END = "<!-- keys -->", "<!-- /keys -->"
HEADER = "| key | values | default | meaning |\n|---|---|---|---|"
PAIRS = tuple[tuple[str, str], ...]  # what a TOML table of texts is read as
DERIVED = {"store": "`runs/<file name>.zarr`"}  # defaults that follow from the configuration's file
TYPE_NAMES = {
    str: "text",
    int: "whole number",
    float: "number",
    bool: "`true` or `false`",
    tuple[str, ...]: "list of texts",
    tuple[float, ...]: "list of numbers",
    tuple[Byte, ...]: "list of whole numbers, ≥ 0, ≤ 255",
    tuple[Band, ...]: "list of whole numbers, ≥ 0, ≤ 4,096",
    tuple[Side, Side]: "whole number, or two, ≥ 0, ≤ 16,384",
    Side | tuple[Side, Side]: "whole number, or two, ≥ 0, ≤ 16,384",
    tuple[Limits, ...]: "two numbers, or a list of pairs",
    PAIRS: "table of texts",
}
BOUNDS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}


def describe_keys() -> str:
    """Return every key of the configuration as Markdown: a heading and a table of keys for each of its tables."""
    return "\n\n".join(_list_sections())


def replace_keys(text: str) -> str:
    """Return a text with the reference of every key between its two markers."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"there is no {BEGIN} followed by {END}")
    return f"{before}{BEGIN}\n\n{describe_keys()}\n\n{END}{after}"


def _list_sections() -> Iterator[str]:
    fields = RunConfig.model_fields
    plain = {name: field for name, field in fields.items() if name != "cluster" and not _is_table(field)}
    yield _section("Outside of any table", "These keys stand before the first table of the file.", plain)
    for name, field in fields.items():
        if _is_table(field):
            table: Any = field.annotation
            yield _section(f"`[{name}]`", table.__doc__, table.model_fields)
    for kind, cluster in CLUSTERS.items():
        keys = dict(sorted(cluster.model_fields.items(), key=lambda item: item[0] != "kind"))  # kind comes first
        yield _section(f'`[cluster]` with `kind = "{kind}"`', cluster.__doc__ or "", keys)


def _is_table(field: FieldInfo) -> bool:
    return isinstance(field.annotation, type) and issubclass(field.annotation, Table)


def _section(title: str, summary: str, fields: dict[str, FieldInfo]) -> str:
    return "\n".join([f"### {title}\n\n{summary}\n", HEADER, *(_row(name, field) for name, field in fields.items())])


def _row(name: str, field: FieldInfo) -> str:
    default = DERIVED.get(name) or _default(field)
    cells = [f"`{name}`", _values(field), default, field.description or ""]
    return f"| {' | '.join(cells)} |"


def _values(field: FieldInfo) -> str:
    """Return which values a key takes: its choices, or its type and bounds."""
    annotation: Any = field.annotation
    if get_origin(annotation) is UnionType and annotation not in TYPE_NAMES:
        (annotation,) = (option for option in get_args(annotation) if option is not NoneType)
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{to_toml(choice)}`" for choice in get_args(annotation))
    return ", ".join([TYPE_NAMES[annotation], *_bounds(field)])


def _bounds(field: FieldInfo) -> Iterator[str]:
    for constraint in field.metadata:
        for name, symbol in BOUNDS.items():
            if (bound := getattr(constraint, name, None)) is not None:
                yield f"{symbol} {_number(bound)}"


def _number(number: float) -> str:
    """Return a number as text for readers.

    >>> _number(1_048_576), _number(0.5), _number(2**63)
    ('1,048,576', '0.5', '2^63')
    """
    if isinstance(number, int) and number > 10**12 and number.bit_count() == 1:
        return f"2^{number.bit_length() - 1}"
    return f"{number:,}"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is None:
        return "unset"
    return f"`{to_toml(dict(field.default) if field.annotation == PAIRS else field.default)}`"


def main(path: str) -> None:
    """Renew the reference of every key in a Markdown file."""
    file = Path(path)
    file.write_text(replace_keys(file.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
