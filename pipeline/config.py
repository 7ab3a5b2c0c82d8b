"""The configuration of a run: read from TOML, changed by the command line, every key checked."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from .errors import InputError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _no_nul(cls, value: object) -> object:
        if isinstance(value, str) and "\0" in value:
            raise ValueError("it has a NUL character")
        return value


class NetworkConfig(_Section):
    """Which network, and its weights."""

    name: str
    weights: str = Field("random", description="bundled, torchvision, random, or a .safetensors or .pth file")
    seed: int = Field(0, ge=0, lt=2**63, description="of random weights")


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
    precision: Literal["float32", "bfloat16"] = "float32"
    queue_mib: int = Field(64, ge=1, le=2**20, description="decoded images waiting for the network, in MiB")


class DeconvolveConfig(_Section):
    """How activations are projected back to pixels."""

    rule: Literal["deconvnet", "guided", "gradient"] = "deconvnet"
    pooling: Literal["sum", "overwrite"] = Field("sum", description="where overlapping regions chose the same position")
    lrn: Literal["gradient", "identity"] = Field("gradient", description="local response normalisation")
    batch: int = Field(32, ge=1, le=2**16, description="projections a backward pass")


class TileConfig(_Section):
    """How sheets are drawn."""

    seed: int = Field(0, ge=0, lt=2**63, description="of the random subset of live filters")
    quantile: float = Field(0.995, gt=0, le=1, description="of a projection's absolute values, drawn as full contrast")


class ClusterConfig(_Section):
    """Where the work is done."""

    kind: Literal["inline", "local"] = "inline"
    workers: int = Field(2, ge=1, le=1024, description="processes of a local cluster")
    device: str = Field("auto", description="as torch names them; auto = cuda where there is one, else cpu")
    threads: int = Field(0, ge=0, le=1024, description="of a worker, for decoding and torch; 0 shares the cores out")


class RunConfig(_Section):
    """Everything a run can be told. Empty sections take their defaults."""

    network: NetworkConfig
    data: DataConfig
    decode: DecodeConfig = DecodeConfig()
    mine: MineConfig = MineConfig()
    deconvolve: DeconvolveConfig = DeconvolveConfig()
    tile: TileConfig = TileConfig()
    cluster: ClusterConfig = ClusterConfig()
    store: str = Field(description="the Zarr store; runs/<configuration>.zarr unless given")


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
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return (
            f"{key} is not a key of the configuration ({path}): known are {', '.join(_known_keys(first['loc'][:-1]))}."
        )
    if first["type"] == "missing":
        return f"configuration {path} lacks {key}."
    where = f"{key} = {first['input']!r}" if key and not isinstance(first["input"], dict) else "the configuration"
    return f"{where} does not fit ({path}): {first['msg'].removeprefix('Value error, ')}."


def _known_keys(section: tuple[int | str, ...]) -> list[str]:
    model: Any = RunConfig
    for part in section:
        model = model.model_fields[part].annotation
    return sorted(model.model_fields)
