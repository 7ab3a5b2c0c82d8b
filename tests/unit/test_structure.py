"""The layout: who may import whom, how full a folder is, and what the installed package holds; read off the source."""

import ast
import os
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from topnine.stages.runner import STAGES

MODULES = sorted([*(REPOSITORY / "pipeline").rglob("*.py"), *(REPOSITORY / "stages").rglob("*.py")])

# What a package of pipeline may import of the others; the modules at the top of pipeline are named one by one.
IMPORTS = {
    "config": {"errors"},
    "data": {"durable", "errors", "config", "files", "prefetch"},
    "network": {"errors", "config"},
    "compute": {"errors", "config", "data", "network", "ranking", "prefetch", "machine"},
    "ranking": set(),
    "store": {"buckets", "drawing", "durable", "errors", "files", "ranking"},
    "cluster": {"errors", "config", "machine"},
    "drawing": {"errors", "tables"},
    "errors": set(),
    "machine": set(),
    "prefetch": set(),
    "durable": set(),
    "buckets": {"errors"},
    "files": {"buckets", "durable", "errors"},
    "tables": {"errors"},
    "fingerprints": {"compute", "config", "data", "files", "network", "ranking"},
    "plan": {"compute", "config", "data", "errors", "files", "fingerprints", "network", "store", "stored_plan"},
    "stored_plan": {"config", "data", "errors", "files", "fingerprints", "network", "store"},
}

# Libraries that are imported in one place, and where.
LIBRARIES = {
    "torch": {"pipeline/network", "pipeline/compute", "pipeline/data/decoding/resizing.py"},
    "torchvision": {"pipeline/network", "pipeline/compute"},
    "safetensors": {"pipeline/network"},
    "simplejpeg": {"pipeline/data/decoding/jpeg.py"},
    "tifffile": {"pipeline/data"},
    "imagecodecs": {"pipeline/data"},
    "zarr": {"pipeline/store"},
    "zarrs": {"pipeline/store/arrays.py"},
    "threadpoolctl": {"stages/statistics.py"},
    "distributed": {"pipeline/cluster"},
    "dask": {"pipeline/cluster"},
    "dask_jobqueue": {"pipeline/cluster"},
    "obstore": {"pipeline/buckets.py"},
    "botocore": {"pipeline/buckets.py"},
    "matplotlib": {"pipeline/drawing"},
    "pyarrow": {"pipeline/data", "pipeline/tables.py"},
    "typer": {"stages/cli"},
    "rich": {"stages/cli"},
}
NUMPY_ONLY = {"numpy"}  # and the standard library: what ranking imports

# Stages draw with torch's tensors where a figure of the paper needs what no array of the store has.
TENSORS_IN_STAGES = {
    "stages/paper/invariance.py": {"torch"},
    "stages/paper/occlusion.py": {"torch"},
}
STAGE_MODULES = {*(f"topnine.stages.{name}" for name in STAGES if name != "gallery"), "topnine.stages.gallery.stage"}
MOST_MODULES = 12  # of a folder


def imported(path: Path) -> set[str]:
    """The modules that a module imports, relative ones made absolute."""
    package = ["topnine", *path.relative_to(REPOSITORY).parts[:-1]]
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


def relative(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def part(name: str) -> str:
    """The package or top module of pipeline that a dotted name is in."""
    return name.split(".")[2]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_packages_import_only_what_the_table_says(path):
    names = {name for name in imported(path) if name.startswith("topnine.")}
    if relative(path).startswith("pipeline/"):
        assert not [name for name in names if name.startswith("topnine.stages")]
        own = path.relative_to(REPOSITORY / "pipeline").parts[0].removesuffix(".py")
        others = {part(name) for name in names if name.startswith("topnine.pipeline.")} - {own, "__init__"}
        if own != "__init__":
            assert others <= IMPORTS[own]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_libraries_are_imported_where_the_table_says(path):
    libraries = {name.split(".")[0] for name in imported(path)} - {"topnine"}
    for library, places in LIBRARIES.items():
        if library in libraries and library not in TENSORS_IN_STAGES.get(relative(path), set()):
            assert any(relative(path).startswith(place) for place in places)
    if relative(path).startswith("pipeline/ranking/"):
        assert libraries - set(sys.stdlib_module_names) <= NUMPY_ONLY


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_no_module_uses_the_private_side_of_zarr(path):
    assert not [name for name in imported(path) if name.startswith("zarr.core")]


@pytest.mark.parametrize("path", MODULES, ids=relative)
def test_stages_do_not_import_one_another(path):
    own = "topnine." + relative(path).removesuffix(".py").replace("/", ".")
    if own in STAGE_MODULES or own.startswith(("topnine.stages.paper.", "topnine.stages.tools.")):
        others = {name for name in STAGE_MODULES if name != own}
        assert not others & imported(path)


def test_no_folder_is_crowded():
    folders = {path.parent for path in MODULES}
    counts = {relative(folder): len([*folder.glob("*.py")]) - 1 for folder in folders}  # less its __init__
    assert {folder: count for folder, count in counts.items() if count > MOST_MODULES} == {}


def test_top_level_holds_what_it_should():
    kept = {"pipeline", "stages", "configs", "tests", "Makefile", "pyproject.toml", "README.md", "LICENSE"}
    names = {path.name for path in REPOSITORY.iterdir() if not path.name.startswith(".")}
    assert names - {"runs", "data", "topnine.egg-info", "build", "dist"} == kept


def test_docstrings_say_what_comes_back():
    openings = {}
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            text = ast.get_docstring(node) if isinstance(node, ast.FunctionDef | ast.ClassDef) else None
            if text and text.split()[0] in ("Give", "Gives", "Tell", "Tells"):
                openings[f"{relative(path)}:{node.lineno}"] = text.splitlines()[0]
    assert openings == {}


# -- the wheel --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, check=True)
    for name in listed.stdout.decode().splitlines():
        if (REPOSITORY / name).exists() or (REPOSITORY / name).is_symlink():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-P", REPOSITORY / name, source / name], check=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, source]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    (path,) = folder.glob("*.whl")
    return path


@pytest.mark.slow
def test_the_wheel_holds_the_package_and_no_tests(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"topnine/{relative(path)}" for path in MODULES}
    assert modules <= names
    assert {"topnine/__init__.py", "topnine/py.typed", "topnine/configs/demo.toml"} <= names
    assert {f"topnine/{relative(path)}" for path in (REPOSITORY / "stages/gallery/site").iterdir()} <= names
    assert "topnine/pipeline/network/architectures/tiny_zfnet.safetensors" in names
    assert {f"topnine/configs/cluster/{path.name}" for path in (REPOSITORY / "configs/cluster").glob("*.toml")} <= names
    others = {name for name in names if not name.startswith("topnine/") and ".dist-info/" not in name}
    assert others == set()
    assert not [name for name in names if "test" in Path(name).name or "conftest" in name]


@pytest.mark.slow
def test_the_installed_wheel_runs_the_demo_without_the_repository(wheel, tmp_path):
    """In an environment of its own, which has this one's libraries but not this checkout."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    theirs = sysconfig.get_path("purelib")
    (site / "libraries.pth").write_text(
        f"{theirs}\n"
    )  # .pth files in there, of which one is the checkout's, do not count
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", site, wheel], check=True,
        capture_output=True,
    )  # fmt: skip
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    folder = tmp_path / "empty"
    folder.mkdir()

    def run(*command, code=0):
        finished = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert finished.returncode == code, finished.stderr
        return finished.stdout

    where = run(python, "-c", "import topnine; print(topnine.__file__)")
    assert where.startswith(str(site))
    for name in ("pipeline", "stages", "tests"):
        assert run(python, "-c", f"import importlib.util as u; print(u.find_spec({name!r}))") == "None\n"
    printed = run(python, "-m", "topnine", "run", "--layer", "5", "--cluster", "local")
    assert printed.splitlines()[-1] == "runs/demo/figures/layer5.png"
    assert (folder / "runs/demo/figures/layer5.png").is_file()
    run(python, "-m", "topnine", "gallery")
    assert (folder / "runs/demo/gallery/page.js").is_file()
    script = "from topnine import open_run; print(open_run('runs/demo.zarr').layer(5).top(filter=0)[0].key)"
    assert run(python, "-c", script).strip()


def test_one_command_is_installed_and_its_module_is_there():
    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"topnine": "topnine.stages.cli.main:main"}
