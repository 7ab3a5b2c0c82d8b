"""How far a store is, read from the store alone: the facts of ``topnine status`` and of a run's last lines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np

from topnine.pipeline.store.holder import Holder
from topnine.pipeline.store.lease import find_holder
from topnine.pipeline.store.schema import UNDECODABLE
from topnine.pipeline.store.store import Store


@dataclass(frozen=True)
class LayerStatus:
    """How far a layer is.

    Attributes
    ----------
    number : int, optional
        Of a numbered layer.
    blocks, done, failed, to_do : int
        Blocks of images: all of them, those mined, those set aside after they failed, and the others.
    reasons : dict of int to str
        Why a block failed, by its number.
    rank, statistics, deconvolve : bool
        Whether the stage is done.
    dead : int, optional
        The number of filters that no image activates, once the layer is ranked.
    hits : int
        The filled ranks of all filters.
    ties : int, optional
        The number of hits whose projection hangs on a near-tie of a pooling region, once the layer is deconvolved.
    precision : str
        In which it was deconvolved; empty where that is not done.
    """

    number: int | None
    blocks: int
    done: int
    failed: int
    to_do: int
    reasons: dict[int, str]
    rank: bool
    statistics: bool
    deconvolve: bool
    dead: int | None
    hits: int = 0
    ties: int | None = None
    precision: str = ""


@dataclass(frozen=True)
class WriterStatus:
    """The run that writes to a store: its process, and how far the stage is that it works on.

    Attributes
    ----------
    started, heartbeat : str
        When the run began and when it last reported, as ISO 8601 in UTC.
    stage, unit : str
        Empty while it starts.
    per_second : float
        Units of the stage; 0 while nothing is known.
    seconds_left : float, optional
        Until the stage is done.
    """

    host: str
    pid: int
    started: str
    heartbeat: str
    stage: str
    unit: str
    done: int
    total: int
    per_second: float
    seconds_left: float | None


@dataclass(frozen=True)
class DamagedImage:
    """An image that could not be decoded: its key, the name of its shard, and why."""

    key: str
    shard: str
    reason: str


@dataclass(frozen=True)
class IncompleteShard:
    """A shard that was a copy that is not finished when it was indexed: its name, and what was missing."""

    shard: str
    missing: str


@dataclass(frozen=True)
class StoreStatus:
    """How far a store is.

    Attributes
    ----------
    store : str
        Its path or URL.
    images, undecodable : int
    reasons : dict of str to int
        How many images are undecodable for a reason, the most frequent reason first.
    layers : dict of str to LayerStatus
        In the order in which the network runs them.
    holder : WriterStatus, optional
        The run that writes to the store now.
    damaged : list of DamagedImage
        In the order of the images.
    incomplete : list of IncompleteShard
    """

    store: str
    images: int
    undecodable: int
    reasons: dict[str, int]
    layers: dict[str, LayerStatus]
    holder: WriterStatus | None
    damaged: list[DamagedImage] = field(default_factory=list)
    incomplete: list[IncompleteShard] = field(default_factory=list)


def status(store: Store) -> StoreStatus:
    """Read how far a store is."""
    indexed = store.fingerprint("index") is not None
    damaged = _list_damaged(store) if indexed else []
    reasons = dict(Counter(image.reason for image in damaged).most_common())
    holder = find_holder(store.path)
    return StoreStatus(
        store.path,
        len(store.images) if indexed else 0,
        sum(reasons.values()),
        reasons,
        {name: _read_layer(store, name) for name in store.layers} if indexed else {},
        None if holder is None else _describe_writer(holder),
        damaged,
        [IncompleteShard(**shard) for shard in store.attributes.get("dataset", {}).get("incomplete", [])],
    )


def _list_damaged(store: Store) -> list[DamagedImage]:
    """List the images that could not be decoded."""
    (state,) = store.images.columns_so_far(["status"])
    images = np.nonzero(state == UNDECODABLE)[0]
    columns = store.images.columns(("key", "shard", "reason"), images) if len(images) else [images] * 3
    shards = store.attributes["dataset"]["shards"]
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [DamagedImage(key, shards[shard]["name"], reason) for key, shard, reason in rows]


def _read_layer(store: Store, name: str) -> LayerStatus:
    layer, blocks = store.layer(name), store.images.blocks
    done, failed = len(store.progress.done_blocks(name)), store.progress.failed_blocks(name)
    finished = {stage: store.fingerprint(stage, name) is not None for stage in ("rank", "statistics", "deconvolve")}
    ranked = layer.read_ranking().image >= 0 if finished["rank"] else np.zeros((0, 1), bool)
    return LayerStatus(
        number=layer.attributes["number"],
        blocks=blocks,
        done=done,
        failed=len(failed),
        to_do=blocks - done - len(failed),
        reasons=failed,
        **finished,
        dead=int(np.sum(~ranked[:, 0])) if finished["rank"] else None,
        hits=int(ranked.sum()),
        ties=layer.count_ties(),
        precision=(store.fingerprint("deconvolve", name) or {}).get("deconvolve.precision", ""),
    )


def _describe_writer(holder: Holder) -> WriterStatus:
    rate = holder.rate
    return WriterStatus(
        host=holder.host,
        pid=holder.pid,
        started=_format_time(holder.started),
        heartbeat=_format_time(holder.heartbeat),
        stage=holder.stage,
        unit=holder.unit,
        done=holder.done,
        total=holder.total,
        per_second=rate,
        seconds_left=(holder.total - holder.done) / rate if rate else None,
    )


def _format_time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
