import re
import shutil
import tomllib
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic.fields import FieldInfo

from tests.conftest import REPOSITORY
from topnine.pipeline.config.base import Table
from topnine.pipeline.config.clusters import CLUSTERS, ClusterConfig
from topnine.pipeline.config.reference import BEGIN, END, describe_keys, main, replace_keys
from topnine.pipeline.config.sections import RunConfig

README = REPOSITORY / "configs/README.md"
COMMAND = "python -m topnine.pipeline.config.reference configs/README.md"


def list_fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """Yield heading, key and field of everything that a configuration can set."""
    for name, field in RunConfig.model_fields.items():
        model: Any = field.annotation
        if isinstance(model, type) and issubclass(model, Table):
            yield from ((f"`[{name}]`", key, inner) for key, inner in model.model_fields.items())
        elif name != "cluster":
            yield "Outside of any table", name, field
    for kind, model in CLUSTERS.items():
        heading = f'`[cluster]` with `kind = "{kind}"`'
        yield from ((heading, key, field) for key, field in model.model_fields.items())


def read_rows() -> dict[tuple[str, str], list[str]]:
    """Return the cells of every row of the reference by heading and key."""
    rows: dict[tuple[str, str], list[str]] = {}
    for section in describe_keys().split("### ")[1:]:
        heading, *lines = section.splitlines()
        for line in lines:
            if line.startswith("| `"):
                key, *cells = (cell.strip() for cell in line.strip("|").split(" | "))
                rows[heading, key.strip("` ")] = cells
    return rows


ROWS = read_rows()
FIELDS = list(list_fields())


def test_the_readme_has_the_reference_as_it_is_generated():
    text = README.read_text(encoding="utf-8")
    assert text == replace_keys(text), f"configs/README.md does not list the keys as they are now. Run: {COMMAND}"


def test_the_command_renews_a_reference_and_nothing_else(tmp_path):
    copy = tmp_path / "README.md"
    shutil.copy(README, copy)
    text = copy.read_text(encoding="utf-8")
    copy.write_text(re.sub(f"{BEGIN}.*{END}", f"{BEGIN} old {END}", text, flags=re.DOTALL), encoding="utf-8")
    main(str(copy))
    assert copy.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("text", ["", BEGIN, END, f"{END} {BEGIN}"])
def test_a_text_without_markers_is_refused(text):
    with pytest.raises(ValueError, match=f"there is no {BEGIN} followed by {END}"):
        replace_keys(text)


def test_every_key_has_one_row_and_no_row_is_without_a_key():
    assert set(ROWS) == {(heading, key) for heading, key, _ in FIELDS}
    assert all(len(cells) == 3 and all(cells) for cells in ROWS.values())


def test_every_kind_of_cluster_is_in_the_reference():
    assert set(CLUSTERS.values()) == set(get_args(ClusterConfig))


@pytest.mark.parametrize(("heading", "key", "field"), FIELDS, ids=[f"{heading}-{key}" for heading, key, _ in FIELDS])
def test_every_key_is_explained_by_whole_sentences(heading, key, field):
    assert re.fullmatch(r"[A-Z`0-9].{10,}\.", field.description or "")
    assert "|" not in field.description


@pytest.mark.parametrize(("heading", "key", "field"), FIELDS, ids=[f"{heading}-{key}" for heading, key, _ in FIELDS])
def test_a_default_in_the_reference_is_toml_for_the_default(heading, key, field):
    default = ROWS[heading, key][1]
    if field.is_required():
        assert default == "required" or key == "store"
    elif field.default is None:
        assert default == "unset"
    else:
        value = tomllib.loads(f"value = {default.strip('`')}")["value"]
        assert (tuple(value) if isinstance(value, list | dict) else value) == field.default


def test_choices_and_bounds_are_listed():
    assert ROWS["`[rank]`", "distinct"][0] == '`"image"`, `"place"`, `"source"`, `"look"`'
    assert ROWS["`[mine]`", "batch"][0] == "whole number, ≥ 1, ≤ 65,536"
    assert ROWS["`[tile]`", "quantile"][0] == "number, > 0, ≤ 1"
    assert ROWS["`[tile]`", "seed"][0] == "whole number, ≥ 0, < 2^63"
    assert ROWS["`[network]`", "mean"][:2] == ["list of numbers", "unset"]
    assert ROWS["`[network]`", "layers"][:2] == ["table of texts", "`{}`"]
    assert ROWS['`[cluster]` with `kind = "local"`', "minimum"][0] == "whole number, ≥ 0, ≤ 10,000"
    assert ROWS["Outside of any table", "store"][1] == "`runs/<file name>.zarr`"
