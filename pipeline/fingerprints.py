"""Fingerprints: the settings that what a stage writes depends on. They chain: each holds its predecessors' keys.

A difference at index or mine is an error that names the key; a difference at a later stage has that stage done again.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from .compute.footprints import ENERGY
from .config.sections import RunConfig
from .data.entry import Dataset
from .files import read_text
from .network.layers import Layer
from .network.registry import find_architecture
from .ranking.statistics import HISTOGRAM_BINS, LISTED, STRONGEST_IMAGES

Fingerprint = dict[str, Any]


@dataclass(frozen=True)
class Fingerprints:
    """The fingerprints of a run's stages.

    Attributes
    ----------
    index : dict
        What the index, and with it everything in the store, depends on.
    labels : dict
        What the images' labels and the names of the classes depend on: they can be changed without mining again.
    config : RunConfig
    """

    index: Fingerprint
    labels: Fingerprint
    config: RunConfig

    def of(self, stage: str, layer: Layer) -> Fingerprint:
        """Return what a layer's results of a stage depend on: mine, rank, statistics or deconvolve."""
        network = {"module": layer.module, "network.graph": layer.digest}
        mine = {**self.index, **network, **_settings(self.config, "mine", "precision", "batch")}
        if stage == "mine":
            return mine
        rank = {**mine, **_settings(self.config, "rank", *_rank_keys(self.config.rank.distinct))}
        if stage == "rank":
            return rank
        if stage == "statistics":
            return {**rank, **self.labels, **STATISTICS}
        settings = _settings(self.config, "deconvolve", "rule", "pooling", "lrn", "precision", "batch")
        return {**rank, **settings, "footprint": ENERGY}


STATISTICS: Fingerprint = {
    "statistics.bins": HISTOGRAM_BINS,
    "statistics.images": STRONGEST_IMAGES,
    "statistics.places": LISTED,
    "statistics.order": "count, activation",  # of a filter's most frequent classes
}


def compute_fingerprints(config: RunConfig, dataset: Dataset, weights_digest: str) -> Fingerprints:
    """Compute a run's fingerprints; it reads the files of labels and classes and hashes the names of all shards."""
    shards = "\n".join(f"{shard.name} {shard.size}" for shard in dataset.shards)
    mean, std = find_architecture(config.network).normalisation(config.decode.channels)
    index = {
        "data": f"{len(dataset.shards)} shards (names and sizes: {_digest(shards)})",
        "data.on_incomplete": config.data.on_incomplete,
        "data.max_pixels": config.data.max_pixels,
        "network.name": config.network.name,
        "network.weights": weights_digest,
        "network.mean, network.std": [*mean, *std],
        "data.range": [list(limits) for limits in config.data.range],
        "decode.resize": config.decode.resize if isinstance(config.decode.resize, int) else list(config.decode.resize),
        "decode.size": list(config.decode.size),
        "decode.channels": config.decode.channels,
        "decode.bands": list(config.decode.bands),
        "decode.fit": config.decode.fit,
        "decode.fill": None if config.decode.fill is None else list(config.decode.fill),
        "decode.interpolation": config.decode.interpolation,
        "decode.resample": config.decode.resample,
        "mine.block": config.mine.block,
        "decode.fast": config.decode.fast,
    }
    labels = {
        "data.labels": _file_digest(config.data.labels),
        "data.classes": _file_digest(config.data.classes),
    }
    return Fingerprints(index, labels, config)


def _rank_keys(distinct: str) -> list[str]:
    return ["distinct", *{"source": ["source"], "look": ["distance"]}.get(distinct, [])]


def _settings(config: RunConfig, section: str, *keys: str) -> Fingerprint:
    return {f"{section}.{key}": getattr(getattr(config, section), key) for key in keys}


def _file_digest(path: str) -> str:
    return _digest(read_text(path)) if path else ""


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
