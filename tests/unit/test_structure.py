"""Who may import whom, read off the source."""

import ast
from pathlib import Path

import pytest

from stages.runner import STAGES
from tests.conftest import REPOSITORY

MODULES = sorted([*(REPOSITORY / "pipeline").rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")])
ALL_STAGES = (*STAGES, "evolution", "invariance", "first_layer", "occlusion")
PURE = (
    "ranking",
    "receptive_field",
    "deconvnet",
    "figures",
    "taps",
    "decode",
    "graph",
    "stream",
    "classifier",
    "site",
    "statistics",
)


def imported(path: Path) -> set[str]:
    package = [*path.relative_to(REPOSITORY).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return found


def top_level(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_imports_go_one_way(path):
    name = path.relative_to(REPOSITORY).with_suffix("").as_posix()
    if name.startswith("pipeline/"):
        assert "stages" not in top_level(path)
    if name != "pipeline/store":
        assert "zarr" not in top_level(path)
    if name != "pipeline/plots":
        assert "matplotlib" not in top_level(path)
    if name != "pipeline/cluster":
        assert "distributed" not in top_level(path)
    if name in {f"pipeline/{pure}" for pure in PURE}:
        assert not {"pipeline.store", "pipeline.cluster", "pipeline.shards", "dask"} & imported(path)
    if name in {f"stages/{stage}" for stage in ALL_STAGES}:
        assert not {f"stages.{stage}" for stage in ALL_STAGES if not name.endswith(stage)} & imported(path)


def test_top_level_holds_what_it_should():
    kept = {"pipeline", "stages", "configs", "tests", "Makefile", "pyproject.toml", "README.md", "LICENSE"}
    found = {path.name for path in REPOSITORY.iterdir() if not path.name.startswith(".")}
    assert found - {"runs", "data", "topnine.egg-info", "build", "dist"} == kept
