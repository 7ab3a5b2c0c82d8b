import re
import shlex

import pytest
import torch
import typer

from tests.conftest import REPOSITORY
from topnine.pipeline.config.clusters import CLUSTERS
from topnine.pipeline.config.reading import read_config
from topnine.pipeline.config.sections import RunConfig
from topnine.pipeline.network.architectures.zfnet import ZFNet
from topnine.stages.cli.main import app

README = REPOSITORY / "configs/README.md"
TEXT = README.read_text(encoding="utf-8")
DEMO = str(REPOSITORY / "configs/demo.toml")
REQUIRED = {"[network]": '[network]\nname = "alexnet"\n', "[data]": '[data]\npath = "photos"\n'}
TOML = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL) for line in block.splitlines()]


def test_every_snippet_is_of_a_kind_that_is_tested_here():
    assert (len(TOML), len(COMMANDS)) == (5, 5)
    assert TEXT.count("```") == 2 * len(re.findall(r"```(?:toml|sh)\n", TEXT))


@pytest.mark.parametrize("snippet", TOML)
def test_a_toml_snippet_fits_into_a_configuration(tmp_path, snippet):
    path = tmp_path / "my.toml"
    path.write_text("".join(table for title, table in REQUIRED.items() if title not in snippet) + snippet)
    assert read_config(str(path)).store == "runs/my.zarr"


@pytest.mark.parametrize("command", [command for command in COMMANDS if not command.startswith("dask ")])
def test_a_command_has_options_that_exist_and_a_configuration_that_fits(command, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    program, name, *words = shlex.split(command)
    assert program == "topnine"
    options = typer.main.get_command(app).commands[name].make_context(name, words).params
    read_config(options["config"], dict(change.split("=", 1) for change in options["changes"] or []))


@pytest.mark.parametrize("change", re.findall(r"--set (\w+\.\w+=[\w.]+)", TEXT.replace("--set table.key=value", "")))
def test_a_setting_in_the_text_fits(change):
    read_config(DEMO, dict([change.split("=", 1)]))


@pytest.mark.parametrize(("option", "value"), re.findall(r"--(cluster|device) ([\w/.:]*\w)", TEXT))
def test_a_cluster_or_device_in_the_text_fits(option, value, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    if option == "cluster":
        read_config(DEMO, cluster=value)
    else:
        read_config(DEMO, {"cluster.device": value})


@pytest.mark.parametrize(("table", "key"), sorted(set(re.findall(r"`([a-z]+)\.([a-z_]+)`", TEXT)) - {("my", "toml")}))
def test_a_key_in_the_text_exists(table, key):
    if (REPOSITORY / f"configs/{table}.{key}").exists():
        return
    if table == "cluster":
        assert any(key in model.model_fields for model in CLUSTERS.values())
    else:
        assert key in RunConfig.model_fields[table].annotation.model_fields


def test_the_arrays_of_zfnets_weights_are_those_of_the_network():
    rows = re.findall(r"^\| (`(?:conv|fc)\d.*?) \| (\(.*?\)) \|", TEXT, re.MULTILINE)
    documented = {}
    for cell, shapes in rows:
        names = re.findall(r"`(.*?)`", cell)
        if "…" in cell:
            names = [f"conv{number}.bias" for number in range(1, 6)]
        sizes = [tuple(map(int, re.findall(r"\d+", shape))) for shape in re.findall(r"\(.*?\)", shapes)]
        documented |= dict(zip(names, sizes, strict=True))
    with torch.device("meta"):
        assert documented == {name: tuple(tensor.shape) for name, tensor in ZFNet().state_dict().items()}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", TEXT))))
def test_a_link_leads_somewhere(target):
    path, _, anchor = target.partition("#")
    page = README.parent / path if path else README
    assert page.exists()
    if anchor:
        titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles]
