"""What a store alone says of a run: enough to rank, to compute statistics and to draw, without network and images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .config.sections import RunConfig
from .data.decoding.preparation import Preparation
from .data.entry import Dataset
from .errors import InputError
from .files import is_url
from .fingerprints import Fingerprints
from .network.layers import Layer
from .store.store import Store


@dataclass(frozen=True)
class StoredPlan:
    """A run, as far as a store tells it.

    Attributes
    ----------
    config : RunConfig
    dataset : Dataset
        From a store alone without shards.
    layers : tuple of Layer
        Those asked for, in the order in which the network runs them.
    fingerprints : Fingerprints
    """

    config: RunConfig
    dataset: Dataset
    layers: tuple[Layer, ...]
    fingerprints: Fingerprints

    def __post_init__(self) -> None:
        bands, channels = self.config.tile.bands, self.config.decode.channels
        if bands and max(bands) >= channels:
            raise InputError(f"tile.bands asks for channel {max(bands)}, and the network's input has {channels}.")

    @property
    def folder(self) -> Path:
        """The run's folder, beside its store, for figures and the gallery."""
        return run_folder(self.config.store)

    @property
    def preparation(self) -> Preparation:
        """How an image becomes the network's input."""
        return Preparation.of(self.config.decode, self.config.data)

    @property
    def remarks(self) -> list[str]:
        """What was chosen for the user, a line each."""
        return []

    def first_weights(self, layer: Layer) -> np.ndarray | None:
        """Return the weights (filter, channel, y, x) of layer 1 where it is a convolution of the pixels, if known."""
        return None


def plan_of_store(store: Store, config: RunConfig, names: Sequence[str]) -> StoredPlan:
    """Return what a store says of a run.

    Parameters
    ----------
    store : Store
    config : RunConfig
        What the store records, with changes.
    names : sequence of str
        Of layers of the store.

    Raises
    ------
    InputError
        The store has no index, or what it records of a layer is not what a run writes.
    """
    index, labels = store.fingerprint("index"), store.fingerprint("labels")
    if index is None:
        raise InputError(f"store {store.path} has no index yet: `topnine run` makes one.")
    layers = []
    for name in names:
        mined = store.fingerprint("mine", name) or {}
        try:
            layers.append(Layer.described(name, store.layer(name).attributes, str(mined.get("network.graph", ""))))
        except (LookupError, TypeError, ValueError) as error:
            raise InputError(f"store {store.path} is damaged: its layer {name} lacks {error}.") from None
    dataset = Dataset(store.attributes["dataset"]["name"], ())
    return StoredPlan(config, dataset, tuple(layers), Fingerprints(index, labels or {}, config))


def run_folder(store: str) -> Path:
    """Return the folder of a run from its store: ``runs/demo.zarr`` has ``runs/demo``, ``s3://b/x.zarr`` ``runs/x``."""
    if is_url(store):
        store = f"runs/{store.rstrip('/').rsplit('/', 1)[-1]}"
    store = store.rstrip("/")
    return Path(store.removesuffix(".zarr") if store.endswith(".zarr") else f"{store}.run")
