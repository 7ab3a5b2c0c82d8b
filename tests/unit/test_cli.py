"""The command line itself: its commands and options, and what it imports before there is work."""

import inspect
import re
import subprocess
import sys
import tomllib

import pytest
import typer
from typer.main import get_command
from typer.testing import CliRunner

from tests.conftest import REPOSITORY
from topnine.pipeline.config.reading import read_config
from topnine.pipeline.errors import InputError
from topnine.stages.cli.main import app
from topnine.stages.cli.options import RunOptions, SheetOptions, command, parse_filters, parse_keys

OF_A_RUN = ["--config", "--network", "--layer", "--data", "--weights", "--store", "--cluster", "--device", "--set"]
OF_A_RUN += ["--trust", "--quiet", "--verbose"]
OF_SHEETS = ["--filter", "--grid", "--format"]
WITHOUT_LAYER = [option for option in OF_A_RUN if option != "--layer"]
COMMANDS = {
    "run": [*OF_A_RUN, *OF_SHEETS, "--json"],
    "index": OF_A_RUN,
    "mine": OF_A_RUN,
    "rank": OF_A_RUN,
    "statistics": OF_A_RUN,
    "deconvolve": OF_A_RUN,
    "tile": [*OF_A_RUN, *OF_SHEETS],
    "gallery": OF_A_RUN,
    "evolution": [*OF_A_RUN, "--filter"],
    "invariance": [*WITHOUT_LAYER, "--images"],
    "first-layer": [*WITHOUT_LAYER, "--beside"],
    "occlusion": [*OF_A_RUN, "--images", "--side", "--step"],
    "plan": [*OF_A_RUN, "--json"],
    "pack": ["--data", "--to", "--shard-mib", "--resize", "--quality", "--classes"],
    "status": ["store", "--json"],
    "export": ["store", "--layer", "--to", "--activations"],
    "verify": [
        "store",
        "--data",
        "--weights",
        "--network",
        "--set",
        "--trust",
        "--device",
        "--seed",
        "--repair",
        "--json",
    ],
    "networks": ["name", "--match", "--every", "--size", "--json"],
    "config": OF_A_RUN,
    "init": ["file", *OF_A_RUN],
}


def test_every_command_has_the_options_that_scripts_rely_on():
    commands = get_command(app).commands
    assert {name: [option.opts[0] for option in found.params] for name, found in commands.items()} == COMMANDS


def test_every_command_and_option_is_described_in_a_sentence():
    for name, found in get_command(app).commands.items():
        for text in (found.help, *(option.help for option in found.params)):
            assert re.fullmatch(r"[A-Zs].*[.)]", text, re.DOTALL), f"{name}: {text}"


@pytest.mark.parametrize("words", [["--version"], ["-h"], ["run", "-h"]])
def test_what_is_asked_for_first_is_answered(words):
    printed = CliRunner().invoke(app, words)
    assert printed.exit_code == 0
    assert ("Usage" in printed.output) == ("-h" in words)
    assert ("topnine 0." in printed.output) == ("--version" in words)


OPTIONS = ["--data", "pictures", "--cluster", "local", "--set", "mine.block=8", "--set", "network.layers={a = 'b.c'}"]


def test_config_says_where_each_value_comes_from_and_is_toml():
    printed = CliRunner().invoke(app, ["config", "--network", "squeezenet1_0", *OPTIONS]).output
    values = tomllib.loads(printed)
    assert values["store"] == "runs/squeezenet1_0-pictures.zarr"
    assert values["network"]["weights"] == "torchvision"
    assert values["network"]["layers"] == {"a": "b.c"}
    origins = dict(re.findall(r"^(\w+) = .* # (.*)$", printed, re.MULTILINE))
    expected = {"name": "--network", "path": "--data", "kind": "--cluster", "block": "--set", "weights": "default"}
    assert {key: origins[key] for key in expected} == expected
    demo = CliRunner().invoke(app, ["config"]).output
    assert re.search(r"^weights = \"bundled\" +# configs/demo.toml$", demo, re.MULTILINE)


def test_init_writes_a_configuration_that_is_read_as_what_was_asked_for(tmp_path):
    file = tmp_path / "mine.toml"
    words = ["--network", "squeezenet1_0", *OPTIONS]
    assert CliRunner().invoke(app, ["init", str(file), *words]).exit_code == 0
    asked = RunOptions(network="squeezenet1_0", data="pictures", cluster="local", changes=OPTIONS[5::2]).read()
    assert read_config(str(file)).model_copy(update={"store": ""}) == asked.model_copy(update={"store": ""})
    every = re.sub(r"^# (?=\w+ = )", "", file.read_text(), flags=re.MULTILINE)  # with all comments taken away
    file.write_text(every)
    assert read_config(str(file)) == asked
    again = CliRunner().invoke(app, ["init", str(file), *words])
    assert "is there already" in str(again.exception)
    assert file.read_text() == every


def run_python(script):
    return subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "unwanted"),
    [
        (["--help"], {"torch", "dask", "distributed", "zarr", "numpy", "PIL"}),
        (["run", "--help"], {"torch", "dask", "distributed", "zarr", "numpy", "PIL"}),
        (["run", "--config", "nothing.toml"], {"torch", "dask", "distributed", "zarr", "numpy"}),
        (["status", "nothing.zarr"], {"torch", "dask", "distributed", "PIL"}),
    ],
)
def test_what_is_answered_at_once_does_not_wait_for_torch(arguments, unwanted):
    finished = run_python(
        f"import sys; sys.argv = ['topnine', *{arguments!r}]\n"
        "from topnine.stages.cli.main import main\n"
        "try:\n    main()\n"
        f"finally:\n    print('imported', *({unwanted!r} & set(sys.modules)))"
    )
    assert finished.stdout.splitlines()[-1] == "imported", finished.stdout + finished.stderr


def test_a_configuration_is_read_with_the_changes_of_the_options():
    config = RunOptions(
        str(REPOSITORY / "configs/demo.toml"), layer="1 3", data='a "b"', store="s.zarr", cluster="local",
        changes=["mine.block=128", " rank.distinct = source", 'rank.source="(.*)-.*"', "data.path=c"],
    ).read()  # fmt: skip
    assert (config.mine.layers, config.data.path, config.store) == ("1 3", "c", "s.zarr")
    assert (config.cluster.kind, config.mine.block) == ("local", 128)
    assert (config.rank.distinct, config.rank.source) == ("source", "(.*)-.*")


def test_a_change_without_a_value_is_refused():
    with pytest.raises(InputError, match=r"--set mine\.block is not of the form section\.key=value"):
        RunOptions(changes=["mine.block"]).read()


@pytest.mark.parametrize(("text", "numbers"), [(None, []), ("", []), ("3,17, 40", [3, 17, 40]), ("5 1", [5, 1])])
def test_numbers_of_filters_are_separated_by_commas_or_spaces(text, numbers):
    assert parse_filters(text) == numbers


def test_keys_of_images_are_separated_by_commas_alone():
    assert parse_keys(None) == []
    assert parse_keys("a b, c ,") == ["a b", "c"]


def test_options_of_sheets_that_contradict_each_other_are_refused():
    with pytest.raises(InputError, match="--grid needs one --filter"):
        SheetOptions(grid=9).read()
    with pytest.raises(InputError, match="--filter 3,x is not a list of numbers"):
        SheetOptions(filters="3,x").read()


def test_a_dataclass_of_options_is_spread_over_the_command_and_filled_again():
    app = typer.Typer(add_completion=False)

    @command(app, "show", without=["config"])
    def show(run: RunOptions, number: int = 3) -> None:
        """Print."""
        typer.echo(f"{run.config} {run.layer} {run.changes} {number}")

    parser = get_command(app)
    assert [option.opts[0] for option in parser.params] == [*OF_A_RUN[1:], "--number"]
    printed = CliRunner().invoke(app, ["--layer", "5", "--number", "7", "--set", "a=1", "--set", "b=2"])
    assert printed.output == "None 5 ['a=1', 'b=2'] 7\n"
    assert list(inspect.signature(show).parameters) == ["run", "number"]  # the function itself is as it was


@pytest.mark.parametrize("name", ["evolution", "invariance", "first-layer", "occlusion"])
def test_a_figure_of_the_paper_needs_matplotlib_before_anything_else(name):
    finished = run_python(
        f"import sys; sys.argv = ['topnine', {name!r}, '--store', 'nothing.zarr']; sys.modules['matplotlib'] = None\n"
        "from topnine.stages.cli.main import main; main()"
    )
    assert finished.returncode == 2
    assert finished.stderr.endswith("pip install 'topnine[figures]'.\n")
    assert "Traceback" not in finished.stderr
