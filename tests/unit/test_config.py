import os

import pytest

from pipeline.config import absolute, read_config
from pipeline.errors import InputError
from tests.conftest import REPOSITORY

DEMO = str(REPOSITORY / "configs/demo.toml")


def test_the_store_is_named_after_the_configuration():
    assert read_config(DEMO).store == "runs/demo.zarr"


def test_changes_are_toml_values_or_text():
    config = read_config(DEMO, {"mine.block": "7", "mine.layers": "1 3", "data.path": '"x y"'})
    assert (config.mine.block, config.mine.layers, config.data.path) == (7, "1 3", "x y")


def test_a_store_records_checkpoints_by_absolute_paths():
    config = read_config(DEMO, {"network.checkpoints": '["random", "a/b.pth", "/c.npz"]'})
    assert absolute(config)["network"]["checkpoints"] == ["random", f"{os.getcwd()}/a/b.pth", "/c.npz"]
    assert absolute(read_config(DEMO))["network"]["checkpoints"] == []


def test_a_cluster_file_takes_the_place_of_the_cluster_table(tmp_path):
    (tmp_path / "c.toml").write_text('[cluster]\nkind = "local"\nmaximum = 3\n')
    assert read_config(DEMO, cluster=str(tmp_path / "c.toml")).cluster.least == 3
    assert read_config(DEMO, cluster="local").cluster.kind == "local"


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("mine.blok", "3", "mine.blok is not a key of the configuration"),
        ("mine.block", '"x"', "mine.block = 'x' does not fit"),
        ("mine.block", "0", "mine.block = 0 does not fit"),
        ("decode.crop", "300", "decode.crop = 300 is larger than decode.resize = 96"),
        ("network.name.x", "1", "network.name.x is not a key"),
        ("deconvolve.rule", "relu", "deconvolve.rule = 'relu' does not fit"),
        ("cluster.kind", "loca", "cluster.kind = 'loca' does not fit"),
        ("cluster.maximum", "3", "cluster.maximum is not a key of the configuration where cluster.kind = 'inline'"),
        ("cluster", '{kind = "local", minimum = 3}', "cluster.minimum = 3 is larger than cluster.maximum = 2"),
        ("cluster", '{kind = "local", memory = "much"}', "cluster.memory = 'much' does not fit"),
        ("cluster", '{kind = "slurm", walltime = "1h"}', "cluster.walltime = '1h' does not fit"),
        ("cluster", '{kind = "address"}', "lacks cluster.address"),
    ],
)
def test_what_does_not_fit_is_one_sentence(key, value, sentence):
    with pytest.raises(InputError, match=r"^[^\n]+$") as error:
        read_config(DEMO, {key: value})
    assert sentence in str(error.value)


def test_a_file_that_is_missing_or_not_toml(tmp_path):
    with pytest.raises(InputError, match="there is no configuration"):
        read_config(str(tmp_path / "none.toml"))
    (tmp_path / "bad.toml").write_text("[mine\n")
    with pytest.raises(InputError, match="cannot be read as TOML"):
        read_config(str(tmp_path / "bad.toml"))
    (tmp_path / "empty.toml").write_text("")
    with pytest.raises(InputError, match="lacks network"):
        read_config(str(tmp_path / "empty.toml"))


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs/cluster").glob("*.toml")), ids=lambda path: path.stem)
def test_every_cluster_file_that_is_shipped_is_valid_and_named_after_its_kind(path):
    assert read_config(DEMO, cluster=str(path)).cluster.kind == path.stem


def test_walltime_is_read_as_slurm_does():
    settings = {"cluster": '{kind = "slurm", walltime = "1-02:03:04"}'}
    assert read_config(DEMO, settings).cluster.walltime_s == 86_400 + 2 * 3600 + 3 * 60 + 4


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_is_valid(path):
    read_config(str(path))
