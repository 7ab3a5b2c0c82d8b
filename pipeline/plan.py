"""Everything a run needs to know before its first expensive step, decided and checked: a frozen value."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from . import device, networks, shards
from .config import RunConfig
from .deconvnet import Rules
from .errors import InputError
from .graph import trace
from .labels import Classes, read_classes
from .layers import Layer, find_layers
from .shards import photos
from .shards.files import is_url, read_text
from .statistics import BINS, IMAGES, PLACES
from .store import Store, check_writable

Fingerprint = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a run will do.

    Attributes
    ----------
    dataset : Dataset
    layers : tuple of Layer
        Those asked for, in the order in which the network runs them.
    digest : str
        Of the network's weights.
    """

    config: RunConfig
    dataset: shards.Dataset
    layers: tuple[Layer, ...]
    digest: str

    @property
    def device(self) -> str:
        """The device of the process that asks, as torch names it: workers elsewhere may have others."""
        return device.choose(self.config.cluster.device)

    @property
    def folder(self) -> Path:
        """The run's folder, beside its store: figures and gallery."""
        return run_folder(self.config.store)

    def network(self) -> networks.Network:
        """Load the network, once a process."""
        return networks.load(self.config.network, self.device)

    def classes(self) -> Classes | None:
        """Read the classes that ``data.classes`` names, if it names any."""
        return read_classes(self.config.data.classes) if self.config.data.classes else None

    def rules(self) -> Rules:
        """Give the rules of the deconvnet."""
        config = self.config.deconvolve
        return Rules(config.rule, config.pooling, config.lrn)

    def check_rule(self) -> None:
        """Raise InputError where ``deconvolve.rule`` is not defined for a layer."""
        for layer in self.layers:
            if layer.unrectified and self.config.deconvolve.rule != "gradient":
                raise InputError(
                    f"layer {layer.name} is computed with {', '.join(layer.unrectified)}, no rectifier: "
                    f"deconvolve.rule = {self.config.deconvolve.rule!r} is not defined for it. "
                    'Use deconvolve.rule = "gradient".'
                )

    def preprocessing(self) -> dict[str, Any]:
        """Give how an image becomes the network's input, as the store records it."""
        decode, architecture = self.config.decode, networks.architecture(self.config.network)
        sizes = {"resize": decode.resize, "crop": decode.crop, "filter": "bilinear"}
        return {
            **sizes,
            "orientation": "ignored",
            "scale": "RGB/255",
            "mean": list(architecture.mean),
            "std": list(architecture.std),
        }

    # Fingerprints chain: each holds its predecessor's keys.

    def index_fingerprint(self) -> Fingerprint:
        """What the index and everything in the store depend on."""
        config = self.config
        names = "\n".join(f"{shard.name} {shard.size}" for shard in self.dataset.shards)
        digest = hashlib.sha256(names.encode()).hexdigest()[:12]
        return {
            "data": f"{len(self.dataset.shards)} shards (names and sizes: {digest})",
            "data.labels": _text_digest(config.data.labels),
            "data.classes": _text_digest(config.data.classes),
            "data.max_pixels": config.data.max_pixels,
            "network.name": config.network.name,
            "network.weights": self.digest,
            "network.mean, network.std": self.preprocessing()["mean"] + self.preprocessing()["std"],
            "decode.resize": config.decode.resize,
            "decode.crop": config.decode.crop,
            "mine.block": config.mine.block,
        }

    def mine_fingerprint(self, layer: Layer) -> Fingerprint:
        """What a layer's activations depend on."""
        mine = self.config.mine
        own = {"module": layer.module, "mine.precision": mine.precision, "mine.batch": mine.batch}
        return {**self.index_fingerprint(), **own}

    def rank_fingerprint(self, layer: Layer) -> Fingerprint:
        """What a layer's ranking depends on."""
        return self.mine_fingerprint(layer)

    def statistics_fingerprint(self, layer: Layer) -> Fingerprint:
        """What a layer's statistics depend on."""
        own = {"statistics.bins": BINS, "statistics.images": IMAGES, "statistics.places": PLACES}
        return {**self.rank_fingerprint(layer), **own}

    def deconvolve_fingerprint(self, layer: Layer) -> Fingerprint:
        """What a layer's projections depend on."""
        config = self.config.deconvolve
        own = {
            "deconvolve.rule": config.rule,
            "deconvolve.pooling": config.pooling,
            "deconvolve.lrn": config.lrn,
            "deconvolve.batch": config.batch,
        }
        return {**self.rank_fingerprint(layer), **own}


def make_plan(config: RunConfig, photographs: Path | None = None) -> Plan:
    """Load the network, find the layers and the data, and check them against the store if there is one.

    Nothing is written but the sample photographs' shards, where ``data.path`` is ``photos``: into the run's
    folder, or the one given.

    Raises
    ------
    InputError
        Anything that a user has to change.
    """
    if config.cluster.kind not in ("slurm", "address"):  # the workers are on this machine
        device.choose(config.cluster.device)
    network = networks.load(config.network, "cpu")
    crop = config.decode.crop
    graph = trace(network.module, torch.zeros(1, 3, crop, crop))
    layers = find_layers(graph, network.architecture.layers, config.mine.layers)
    check_writable(config.store)
    if config.data.path == "photos":
        folder = photographs or run_folder(config.store) / "shards"
        photos.write_shards(folder)
        dataset = shards.find(str(folder), "photos")
    else:
        dataset = shards.find(config.data.path)
        if Path(config.data.path).resolve() == run_folder(config.store).resolve():
            raise InputError(
                f"figures for {config.store} would be written into the data {config.data.path}: give another STORE."
            )
    plan = Plan(config, dataset, tuple(layers), network.digest)
    plan.classes()
    if Store.exists(config.store):
        check_store(plan, Store.open(config.store))
    return plan


def check_store(plan: Plan, store: Store) -> None:
    """Check that a store was made with the settings of a plan; InputError names the first that differs."""
    recorded = store.fingerprint("index")
    if recorded is not None:
        _compare(plan, recorded, plan.index_fingerprint())
    for layer in plan.layers:
        recorded = store.fingerprint("mine", layer.name)
        if recorded is not None:
            _compare(plan, recorded, plan.mine_fingerprint(layer))


def _compare(plan: Plan, recorded: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    for key in wanted:
        hint = f" DATA is {plan.config.data.path} here." if key == "data" else ""
        if recorded.get(key) != wanted[key]:
            raise InputError(
                f"store {plan.config.store} was made with {key} = {recorded.get(key)}, this run has {wanted[key]}: "
                f"give another STORE, or the setting it was made with.{hint}"
            )


def _text_digest(path: str) -> str:
    return hashlib.sha256(read_text(path).encode()).hexdigest()[:12] if path else ""


def run_folder(store: str) -> Path:
    """Give the folder of a run from its store: ``runs/demo.zarr`` has ``runs/demo``, ``s3://b/x.zarr`` ``runs/x``."""
    if is_url(store):
        store = f"runs/{store.rstrip('/').rsplit('/', 1)[-1]}"
    store = store.rstrip("/")
    return Path(store.removesuffix(".zarr") if store.endswith(".zarr") else f"{store}.run")


def versions() -> dict[str, str]:
    """Give the versions that a result may depend on."""
    return {name: version(name) for name in ("topnine", "torch", "torchvision", "numpy", "pillow", "zarr")}
