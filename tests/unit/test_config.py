import json
import os
import subprocess
import sys

import pytest
from dask.utils import parse_bytes
from pydantic import ValidationError

from tests.conftest import REPOSITORY
from topnine.pipeline.config.clusters import LocalCluster
from topnine.pipeline.config.reading import absolute, read_config
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.errors import InputError

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
        ("decode.resize", "90", "decode.size = 96 is larger than decode.resize = 90"),
        ("network.name.x", "1", "network.name.x is not a key"),
        ("deconvolve.rule", "relu", "deconvolve.rule = 'relu' does not fit"),
        ("cluster.kind", "loca", "cluster.kind = 'loca' does not fit"),
        ("cluster.maximum", "3", "cluster.maximum is not a key of the configuration where cluster.kind = 'inline'"),
        ("cluster", '{kind = "local", minimum = 3}', "cluster.minimum = 3 is larger than cluster.maximum = 2"),
        ("cluster", '{kind = "local", memory = "much"}', "cluster.memory = 'much' does not fit"),
        ("network.weights", '"a\\u0000b"', "network.weights = 'a\\x00b' does not fit"),
        ("cluster", '{kind = "slurm", walltime = "1h"}', "cluster.walltime = '1h' does not fit"),
        ("cluster", '{kind = "address"}', "lacks cluster.address"),
        (
            "cluster",
            '{kind = "address", address = "tls://a:1", tls_ca = "a", tls_cert = "b"}',
            "cluster.address = 'tls://a:1' needs cluster.tls_key: the path of a PEM file.",
        ),
        (
            "cluster",
            '{kind = "address", address = "tcp://a:1", tls_key = "c"}',
            "cluster.address = 'tcp://a:1' is not protected by TLS",
        ),
    ],
)
def test_what_does_not_fit_is_one_sentence(key, value, sentence):
    with pytest.raises(InputError, match=r"^[^\n]+$") as error:
        read_config(DEMO, {key: value})
    assert sentence in str(error.value)


def test_a_misspelled_table_is_what_is_named(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text('[networks]\nname = "alexnet"\n[data]\npath = "x"\n')
    with pytest.raises(InputError, match=r"networks is not a key of the configuration .*: network may be meant; known"):
        read_config(str(path))


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


@pytest.mark.parametrize(
    "device", ["abacus", "mps", "mps:0", "cpu:0", "cuda:", "cuda:01", "cuda:-1", "CUDA", "", "{a}"]
)
@pytest.mark.parametrize("kind", ["inline", "local", "cuda", "slurm"])
def test_a_device_that_is_none_is_refused_in_a_sentence(kind, device):
    with pytest.raises(InputError) as error:
        read_config(DEMO, {"cluster.kind": kind, "cluster.device": f'"{device}"'})
    assert str(error.value) == f"device {device!r} cannot be used: it is cpu, cuda, cuda:1, … or auto."
    assert error.value.exit_code == 2


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:0", "cuda:1", "cuda:15", "auto"])
def test_a_device_is_taken_as_it_is(device):
    for kind in ("inline", "local", "slurm"):
        assert read_config(DEMO, {"cluster.device": device}, cluster=kind).cluster.device == device


def test_a_process_for_every_gpu_takes_no_single_gpu():
    for device in ("cuda", "auto"):
        assert read_config(DEMO, {"cluster.device": device}, cluster="cuda").cluster.device == "cuda"
    assert read_config(DEMO, cluster="cuda").cluster.device == "cuda"
    for device in ("cuda:1", "cpu"):
        with pytest.raises(InputError, match=f"^device '{device}' does not go with cluster.kind = 'cuda'.*'inline'"):
            read_config(DEMO, {"cluster.device": device}, cluster="cuda")


@pytest.mark.parametrize(
    "memory",
    [
        "0",
        "4GiB",
        "500MB",
        "4gib",
        "4 GiB",
        "1.5GiB",
        ".5TB",
        "4G",
        "4Gi",
        "100",
        "100B",
        "2e9",
        "1e6 kB",
        "3PiB",
        "7kib",
    ],
)
def test_a_size_of_memory_is_one_that_dask_reads(memory):
    parse_bytes(memory)
    assert LocalCluster(kind="local", memory=memory).memory == memory


@pytest.mark.parametrize(
    "memory", ["", "GiB", "-4GiB", "much", "4 foos", "4GiBs", "4iB", "1e", "auto", "nan", "4GiB\n", "٤GiB"]
)
def test_what_is_no_size_of_memory_is_refused(memory):
    with pytest.raises(ValidationError, match="it is a size such as 4GiB or 500MB, or 0"):
        LocalCluster(kind="local", memory=memory)


def test_memory_as_a_number_of_bytes():
    assert read_config(DEMO, {"cluster.memory": "500000000"}, cluster="local").cluster.memory == "500000000"


def test_walltime_is_read_as_slurm_does():
    settings = {"cluster": '{kind = "slurm", walltime = "1-02:03:04"}'}
    assert read_config(DEMO, settings).cluster.walltime_s == 86_400 + 2 * 3600 + 3 * 60 + 4


@pytest.mark.parametrize("path", sorted((REPOSITORY / "configs").glob("*.toml")), ids=lambda path: path.stem)
def test_every_configuration_that_is_shipped_is_valid(path):
    read_config(str(path))


def test_the_packaged_configurations_are_read_where_the_current_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = read_config("configs/demo.toml", cluster="configs/cluster/local.toml")
    assert (config.network.name, config.cluster.kind, config.store) == ("tiny_zfnet", "local", "runs/demo.zarr")
    with pytest.raises(InputError, match=r"^there is no configuration configs/none.toml: configs/ has some"):
        read_config("configs/none.toml")
    with pytest.raises(InputError, match=r"^there is no configuration demo.toml"):
        read_config("demo.toml")
    with pytest.raises(InputError, match=r"^there is no cluster file configs/cluster/none.toml: CLUSTER is a kind"):
        read_config("configs/demo.toml", cluster="configs/cluster/none.toml")


def test_the_current_folder_comes_before_the_package(tmp_path, monkeypatch):
    (tmp_path / "configs/cluster").mkdir(parents=True)
    (tmp_path / "configs/demo.toml").write_text('[network]\nname = "alexnet"\n[data]\npath = "photos"\n')
    (tmp_path / "configs/cluster/local.toml").write_text('[cluster]\nkind = "local"\nmaximum = 5\n')
    monkeypatch.chdir(tmp_path)
    config = read_config("configs/demo.toml", cluster="configs/cluster/local.toml")
    assert (config.network.name, config.cluster.least) == ("alexnet", 5)


def test_reading_a_configuration_imports_neither_dask_nor_torch():
    code = "import sys, topnine.pipeline.config.reading as r; r.read_config('configs/demo.toml'); print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert {"dask", "distributed", "torch", "numpy"}.isdisjoint(finished.stdout.split())


@pytest.mark.parametrize(
    ("path", "network", "data", "store"),
    [
        (None, None, None, "runs/demo.zarr"),
        (DEMO, None, None, "runs/demo.zarr"),
        (None, None, "pictures/", "runs/tiny_zfnet-pictures.zarr"),
        (None, "resnet18", "/data/imagenet/val-*.tar", "runs/resnet18-val.zarr"),
        (None, "nets.mine:build", "s3://bucket/train", "runs/mine-build-train.zarr"),
        (None, "resnet18", "../..", "runs/resnet18-data.zarr"),
    ],
)
def test_a_store_is_named_after_what_it_is_of(path, network, data, store):
    changes = {} if data is None else {"data.path": json.dumps(data)}
    assert read_config(path, changes, network=network).store == store


@pytest.mark.parametrize(
    ("name", "weights"), [("tiny_zfnet", "bundled"), ("resnet18", "torchvision"), ("nets:build", "random")]
)
def test_a_network_is_the_trained_one_unless_something_else_is_asked_for(name, weights):
    assert NetworkConfig(name=name).weights == weights
    assert NetworkConfig(name=name, weights="random").weights == "random"


def test_a_network_takes_the_place_of_the_configurations():
    config = read_config(DEMO, network="resnet18")
    assert (config.network.name, config.network.weights, config.data.path) == ("resnet18", "torchvision", "photos")
    with pytest.raises(InputError, match=r"^no images are named: give --data"):
        read_config(None, network="resnet18")
