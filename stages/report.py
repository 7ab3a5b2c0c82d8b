"""What a store holds, read from it alone: for ``topnine status`` and the summary of a run."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np

from pipeline.lease import Holder, find_holder
from pipeline.store import UNDECODABLE, Store


def status(store: Store) -> dict[str, Any]:
    """Give images, undecodable ones with their reasons, for every layer how far it is, and the run that writes."""
    indexed = store.fingerprint("index") is not None
    holder = find_holder(store)
    reasons = undecodable(store) if indexed else {}
    return {
        "store": store.path,
        "images": store.images if indexed else 0,
        "undecodable": sum(reasons.values()),
        "reasons": reasons,
        "layers": {name: _layer(store, name) for name in store.layers} if indexed else {},
        "holder": None if holder is None else _holder(holder),
    }


def undecodable(store: Store) -> dict[str, int]:
    """Count the images that could not be decoded, by reason, most frequent first."""
    state, reason = store.image_columns(("status", "reason"))
    return dict(Counter(reason[state == UNDECODABLE].tolist()).most_common())


def dead_filters(store: Store, layer: str) -> int:
    """Count the filters that no image activates."""
    return int(np.sum(store.read_ranking(layer).image[:, 0] < 0))


def _layer(store: Store, name: str) -> dict[str, Any]:
    ranked = store.fingerprint("rank", name) is not None
    done, failed = len(store.done_blocks(name)), store.failed_blocks(name)
    return {
        "number": store.layer_attributes(name)["number"],
        "blocks": store.blocks,
        "done": done,
        "failed": len(failed),
        "to_do": store.blocks - done - len(failed),
        "reasons": failed,
        "rank": ranked,
        "statistics": store.fingerprint("statistics", name) is not None,
        "deconvolve": store.fingerprint("deconvolve", name) is not None,
        "dead": dead_filters(store, name) if ranked else None,
    }


def _holder(holder: Holder) -> dict[str, Any]:
    rate = holder.rate
    return {
        "host": holder.host,
        "pid": holder.pid,
        "started": _time(holder.started),
        "heartbeat": _time(holder.heartbeat),
        "stage": holder.stage,
        "unit": holder.unit,
        "done": holder.done,
        "total": holder.total,
        "per_second": rate,
        "seconds_left": (holder.total - holder.done) / rate if rate else None,
    }


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
