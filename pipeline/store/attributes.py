"""The attributes of a store's root and layers, as they are stored and as this project uses them.

NetCDF's attributes hold numbers, texts and lists of numbers, nothing else. So a structure is stored in one of two ways.
What a scientist reads is spread over attributes that begin with its name: ``receptive_field`` becomes
``receptive_field_size``, ``receptive_field_stride`` and so on. What only this project reads back, such as the
configuration, is one text in JSON. What has no value is not stored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import InputError

Attributes = dict[str, Any]

Fingerprints = dict[str, dict[str, Any]]
Side = Annotated[int, Field(ge=1, le=2**20)]  # in pixels or positions of a map
Count = Annotated[int, Field(ge=0, le=2**40)]
Number = Annotated[float, Field(allow_inf_nan=False)]


class _Model(BaseModel):
    """A model of attributes; what it does not name may be anything."""

    model_config = ConfigDict(strict=True, extra="allow")


class _Shard(_Model):
    name: str
    size: Count
    modified: Number


class _Missing(_Model):
    shard: str
    missing: str


class _Dataset(_Model):
    name: str
    shards: list[_Shard]
    classes: list[str]
    incomplete: list[_Missing] = []


class _Network(_Model):
    name: str
    weights: str


class _Preprocessing(_Model):
    resize: Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
    size: Annotated[list[Side], Field(min_length=2, max_length=2)]
    channels: Side = 3


class _Root(_Model):
    """The attributes of a root whose index is written."""

    images: Count
    block: Side
    dataset: _Dataset
    fingerprints: Fingerprints
    network: _Network | None = None
    preprocessing: _Preprocessing | None = None
    configuration: dict[str, Any] = {}
    versions: dict[str, str] = {}


class _Map(_Model):
    height: Side
    width: Side


class _Field(_Model):
    size: Side | Annotated[list[Side], Field(min_length=2, max_length=2)]
    stride: Number | Annotated[list[Number], Field(min_length=2, max_length=2)]
    offset: Number | Annotated[list[Number], Field(min_length=2, max_length=2)]
    source: str = "graph"


class _Probe(_Model):
    layout: dict[str, Any]
    unseen: list[str]
    projected_on: Literal["image", "crop"]
    unprojectable: str
    references: list[float] = []


class _Layer(_Model):
    """The attributes of a layer that is added."""

    number: Annotated[int, Field(ge=1, le=2**20)] | None
    depth: Count
    module: str
    filters: Side
    map: _Map
    receptive_field: _Field
    tap: str
    precision: str
    fingerprints: Fingerprints
    probe: _Probe | None = None
    classes: Annotated[int, Field(ge=0, le=2**31)] = 0


# Structures that are spread over attributes which begin with their name.
SPREAD = ("dataset", "network", "preprocessing", "map", "receptive_field")
# Attributes that hold a text in JSON.
JSON_TEXTS = ("dataset_shards", "dataset_classes", "versions", "configuration", "probe", "fingerprints")


def store_attributes(attributes: Mapping[str, Any]) -> Attributes:
    """Return the attributes of a root or a layer as they are stored.

    >>> store_attributes({"number": None, "map": {"height": 6, "width": 6}, "versions": {"zarr": "3"}})
    {'map_height': 6, 'map_width': 6, 'versions': '{"zarr": "3"}'}
    """
    spread: Attributes = {}
    for name, value in attributes.items():
        spread |= {f"{name}_{key}": part for key, part in value.items()} if name in SPREAD else {name: value}
    return {
        name: json.dumps(value, ensure_ascii=False) if name in JSON_TEXTS else value
        for name, value in spread.items()
        if value is not None
    }


def read_root(stored: Mapping[str, Any], where: str) -> Attributes:
    """Return the root's attributes from those that are stored.

    Raises
    ------
    InputError
        They are not what a run writes once it has an index. The error names ``where`` they are stored.
    """
    return _check(_gather(stored, where), _Root, "index", where)


def read_layer(stored: Mapping[str, Any], where: str) -> Attributes:
    """Return a layer's attributes from those that are stored: none, where none are stored yet.

    Raises
    ------
    InputError
        They are not what a run writes once it has added the layer. The error names ``where`` they are stored.

    Examples
    --------
    >>> read_layer({"map_height": 6, "map_width": 7, "versions": '{"zarr": "3"}'}, "layers/conv1")
    {'number': None, 'map': {'height': 6, 'width': 7}, 'versions': {'zarr': '3'}}
    """
    return _check({"number": None, **_gather(stored, where)}, _Layer, "mine", where) if stored else {}


def read_fingerprints(stored: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return what the stages recorded when they were done, by stage; errors as ``read_layer``."""
    fingerprints: dict[str, Any] = _parse("fingerprints", stored.get("fingerprints", "{}"), where)
    for stage, fingerprint in fingerprints.items():
        if not isinstance(fingerprint, dict):
            raise InputError(f"{where} is damaged: its fingerprint {stage!r} is no object. Give another STORE.")
    return fingerprints


def _check(attributes: Attributes, model: type[BaseModel], stage: str, where: str) -> Attributes:
    """Return attributes that hold what a model says, once a stage has recorded that it wrote them."""
    if stage in attributes.get("fingerprints", {}):
        try:
            model.model_validate(attributes)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(map(str, first["loc"]))
            raise InputError(
                f"{where} is damaged: its attribute {name}: {first['msg'].lower()}. Give another STORE."
            ) from None
    return attributes


def _gather(stored: Mapping[str, Any], where: str) -> Attributes:
    """Undo ``store_attributes``."""
    attributes: Attributes = {}
    for name, value in stored.items():
        parsed = _parse(name, value, where) if name in JSON_TEXTS else value
        structure = next((structure for structure in SPREAD if name.startswith(f"{structure}_")), None)
        if structure is None:
            attributes[name] = parsed
        else:
            attributes.setdefault(structure, {})[name.removeprefix(f"{structure}_")] = parsed
    return attributes


def _parse(name: str, text: Any, where: str) -> Any:
    """Return the value of a text in JSON: an object or a list."""
    try:
        value = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        value = None
    wanted = list if name in ("dataset_shards", "dataset_classes") else dict
    if not isinstance(value, wanted):
        kind = "a list" if wanted is list else "an object"
        raise InputError(f"{where} is damaged: its attribute {name} is not {kind} in JSON. Give another STORE.")
    return value
