"""What a store holds, read from it alone: for ``topnine status`` and the summary of a run."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from pipeline.store import UNDECODABLE, Store


def status(store: Store) -> dict[str, Any]:
    """Give images, undecodable ones with their reasons, and for every layer how far it is."""
    indexed = store.fingerprint("index") is not None
    reasons = undecodable(store) if indexed else {}
    return {
        "store": store.path,
        "images": store.images if indexed else 0,
        "undecodable": sum(reasons.values()),
        "reasons": reasons,
        "layers": {name: _layer(store, name) for name in store.layers},
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
    return {
        "number": store.layer_attributes(name)["number"],
        "blocks": store.blocks,
        "done": len(store.done_blocks(name)),
        "rank": ranked,
        "deconvolve": store.fingerprint("deconvolve", name) is not None,
        "dead": dead_filters(store, name) if ranked else None,
    }
