"""The tables and keys of a run's configuration."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from .base import Table, whole_sentence
from .clusters import ClusterConfig, InlineCluster

# Names of weights that torchvision downloads; the first is its IMAGENET1K_V1, DEFAULT its best.
TORCHVISION_WEIGHTS = ("torchvision", "IMAGENET1K_V1", "IMAGENET1K_V2", "DEFAULT")
TIMM_WEIGHTS = "timm"  # those that timm downloads
BUNDLED = {"tiny_zfnet": "bundled"}  # the weights that the package brings
NAMED_WEIGHTS = ("bundled", "random", TIMM_WEIGHTS, *TORCHVISION_WEIGHTS)  # all others are paths
TORCH_FILTERS = ("bilinear", "bicubic")  # of decode.interpolation, with which torch resizes images of 8 bits

Byte = Annotated[int, Field(ge=0, le=255)]
Side = Annotated[int, Field(ge=0, le=2**14)]  # of an image
Band = Annotated[int, Field(ge=0, le=2**12)]
Limits = tuple[float, float]


class NetworkConfig(Table):
    """The network and its weights."""

    name: str = Field(
        description="A network that `topnine networks` lists, `timm:` and a name of timm's, or "
        "`package.module:function`, a function of your own that returns one."
    )
    layers: tuple[tuple[str, str], ...] = Field(
        (),
        description='Names for modules of the network, as in `{stem = "stem.conv"}`. The first one is `LAYER=1`, '
        "the second `LAYER=2`, and so on. Empty, the network's own numbering holds.",
    )
    mean: tuple[float, ...] | None = Field(
        None,
        description="Mean of each channel, on a scale from 0 to 1, that normalisation subtracts. Unset, it is the "
        "network's own.",
    )
    std: tuple[float, ...] | None = Field(
        None,
        description="Standard deviation of each channel, on a scale from 0 to 1, that normalisation divides by. "
        "Unset, it is the network's own.",
    )
    weights: str = Field(
        "",
        description="`bundled` (for tiny_zfnet); `torchvision`, `IMAGENET1K_V1` (the same), `IMAGENET1K_V2` or "
        "`DEFAULT` (torchvision's, downloaded); `timm` (timm's, downloaded); `random`; or the path of a file. See "
        "[Weights of your own](#weights-of-your-own). Empty, it is `bundled`, `torchvision` or `timm`; for a function "
        "of your own `random`, which leaves the weights as the function makes them.",
    )
    weights_key: str = Field(
        "",
        description="Which weights of a checkpoint are meant, where it holds several: the name that they are saved "
        "under, as in `model_ema`, or what their keys begin with, as in `teacher`. Empty, the trained "
        "ones come before their averages.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of random weights.")
    checkpoints: tuple[str, ...] = Field(
        (),
        description="Weights from one training in the order of its epochs, each as in `weights`. `topnine evolution` "
        "compares them.",
    )

    @model_validator(mode="before")
    @classmethod
    def _trained_weights(cls, table: Any) -> Any:
        if not isinstance(table, dict) or table.get("weights") or not isinstance(table.get("name"), str):
            return table
        name = table["name"]
        usual = TIMM_WEIGHTS if name.startswith("timm:") else "random" if ":" in name else "torchvision"
        return table | {"weights": BUNDLED.get(name, usual)}

    @field_validator("layers", mode="before")
    @classmethod
    def _layers_from_a_table(cls, value: Any) -> Any:
        return tuple(value.items()) if isinstance(value, dict) else value


class DataConfig(Table):
    """The images and their labels, and what happens to damaged images."""

    path: str = Field(
        description="A shard, a folder, a pattern of shards, or a text file that lists shards, on disk or in a "
        "bucket. `photos` means the sample photographs."
    )
    labels: str = Field(
        "",
        description="A text file with one class index or wnid on each line, in the order of the images. Empty, labels "
        "come from the data itself.",
    )
    classes: str = Field(
        "",
        description="A tab-separated file with index, wnid and name of each class. Empty, class folders are numbered "
        "in the order of their names.",
    )
    index: str = Field(
        "",
        description="The store of another run on the same data, such as one with another network. Its index is taken "
        "over, which saves listing the shards. It is refused where the shards' names, sizes or times differ, or the "
        "labels and classes.",
    )
    on_damaged: Literal["skip", "fail"] = Field(
        "skip",
        description="`skip` records each damaged image with its reason and goes on. `fail` stops at the first one.",
    )
    on_incomplete: Literal["fail", "take"] = Field(
        "fail",
        description="A tar that ends before its last member does, or without its closing blocks, is a copy that is "
        "not finished. `fail` refuses it. `take` takes the images that are there, and every summary says what is "
        "missing.",
    )
    max_damaged_fraction: float = Field(
        0.01,
        ge=0,
        le=1,
        description="The largest fraction of images that may be damaged. Where more are, and more than ten, the run "
        "ends with exit code 1 and keeps the store.",
    )
    max_pixels: int = Field(
        178_956_970,
        ge=1,
        description="The largest image, in pixels, that is decoded. A larger one counts as damaged.",
    )
    range: tuple[Limits, ...] = Field(
        (),
        description="Of images of more than 8 bits, the values that become black and white, as in `[0, 4095]`, or a "
        "pair for each channel. All between are scaled to 8 bits, all beyond are cut off. Empty, it is taken from a "
        "sample: see [Channels and bits](#channels-and-bits).",
    )

    @field_validator("range", mode="before")
    @classmethod
    def _one_pair(cls, value: Any) -> Any:
        is_pair = isinstance(value, list | tuple) and value and not any(isinstance(v, list | tuple) for v in value)
        return (tuple(value),) if is_pair else value

    @field_validator("range")
    @classmethod
    def _ascends(cls, value: tuple[Limits, ...]) -> tuple[Limits, ...]:
        if not all(math.isfinite(high - low) and low < high for low, high in value):
            raise ValueError("each pair is a value and a larger one")
        return value


class DecodeConfig(Table):
    """How an image becomes the network's input: it is resized, then its centre is cropped out."""

    size: tuple[Side, Side] = Field(
        (0, 0),
        description="Height and width in pixels of the network's input, as in `[192, 640]`, or one number for a "
        "square; `crop` is another name of this key. 0: the network's own, which the run prints.",
    )
    resize: Side | tuple[Side, Side] = Field(
        0,
        description="What an image is resized to, in pixels, before its centre is cropped: a number is the length of "
        "its shortest side, or another one: see `fit`. With `crop` and a pair it covers this height and width. "
        "0: the network's own; with a `size` of yours, that.",
    )
    fit: Literal["", "crop", "squash", "pad"] = Field(
        "",
        description="How an image gets the shape of the input: `crop` keeps its shape and crops it, `squash` resizes "
        "both sides to `resize` before the crop, `pad` resizes its longest side and adds borders. Empty: the "
        "network's own.",
    )
    fill: tuple[Byte, ...] | None = Field(
        None,
        description="Value of each channel, 0 to 255, of the borders of `pad`. Unset, it is the network's mean.",
    )
    interpolation: Literal["", "nearest", "bilinear", "bicubic", "lanczos"] = Field(
        "", description="Filter of the resizing. Empty: the network's own."
    )
    resample: Literal["", "pillow", "torch"] = Field(
        "",
        description="Whose filter it is: `torch`, which has `bilinear` and `bicubic`, or `pillow`, which takes three "
        "times as long and gives the same pixels as torchvision's transforms. Empty: `torch`, or `pillow` for the "
        "filters that torch lacks.",
    )
    channels: int = Field(
        0,
        ge=0,
        le=2**12,
        description="Channels of the network's input. With 1, images become grey. 0: those that the network takes, "
        "which the run finds out.",
    )
    bands: tuple[Band, ...] = Field(
        (),
        description="Which bands of an image are the channels, in this order, counted from 0. Empty: all.",
    )
    fast: bool = Field(
        False,
        description="Let the JPEG decoder itself shrink large images. It is faster and changes the pixels a little.",
    )

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        return (value, value) if isinstance(value, int | str) else value

    @field_validator("resize")
    @classmethod
    def _one_side(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        return value[0] if isinstance(value, tuple) and value[0] == value[1] else value

    @field_validator("size", "resize")
    @classmethod
    def _both_or_none(cls, value: int | tuple[int, int]) -> int | tuple[int, int]:
        if isinstance(value, tuple) and any(value) and not all(value):
            raise ValueError("one side is 0 and the other is not")
        return value

    @model_validator(mode="after")
    def _size_fits(self) -> DecodeConfig:
        if self.resize and any(self.size):
            check_size(self.size, self.resize, self.fit)
        return self


def check_size(size: tuple[int, int], resize: int | tuple[int, int], fit: str) -> None:
    """Raise an error for a validator where an image of any shape would be smaller than the crop out of it."""
    sides = (resize, resize) if isinstance(resize, int) else resize
    if fit != "pad" and any(crop > side for crop, side in zip(size, sides, strict=True)):
        shown, resized = (describe_size(each) for each in (size, resize))
        raise whole_sentence(
            f"decode.size = {shown} is larger than decode.resize = {resized}: give a larger decode.resize, as a pair "
            "[height, width] where the input is no square."
        )


def describe_size(size: int | tuple[int, int]) -> str:
    """Return a size as a configuration has it.

    >>> describe_size((224, 224)), describe_size((192, 640)), describe_size(256)
    ('224', '[192, 640]', '256')
    """
    if isinstance(size, int):
        return str(size)
    return str(size[0]) if size[0] == size[1] else str(list(size))


class MineConfig(Table):
    """Which layers are mined, and in portions of which size."""

    layers: str = Field(
        "5",
        description="Numbers and names of layers, separated by spaces. `all` means every numbered layer, `every` "
        "means every convolution.",
    )
    block: int = Field(
        1024,
        ge=1,
        le=2**20,
        description="Images in a block, which is mined, written and marked as done as one.",
    )
    span: int = Field(16, ge=1, le=2**20, description="Blocks in a task, which a worker mines one after the other.")
    batch: int = Field(
        32, ge=1, le=2**16, description="Images in one forward pass of the network. A batch never crosses a block."
    )
    precision: Literal["float32", "tf32", "bfloat16", "float16"] = Field(
        "float32", description="Number format that the network computes in. `tf32` needs a GPU."
    )
    queue_mib: int = Field(
        64, ge=1, le=2**20, description="Memory, in MiB, for decoded images that wait for the network."
    )


class RankConfig(Table):
    """Which of a filter's strongest activations count as the same. Only the strongest of them is ranked."""

    distinct: Literal["image", "place", "source", "look"] = Field(
        "image",
        description="What no two ranked images of a filter share: the image itself, a place in a photograph, a "
        "source, or a look. See [Near-duplicates](#near-duplicates).",
    )
    source: str = Field(
        r"(.+?)[-_.]\d[-_.\d]*",
        description='Regular expression with one group for `distinct = "source"`. Where it matches the whole key of '
        "an image, the group is the image's source. An image whose key does not match is its own source.",
    )
    distance: int = Field(
        10,
        ge=0,
        le=64,
        description='For `distinct = "look"`: images look alike when at most this many of the 64 bits of their '
        "difference hashes differ.",
    )

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


class DeconvolveConfig(Table):
    """How activations are projected back to pixels."""

    rule: Literal["deconvnet", "guided", "gradient"] = Field(
        "deconvnet",
        description="What happens at a ReLU on the way back. `deconvnet` drops negative signals, `gradient` drops "
        "signals where the ReLU's input was negative, `guided` drops both.",
    )
    pooling: Literal["sum", "overwrite"] = Field(
        "sum",
        description="What happens where overlapping pooling regions chose the same position: their signals are added, "
        "or the last one replaces the others.",
    )
    lrn: Literal["gradient", "identity"] = Field(
        "gradient",
        description="How local response normalisation is passed on the way back: by its derivative, or unchanged.",
    )
    precision: Literal["float32", "float64"] = Field(
        "float32",
        description="Number format that projections are computed in; they are stored in float32. See "
        "[Near-ties](#near-ties).",
    )
    batch: int = Field(
        8,
        ge=1,
        le=2**16,
        description="Images in one backward pass. Where crops of images suffice, a pass takes as many as have the "
        "pixels of this number of images.",
    )


class TileConfig(Table):
    """How sheets are drawn."""

    seed: int = Field(
        0, ge=0, lt=2**63, description="Seed of the random subset of filters that a sheet shows, dead filters excluded."
    )
    view: Literal["footprints", "windows"] = Field(
        "footprints",
        description="What is shown of patches and projections: the square that has 99 % of the projection's energy, "
        "and the patch faded where the projection is weak; or whole windows, as in the paper.",
    )
    quantile: float = Field(
        0.995,
        gt=0,
        le=1,
        description="Quantile of the absolute values of a filter's projections that is drawn with full contrast.",
    )
    bands: tuple[Band, ...] = Field(
        (),
        description="Which channels are drawn as red, green and blue, or one as grey, where the network takes others "
        "than these, counted from 0. Empty: the first three.",
    )

    @field_validator("bands")
    @classmethod
    def _one_or_three(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if len(value) not in (0, 1, 3):
            raise ValueError("a picture shows one channel or three")
        return value


class GalleryConfig(Table):
    """What the gallery shows of the images."""

    thumbnails: bool = Field(
        True,
        description="Show whole images, and patches that cover more than half of an image. Set it to `false` for "
        "images that may not be published.",
    )


class RunConfig(Table):
    """Everything that can be set for a run."""

    network: NetworkConfig = Field(description="The network and its weights.")
    data: DataConfig = Field(description="The images and their labels.")
    decode: DecodeConfig = Field(DecodeConfig(), description="How an image becomes the network's input.")
    mine: MineConfig = Field(MineConfig(), description="What is mined, and in which portions.")
    rank: RankConfig = Field(RankConfig(), description="Which activations count as the same.")
    deconvolve: DeconvolveConfig = Field(DeconvolveConfig(), description="How activations are projected to pixels.")
    tile: TileConfig = Field(TileConfig(), description="How sheets are drawn.")
    gallery: GalleryConfig = Field(GalleryConfig(), description="What the gallery shows of the images.")
    cluster: ClusterConfig = Field(InlineCluster(), discriminator="kind", description="Who does the work.")
    store: str = Field(
        description="Path of the Zarr store that the run writes, or its address in a bucket. Unset, it is named after "
        "the configuration's file; where options name the network or the data, after these."
    )

    @field_validator("cluster", mode="before")
    @classmethod
    def _inline_unless_given(cls, value: Any) -> Any:
        return {"kind": "inline", **value} if isinstance(value, dict) else value
