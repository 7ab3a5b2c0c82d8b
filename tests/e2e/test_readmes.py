"""Every README: its commands run, or at least their options are known; its snippets, links and lists are right.

A command is a line of a ``sh`` or ``crontab`` block, or a code span of at least two words that begins with a program.
``RULES`` is the one table of what cannot be run as it stands. Everything else is run, in the folder of a finished demo.
"""

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pytest
import safetensors.torch
import torch
import typer
import yaml
from PIL import Image
from pydantic import BaseModel
from torch import nn
from torchvision.models import squeezenet1_0

from tests import forms
from tests.conftest import REPOSITORY, encode, noise
from tests.forms import Picture
from topnine.pipeline.config import clusters
from topnine.pipeline.config.sections import RunConfig
from topnine.pipeline.store.store import Store
from topnine.stages.cli.main import app, main
from topnine.stages.cli.options import RunOptions

FOLDERS = ("configs", "pipeline", "stages", "tests")
READMES = [REPOSITORY / "README.md"] + [
    path for name in FOLDERS for path in sorted((REPOSITORY / name).rglob("README.md"))
]
PROGRAMS = ("topnine", "make", "sbatch", "pip", "python")
README_BYTES = 6000  # of the one at the top

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
SPAN = re.compile(r"`([^`\n]+)`")
REDIRECTION = re.compile(r"\s(>>? \S+|2>&1)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
KEY = re.compile(r"(network|data|decode|mine|rank|deconvolve|tile|gallery|cluster)\.(?!py$|js$|toml$)([a-z_]+)( = .*)?")

PICTURES = [Picture(f"n{i % 3:08d}_{i}", f"n{i % 3:08d}", i % 3, encode(noise(i), "JPEG")) for i in range(12)]


class Found(NamedTuple):
    """A command or a block, where it stands."""

    readme: Path
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.readme.relative_to(REPOSITORY)}:{self.line} {' '.join(self.text.split())[:60]}"


# -- what commands need that is not here ------------------------------------------------------------------------------


def training_tar(folder: Path) -> None:
    forms.training_tar(PICTURES, folder).get("path").rename(folder / "ILSVRC2012_img_train.tar")


def validation_tar(folder: Path) -> None:
    forms.validation_tar(PICTURES, folder)["path"].rename(folder / "ILSVRC2012_img_val.tar")
    (folder / "truth.txt").write_text("".join(f"{picture.label}\n" for picture in PICTURES))


def webdataset(folder: Path) -> None:
    for i in range(128):
        forms.write_tar(
            folder / f"shards/val-{i:06d}.tar", [(f"{i}.jpg", PICTURES[i % 12].data), (f"{i}.cls", b"%d" % (i % 3))]
        )


def shard_list(folder: Path) -> None:
    webdataset(folder)
    (folder / "shards.txt").write_text("shards/val-000000.tar\nshards/val-000001.tar\n")


def class_folders(folder: Path) -> None:
    (folder / "imagenet").mkdir()
    forms.class_folders(PICTURES, folder)["path"].rename(folder / "imagenet/val")


def tiny_imagenet(folder: Path) -> None:
    (folder / "tiny-imagenet-200").mkdir()
    forms.flat_folder(PICTURES, folder)["path"].rename(folder / "tiny-imagenet-200/val")
    images = list((folder / "tiny-imagenet-200/val").iterdir())
    (folder / "tiny-imagenet-200/val/images").mkdir()
    for image in images:
        image.rename(folder / "tiny-imagenet-200/val/images" / image.name)
    lines = "".join(f"{image.name}\tn0{number}\t0\t0\t9\t9\n" for number, image in enumerate(images))
    (folder / "tiny-imagenet-200/val/val_annotations.txt").write_text(lines)


def pictures(folder: Path) -> None:
    forms.flat_folder(PICTURES, folder)["path"].rename(folder / "pictures")


def hugging_face(folder: Path) -> None:
    forms.hugging_face(PICTURES, folder / "imagenet-1k/data")["path"]
    (folder / "imagenet-1k/data/train-00000.parquet").rename(folder / "imagenet-1k/data/validation-00000.parquet")


def squeezenet(folder: Path) -> None:
    class_folders(folder)
    torch.manual_seed(0)
    safetensors.torch.save_file(squeezenet1_0().state_dict(), folder / "squeezenet1_0.safetensors")


NETWORK = """
from collections import OrderedDict
from torch import nn

def build():
    stem = nn.Sequential(OrderedDict(conv=nn.Conv2d(3, 8, 7, 2), relu=nn.ReLU()))
    blocks = nn.Sequential(*(nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU()) for _ in range(12)))
    return nn.Sequential(OrderedDict(stem=stem, blocks=blocks))
"""


def own_network(folder: Path) -> None:
    """The package, weights and images of the configuration in the README, which is written to ``mine.toml``."""
    class_folders(folder)
    (folder / "mypackage").mkdir()
    (folder / "mypackage/models.py").write_text(NETWORK)
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    module: nn.Module = namespace["build"]()
    safetensors.torch.save_file(module.state_dict(), folder / "trained.safetensors")
    (snippet,) = [found.text for found in blocks(REPOSITORY / "README.md", "toml")]
    (folder / "mine.toml").write_text(snippet)


def other_network(folder: Path) -> None:
    """A second configuration whose layer 1 is ranked: the same demo, in another store."""
    demo = (folder / "configs/demo.toml").read_text()
    (folder / "other.toml").write_text(demo.replace('"bundled"', '"random"').replace('"5"', '"1"'))


# -- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rule:
    """How the commands that a pattern matches are tried; the first that matches counts.

    Attributes
    ----------
    unrun : str
        Why they are not run but only parsed.
    make : callable
        They are run in a folder of their own, in which this makes the data that they name.
    before : tuple of str
        Commands that have to be run before.
    extra : str
        More options, with which they take seconds.
    """

    pattern: str
    unrun: str = ""
    make: Callable[[Path], None] | None = None
    before: tuple[str, ...] = ()
    extra: str = ""
    slow: bool = False


CHECKPOINTS = '["a.safetensors", "b.safetensors"]'
QUICK = "--layer 1"  # the last of several counts

NAME = "it only names a command"
MINUTES = "this test is one of them, or they take minutes"

RULES = [
    Rule(r"^make (test|test-all|lint|fuzz|torture|families|bench|bench-gpu|setup|clean)\b", unrun=MINUTES),
    Rule(r"^(\S*/)?pip ", unrun="nothing is installed in a test"),
    Rule(r"^(\S*/)?python -m (pytest|tests\.)", unrun=MINUTES),
    Rule(r"^(python -m topnine|topnine (pack|export|status|verify))$", unrun=NAME),
    Rule(r"^(sbatch|make submit)\b", unrun="tests/cluster does it where there is a Slurm"),
    Rule(r"^dask (scheduler|worker) ", unrun="tests/cluster/test_keys.py does it with keys"),
    Rule(r"s3://", unrun="tests/e2e/test_s3.py does it with a server"),
    Rule(r"my\.toml", unrun="a configuration of the reader's"),
    Rule(r"/data/", unrun="the data of the reader"),
    Rule(r"NETWORK=densenet121", unrun="its weights are downloaded"),
    Rule(r"DATA=ILSVRC2012_img_train\.tar", make=training_tar, extra=QUICK),
    Rule(r"DATA=ILSVRC2012_img_val\.tar", make=validation_tar, extra=QUICK),
    Rule(r"DATA='?shards/", make=webdataset, extra=QUICK),
    Rule(r"DATA=shards\.txt", make=shard_list, extra=QUICK),
    Rule(r"WEIGHTS=squeezenet1_0", make=squeezenet, extra=QUICK),
    Rule(r"CONFIG=mine\.toml|mypackage", make=own_network),
    Rule(r"DATA=imagenet/val", make=class_folders, extra=QUICK),
    Rule(r"DATA=pictures/", make=pictures, extra=QUICK),
    Rule(r"DATA=tiny-imagenet-200/val", make=tiny_imagenet, extra=QUICK),
    Rule(r"DATA='imagenet-1k/", make=hugging_face, extra=QUICK),
    Rule(r"^topnine pack .*pictures/", make=pictures),
    Rule(r"^make (gallery|mine LAYER=all$)", slow=True),
    Rule(r"^topnine (verify|plan|statistics|gallery)\b", slow=True),
    Rule(r"rank\.distinct", extra=QUICK),
    Rule(r"^topnine (invariance|occlusion)\b", slow=True),
    Rule(r"^topnine first-layer", before=("topnine run --layer 1",), slow=True),
    Rule(r"^topnine evolution", extra=f"{QUICK} --set network.checkpoints='{CHECKPOINTS}'", slow=True),
]
RUN = Rule("")  # as it stands


def find_rule(command: str) -> Rule:
    return next((rule for rule in RULES if re.search(rule.pattern, command)), RUN)


# -- reading READMEs --------------------------------------------------------------------------------------------------


def blocks(readme: Path, *languages: str) -> list[Found]:
    text = readme.read_text()
    return [
        Found(readme, text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in BLOCK.finditer(text)
        if match[1] in languages
    ]


def prose(readme: Path) -> str:
    """The text with its blocks emptied, line for line."""
    return BLOCK.sub(lambda match: "\n" * match[0].count("\n"), readme.read_text())


def spans(readme: Path) -> Iterator[Found]:
    for number, line in enumerate(prose(readme).splitlines(), 1):
        for match in SPAN.finditer(line):
            yield Found(readme, number, match[1])


def is_command(span: str) -> bool:
    words = span.split()
    return len(words) > 1 and Path(words[0]).name in PROGRAMS and not re.search(r"[…<]", span)


def commands(readme: Path) -> Iterator[Found]:
    for block in blocks(readme, "sh"):
        for number, line in enumerate(block.text.splitlines()):
            if line.strip() and not line.startswith("#"):
                yield Found(readme, block.line + number, line)
    for block in blocks(readme, "crontab"):
        for number, line in enumerate(block.text.splitlines()):
            schedule = line.split(maxsplit=5)
            assert all(re.fullmatch(r"[\d*/,-]+", field) for field in schedule[:5]), line
            yield Found(readme, block.line + number, schedule[5])
    yield from (span for span in spans(readme) if is_command(span.text))


def list_all(find: Callable[[Path], Iterable[Found]]) -> list[Found]:
    """Everything that is found in the READMEs, once if the same stands in several places."""
    first: dict[str, Found] = {}
    for readme in READMES:
        for found in find(readme):
            first.setdefault(found.text, found)
    return list(first.values())


COMMANDS = list_all(commands)
SCRIPTS = list_all(lambda readme: blocks(readme, "python"))
CONFIGURATIONS = list_all(lambda readme: blocks(readme, "toml"))


def as_parameter(found: Found) -> Any:
    return pytest.param(found, id=str(found), marks=[pytest.mark.slow] if find_rule(found.text).slow else [])


# -- what a command comes to ------------------------------------------------------------------------------------------


def expand(command: str, folder: Path) -> list[list[str]]:
    """The programs, each with its arguments, that a line of shell comes to: make's recipes are looked into."""
    programs = []
    for part in REDIRECTION.sub(" ", command).split("&&"):
        words = shlex.split(part)
        match Path(words[0]).name:
            case "cd" | "mkdir":
                continue
            case "make":
                for line in dry_run(words[1:], folder):
                    programs += expand(line, folder)
            case "sbatch":
                (wrapped,) = (word.removeprefix("--wrap=") for word in words if word.startswith("--wrap="))
                programs += expand(wrapped.removeprefix("exec "), folder)
            case _:
                programs.append(words)
    return programs


def dry_run(arguments: list[str], folder: Path) -> list[str]:
    ready = [f"--old-file=.venv/ready{suffix}" for suffix in ("", "-test")]  # nothing is installed
    command = ["make", "--dry-run", "--no-print-directory", f"--file={REPOSITORY / 'Makefile'}", *ready, *arguments]
    made = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return [re.sub(r"^[A-Z_]+=\S+ ", "", line) for line in made.stdout.replace("\\\n", "").splitlines()]


@cache
def click_commands() -> dict[str, click.Command]:
    return typer.main.get_command(app).commands


def parse(words: list[str]) -> None:
    """Check the options of a program and their values, without running it."""
    match Path(words[0]).name:
        case "topnine":
            parse_topnine(words[1:])
        case "python":
            parse_module(words[1:])
        case "pip":
            parse_install(words[1:])
        case "dask":
            module = importlib.import_module(f"distributed.cli.dask_{words[1]}")
            known = {option for parameter in module.main.params for option in parameter.opts}
            assert {word for word in words if word.startswith("--")} <= known
        case "ruff" | "mypy":
            pass
        case name:
            raise AssertionError(f"nobody knows how to try {name}: see RULES")


def parse_topnine(arguments: list[str]) -> None:
    name, *options = arguments
    assert name in {*click_commands(), "--help"}, name
    if "--help" in arguments:
        return
    values = click_commands()[name].make_context(name, options).params
    names = [field.name for field in fields(RunOptions)]
    if "config" in values:
        RunOptions(**{name: value for name, value in values.items() if name in names}).read()


def parse_module(arguments: list[str]) -> None:
    assert arguments[0] == "-m"
    assert importlib.util.find_spec(arguments[1]), arguments[1]
    for path in (word for word in arguments[2:] if word.startswith("tests/")):
        assert (REPOSITORY / path).exists(), path


def parse_install(arguments: list[str]) -> None:
    assert arguments[0] == "install"
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    packages = [*project["dependencies"], *(package for extra in extras.values() for package in extra)]
    known = {re.match(r"[\w-]+", package)[0] for package in packages}
    for word in (word for word in arguments[1:] if not word.startswith("-")):
        package, _, extra = word.partition("[")
        assert package in known | {".", "topnine"}, word
        assert set(extra.removesuffix("]").split(",")) <= extras.keys() | {""}, word


def run(words: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run ``topnine`` in this process, in a folder: it has imported torch already."""
    assert Path(words[0]).name == "topnine", f"nobody knows how to run {words[0]}: see RULES"
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend("")
    monkeypatch.setattr(sys, "argv", ["topnine", *words[1:]])
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    with pytest.raises(SystemExit) as ended:
        main()
    for number, handler in handlers.items():
        signal.signal(number, handler)
    assert not ended.value.code, ended.value.code


# -- the tests --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """A folder as that of a reader who has a clone: what commands name is there to be parsed."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    for name in ("my.toml", "mine.toml", "other.toml"):
        (folder / name).write_text((REPOSITORY / "configs/demo.toml").read_text())
    return folder


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    """The folder in which the first command of the README was run."""
    folder = tmp_path_factory.mktemp("demo")
    (folder / "configs").symlink_to(REPOSITORY / "configs")
    first = next(commands(REPOSITORY / "README.md")).text
    assert first == "make mine LAYER=5"
    with pytest.MonkeyPatch.context() as monkeypatch:
        for words in expand(first, folder):
            run(words, folder, monkeypatch)
    weights = safetensors.torch.load_file(REPOSITORY / "pipeline/network/architectures/tiny_zfnet.safetensors")
    for name in ("a", "b"):
        safetensors.torch.save_file(weights, folder / f"{name}.safetensors")
    other_network(folder)
    return folder


def test_readmes_are_found():
    named = {"README.md", "configs/README.md", "pipeline/README.md", "pipeline/store/README.md", "stages/README.md"}
    assert named <= {str(path.relative_to(REPOSITORY)) for path in READMES}
    assert (REPOSITORY / "README.md").stat().st_size <= README_BYTES


@pytest.mark.parametrize("found", COMMANDS, ids=str)
def test_every_option_of_a_command_is_known(found, desk, monkeypatch):
    monkeypatch.chdir(desk)
    monkeypatch.setattr(Store, "exists", lambda path: False)  # none of the stores in buckets is asked
    programs = expand(found.text, desk)
    assert programs
    for words in programs:
        parse([*words, "--help"] if find_rule(found.text).unrun == NAME else words)


@pytest.mark.parametrize("found", [as_parameter(found) for found in COMMANDS if not find_rule(found.text).unrun])
def test_every_command_runs(found, request, tmp_path, monkeypatch):
    rule, folder = find_rule(found.text), tmp_path
    if rule.make:
        (folder / "configs").symlink_to(REPOSITORY / "configs")
        rule.make(folder)
    else:
        folder = request.getfixturevalue("demo")
    for command in (*rule.before, found.text):
        for words in expand(command, folder):
            run([*words, *(shlex.split(rule.extra) if command == found.text else [])], folder, monkeypatch)


def test_first_layer_beside_another_network(demo, monkeypatch):
    for command in (
        "topnine run --layer 1",
        "topnine run --layer 1 --config other.toml",
        "topnine first-layer --beside other.toml",
    ):
        run(shlex.split(command), demo, monkeypatch)


def test_every_option_that_a_span_names_is_known():
    known = {name for command in click_commands().values() for option in command.params for name in option.opts}
    known |= {"--help", "--install-completion", "--mem"}  # of all commands, and of sbatch
    unknown = [
        str(found)
        for readme in READMES
        for found in spans(readme)
        if found.text.startswith("--") and found.text.split()[0].split("=")[0] not in known
    ]
    assert unknown == []


def known_keys() -> set[str]:
    tables = {name: field.annotation for name, field in RunConfig.model_fields.items() if name != "cluster"}
    keys = {f"{name}.{key}" for name, table in tables.items() if is_table(table) for key in table.model_fields}
    return keys | {f"cluster.{key}" for kind in cluster_tables() for key in kind.model_fields}


def is_table(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def cluster_tables() -> list[type[BaseModel]]:
    return [value for value in vars(clusters).values() if is_table(value)]


def test_every_key_that_a_span_names_is_one():
    unknown = [
        str(found)
        for readme in READMES
        for found in spans(readme)
        if (match := KEY.fullmatch(found.text)) and f"{match[1]}.{match[2]}" not in known_keys()
    ]
    assert unknown == []


@pytest.mark.parametrize("found", CONFIGURATIONS, ids=str)
def test_every_configuration_is_one(found):
    tables = tomllib.loads((REPOSITORY / "configs/demo.toml").read_text()) | {"store": "runs/x.zarr"}
    RunConfig.model_validate({**tables, **tomllib.loads(found.text)})


def run_script(script: str, folder: Path) -> list[str]:
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        cwd=folder, capture_output=True, text=True, check=False, env=os.environ | {"MPLBACKEND": "Agg"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.splitlines()


@pytest.mark.parametrize("found", [script for script in SCRIPTS if "pyplot" not in script.text], ids=str)
def test_every_script_runs(found, demo):
    assert len(run_script(found.text, demo)) >= 3


@pytest.mark.slow
def test_the_analysis_draws_three_plots(demo, monkeypatch):
    (script,) = [found.text for found in SCRIPTS if "pyplot" in found.text]
    for stage in ("mine", "rank"):
        run(["topnine", stage, "--layer", "1 2"], demo, monkeypatch)
    assert len(run_script(script, demo)) == 4
    with Image.open(demo / "analysis.png") as picture:
        assert picture.size == (1500, 450)
        thirds = np.array_split(np.asarray(picture.convert("L")), 3, axis=1)
    assert all((third < 128).mean() > 0.002 for third in thirds)


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_block_has_a_language_that_is_tried(readme):
    assert {match[1] for match in BLOCK.finditer(readme.read_text())} <= {"sh", "crontab", "python", "toml", "text"}
    assert readme.read_text().count("\n```") % 2 == 0


@pytest.mark.parametrize("readme", READMES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_link_leads_somewhere(readme):
    for link in LINK.findall(prose(readme)):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (readme.parent / path) if path else readme
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def anchors(readme: Path) -> set[str]:
    """The names that GitHub gives to headings."""
    headings = re.findall(r"^#+ (.*)$", prose(readme), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_design_lists_every_module():
    (tree,) = blocks(REPOSITORY / "pipeline/README.md", "text")
    folders: list[str] = []
    listed = set()
    for line in tree.text.splitlines():
        name = line.split()[0]
        del folders[(len(line) - len(line.lstrip())) // 2 :]
        if name.endswith("/"):
            folders.append(name.rstrip("/"))
        else:
            listed.add("/".join([*folders, name]))
    modules = (path.relative_to(REPOSITORY).as_posix() for path in (REPOSITORY / "pipeline").rglob("*.py"))
    assert listed == {module for module in modules if not module.endswith("__init__.py")}


def test_what_a_task_is_handed_is_what_its_module_says():
    text = (REPOSITORY / "pipeline/README.md").read_text()
    rows = re.findall(r"^\| \[\w+\]\((\S+)\) \| `(\w+)` \| .* \| (.*) \|$", text, re.MULTILINE)
    assert len(rows) >= 8
    for link, function, values in rows:
        source = (REPOSITORY / "pipeline" / link).read_text()
        assert f"def {function}(" in source
        for name in re.findall(r"`([A-Z]\w+)`", values):
            assert re.search(rf"\b{name}\b", source), name


def test_the_store_lists_every_array():
    from topnine.pipeline.store import schema

    text = (REPOSITORY / "pipeline/store/README.md").read_text()
    listed = {name for line in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in SPAN.findall(line)}
    arrays = [
        schema.index_arrays(1), schema.image_arrays(1, 1), schema.mined_arrays(1, 1, 1, 1, 1), schema.ranked_arrays(1),
        schema.patch_arrays(1, 1, 1, 3), schema.statistics_arrays(1, ["cat"]), schema.layer_arrays(1),
    ]  # fmt: skip
    assert {name for group in arrays for name in group} <= listed


def test_the_workflow_runs_lint_and_tests_on_the_pythons_that_are_supported(desk):
    workflow = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text())
    assert {"push", "pull_request"} <= workflow[True].keys()  # `on` is a boolean to YAML
    (job,) = workflow["jobs"].values()
    lowest = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["requires-python"].removeprefix(">=")
    assert lowest in job["strategy"]["matrix"]["python"]
    steps = [step.get("run", "") for step in job["steps"]]
    assert {"make lint", "make test"} <= set(steps)
    assert all(re.search(r"@v\d+$", step["uses"]) for step in job["steps"] if "uses" in step)
    for target in ("lint", "test"):
        assert dry_run([target], desk)
