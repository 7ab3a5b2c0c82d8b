"""The configuration of a run: read from TOML, changed by the command line, every key checked."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from dask.utils import parse_bytes
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import InputError

WALLTIME = r"^(\d+-)?\d+:\d\d:\d\d$"


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it has a NUL character")
        return value


class NetworkConfig(_Section):
    """Which network, and its weights."""

    name: str = Field(description="as `topnine networks` lists them, or package.module:function, one of your own")
    layers: tuple[tuple[str, str], ...] = Field((), description="name = module path, numbered in this order")
    mean: tuple[float, float, float] | None = Field(None, description="of RGB/255; the network's own unless given")
    std: tuple[float, float, float] | None = Field(None, description="of RGB/255; the network's own unless given")
    weights: str = Field("random", description="bundled, torchvision, random, or a .safetensors, .npz or .pth file")
    seed: int = Field(0, ge=0, lt=2**63, description="of random weights")
    checkpoints: tuple[str, ...] = Field((), description="weights in the order of training, for `topnine evolution`")

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_from_a_table(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, dict) else value


class DataConfig(_Section):
    """Where the images are, and what is done about damaged ones."""

    path: str = Field(description="shards, folders, a pattern or a list of them, or 'photos', the sample photographs")
    labels: str = Field("", description="a file with a class index or wnid a line, in the order of the images")
    classes: str = Field("", description="a TSV of index, wnid, name")
    on_damaged: Literal["skip", "fail"] = Field("skip", description="count damaged images, or stop at the first")
    max_damaged_fraction: float = Field(0.01, ge=0, le=1, description="of the images; checked when more than ten are")
    max_pixels: int = Field(178_956_970, ge=1, description="of an image; a larger one is damaged")


class DecodeConfig(_Section):
    """How an image becomes the network's input: shortest side to ``resize``, then the centre ``crop``, in pixels."""

    resize: int = Field(256, ge=1, le=2**14)
    crop: int = Field(224, ge=1, le=2**14)
    fast: bool = Field(False, description="let the JPEG decoder halve large images; the pixels differ a little")

    @model_validator(mode="after")
    def _crop_fits(self) -> DecodeConfig:
        if self.crop > self.resize:
            raise ValueError(f"decode.crop = {self.crop} is larger than decode.resize = {self.resize}")
        return self


class MineConfig(_Section):
    """What is mined, and in which portions."""

    layers: str = Field("5", description="numbers and names; all = the numbered layers, every = every convolution")
    block: int = Field(1024, ge=1, le=2**20, description="images mined, written and marked done as one")
    span: int = Field(16, ge=1, le=2**20, description="blocks that one task streams through")
    batch: int = Field(32, ge=1, le=2**16, description="images a forward pass; never across a block")
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field("float32", description="tf32: on a GPU only")
    queue_mib: int = Field(64, ge=1, le=2**20, description="decoded images waiting for the network, in MiB")


class RankConfig(_Section):
    """Which of a filter's strongest activations count as one, of which only the strongest is ranked."""

    distinct: Literal["image", "place", "source", "look"] = Field(
        "image", description="one hit an image, a place of a photograph, a source, or a look"
    )
    source: str = Field(
        r"(.+?)[-_.]\d[-_.\d]*",
        description="what a key matches; its group is the image's source; other keys are their own",
    )
    distance: int = Field(10, ge=0, le=64, description="bits of 64 in which the hashes of alike images differ")

    @field_validator("source")
    @classmethod
    def _source_has_a_group(cls, value: str) -> str:
        try:
            groups = re.compile(value).groups
        except re.error as error:
            raise ValueError(f"it is no regular expression: {error}") from None
        if groups != 1:
            raise ValueError(f"it has {groups} groups, not one")
        return value


class DeconvolveConfig(_Section):
    """How activations are projected back to pixels."""

    rule: Literal["deconvnet", "guided", "gradient"] = "deconvnet"
    pooling: Literal["sum", "overwrite"] = Field("sum", description="where overlapping regions chose the same position")
    lrn: Literal["gradient", "identity"] = Field("gradient", description="local response normalisation")
    batch: int = Field(8, ge=1, le=2**16, description="whole images a backward pass, or as many pixels of crops")


class TileConfig(_Section):
    """How sheets are drawn."""

    seed: int = Field(0, ge=0, lt=2**63, description="of the random subset of live filters")
    quantile: float = Field(0.995, gt=0, le=1, description="of a projection's absolute values, drawn as full contrast")


class GalleryConfig(_Section):
    """What the gallery shows of the data."""

    thumbnails: bool = Field(True, description="whole images, and patches of more than half of one")


class _Cluster(_Section):
    device: str = Field("auto", description="as torch names them; auto = cuda where the worker has one, else cpu")
    threads: int = Field(0, ge=0, le=1024, description="of a worker, to decode and compute; 0 shares the cores out")


class _Served(_Cluster):
    dashboard: str = Field("127.0.0.1:0", description="where Dask's dashboard listens; port 0 = any that is free")


class _Adaptive(_Served):
    minimum: int | None = Field(None, ge=0, le=10_000, description="workers; as many as maximum unless given")
    maximum: int = Field(2, ge=1, le=10_000, description="workers; never more than there are tasks left")
    memory: str = Field("0", description="of a worker, as 4GiB; one that takes more is ended; 0 = no limit")

    @property
    def least(self) -> int:
        """Workers that are kept even when they have nothing to do."""
        return self.maximum if self.minimum is None else self.minimum

    @field_validator("memory")
    @classmethod
    def _memory_is_a_size(cls, value: str) -> str:
        parse_bytes(value)
        return value

    @model_validator(mode="after")
    def _least_fits(self) -> Self:
        if self.least > self.maximum:
            raise ValueError(f"cluster.minimum = {self.minimum} is larger than cluster.maximum = {self.maximum}")
        return self


class InlineCluster(_Cluster):
    """The driver's own process."""

    kind: Literal["inline"] = "inline"


class LocalCluster(_Adaptive):
    """Processes of this machine."""

    kind: Literal["local"]


class CudaCluster(_Served):
    """A process for every GPU of this machine."""

    kind: Literal["cuda"]
    device: Literal["cuda"] = "cuda"


class SlurmCluster(_Adaptive):
    """Slurm jobs, each one worker."""

    kind: Literal["slurm"]
    memory: str = Field("4GiB", description="of a job; a worker that takes more is ended")
    cores: int = Field(2, ge=1, le=1024, description="of a job")
    walltime: str = Field("01:00:00", description="of a job, [days-]hours:minutes:seconds", pattern=WALLTIME)
    partition: str = ""
    account: str = ""
    gres: str = Field("", description="as gpu:1")
    prologue: tuple[str, ...] = Field((), description="lines of shell before the worker, as 'module load cuda'")
    interface: str = Field("", description="of the network between the nodes, as ib0; none = the host's address")
    logs: str = Field("runs/slurm", description="the folder of the jobs' output")

    @property
    def walltime_s(self) -> int:
        """A job's time in s."""
        days, _, clock = self.walltime.rpartition("-")
        hours, minutes, seconds = (int(part) for part in clock.split(":"))
        return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + seconds


class AddressCluster(_Cluster):
    """A Dask scheduler that is running already, with its workers."""

    kind: Literal["address"]
    address: str = Field(description="as tcp://host:8786")


ClusterConfig = InlineCluster | LocalCluster | CudaCluster | SlurmCluster | AddressCluster
CLUSTERS = {
    "inline": InlineCluster,
    "local": LocalCluster,
    "cuda": CudaCluster,
    "slurm": SlurmCluster,
    "address": AddressCluster,
}


class RunConfig(_Section):
    """Everything a run can be told. Empty sections take their defaults."""

    network: NetworkConfig
    data: DataConfig
    decode: DecodeConfig = DecodeConfig()
    mine: MineConfig = MineConfig()
    rank: RankConfig = RankConfig()
    deconvolve: DeconvolveConfig = DeconvolveConfig()
    tile: TileConfig = TileConfig()
    gallery: GalleryConfig = GalleryConfig()
    cluster: ClusterConfig = Field(InlineCluster(), discriminator="kind")
    store: str = Field(description="the Zarr store; runs/<configuration>.zarr unless given")

    @field_validator("cluster", mode="before")
    @classmethod
    def _inline_unless_given(cls, value: Any) -> Any:
        return {"kind": "inline", **value} if isinstance(value, dict) else value


def absolute(config: RunConfig) -> dict[str, Any]:
    """Give a configuration as a store records it: with it, the run can be done again from any folder."""
    tables = config.model_dump(mode="json", exclude={"store", "cluster"})
    network, data = tables["network"], tables["data"]
    network["weights"] = _absolute_weights(network["weights"])
    network["checkpoints"] = [_absolute_weights(weights) for weights in network["checkpoints"]]
    if data["path"] != "photos" and "://" not in data["path"]:
        data["path"] = str(Path(data["path"]).absolute())
    for key in ("labels", "classes"):
        if data[key] and "://" not in data[key]:
            data[key] = str(Path(data[key]).absolute())
    return tables


def _absolute_weights(weights: str) -> str:
    return weights if weights in ("bundled", "torchvision", "random") else str(Path(weights).absolute())


def read_config(path: str, changes: Mapping[str, str] = {}, cluster: str | None = None) -> RunConfig:
    """Read a configuration.

    Parameters
    ----------
    path : str
        A TOML file.
    changes : mapping
        From ``section.key`` to a value as TOML writes it; what is not TOML is taken as text.
    cluster : str, optional
        A cluster kind, or a TOML file with a ``[cluster]`` table that takes the place of the configuration's.

    Raises
    ------
    InputError
        A file that is missing or not TOML, an unknown key, a value that does not fit.
    """
    tables = _read_toml(path)
    tables.setdefault("store", f"runs/{Path(path).stem}.zarr")
    if cluster is not None:
        if cluster.endswith(".toml") and not Path(cluster).is_file():
            raise InputError(
                f"there is no cluster file {cluster}: CLUSTER is a kind, or a file with a [cluster] table."
            )
        tables["cluster"] = _read_toml(cluster).get("cluster", {}) if cluster.endswith(".toml") else {"kind": cluster}
    for key, value in changes.items():
        _change(tables, key, value)
    try:
        return RunConfig.model_validate(tables)
    except ValidationError as error:
        raise InputError(_sentence(path, error)) from None


def _read_toml(path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(Path(path).read_text())
    except FileNotFoundError:
        raise InputError(f"there is no configuration {path}: configs/ has some to start from.") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"configuration {path} cannot be read as TOML: {error}.") from None


def _change(tables: dict[str, Any], key: str, value: str) -> None:
    *sections, name = key.split(".")
    for section in sections:
        tables = tables.setdefault(section, {})
        if not isinstance(tables, dict):
            raise InputError(f"{key} is not a key of the configuration: {section} has no keys of its own.")
    tables[name] = _toml_value(value)


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _sentence(path: str, error: ValidationError) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    kind = place.pop(1) if place[0] == "cluster" and len(place) > 1 else ""  # pydantic puts it there
    key = ".".join(place)
    if first["type"] == "extra_forbidden":
        known = ", ".join(_known_keys(place[:-1], kind))
        of_kind = f" where cluster.kind = {kind!r}" if kind else ""
        return f"{key} is not a key of the configuration{of_kind} ({path}): known are {known}."
    if first["type"] == "union_tag_invalid":
        return f"cluster.kind = {first['input'].get('kind')!r} does not fit ({path}): it is {', '.join(CLUSTERS)}."
    if first["type"] == "missing":
        return f"configuration {path} lacks {key}."
    where = f"{key} = {first['input']!r}" if key and not isinstance(first["input"], dict) else "the configuration"
    return f"{where} does not fit ({path}): {first['msg'].removeprefix('Value error, ')}."


def _known_keys(section: list[str], cluster: str) -> list[str]:
    model: Any = RunConfig
    for part in section:
        model = CLUSTERS[cluster] if part == "cluster" else model.model_fields[part].annotation
    return sorted(model.model_fields)
