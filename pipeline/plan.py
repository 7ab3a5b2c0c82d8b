"""Everything that a run decides and checks before its first expensive step, as a frozen value.

A plan stays in the driver. A task is handed a small frozen value with what it needs: see the stages.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from .compute.activations import Forward
from .compute.deconvnet import Rules
from .compute.devices import open_device
from .compute.doubles import check_double
from .compute.probing.probe import SAMPLED_IMAGES, probe, probe_pixels
from .compute.probing.references import References, find_difference
from .config.reading import absolute
from .config.sections import RunConfig, describe_size
from .data.dataset import find_dataset
from .data.decoding.preparation import COLOURS, Preparation
from .data.entry import Dataset
from .data.images import ImageSource
from .data.labels import Classes, read_classes
from .data.photos import write_shards
from .data.value_range import find_range
from .errors import InputError
from .fingerprints import Fingerprint, compute_fingerprints
from .network.classifier import Classifier, find_classifier
from .network.graph import Graph
from .network.layers import Layer, find_layers, pixel_weights
from .network.loading import Network, check_reproducible, load_network, trace_network
from .network.registry import complete_decoding
from .network.unloaded import check_classifier, check_layers
from .store.store import Store, check_writable
from .stored_plan import StoredPlan, run_folder

logger = logging.getLogger(__name__)

_Examined = tuple[Graph, tuple[Layer, ...], References]
# What was found of the networks that this process has loaded, by the input's size and the layers asked for.
_EXAMINED: WeakKeyDictionary[Hashable, dict[tuple[tuple[int, int, int], str], _Examined]] = WeakKeyDictionary()

NAMED = 5  # of what is not used of the data
RECORDED_VERSIONS = ("topnine", "torch", "torchvision", "numpy", "pillow", "zarr")


@dataclass(frozen=True)
class Plan(StoredPlan):
    """What a run will do.

    Attributes
    ----------
    config, dataset, layers, fingerprints
        See ``StoredPlan``.
    classes : Classes or None
        None where ``data.classes`` names none.
    network : Network
        On the CPU: the driver needs no accelerator.
    graph : Graph
        The network's, at the size of its input.
    references : mapping of layer name to activations
        What the network gives on a fixed input: see ``compute.probing.references``.
    """

    classes: Classes | None
    network: Network
    graph: Graph
    references: References

    @property
    def images(self) -> ImageSource:
        """The images, and how they are decoded."""
        return ImageSource(self.dataset, self.preparation)

    @property
    def remarks(self) -> list[str]:
        """What was chosen for the user, a line each: of the weights, and how images become the network's input."""
        unused = self.dataset.unused
        more = f" and {len(unused) - NAMED} more" if len(unused) > NAMED else ""
        return [
            *self.network.remarks,
            *([f"not used of {self.config.data.path}: {', '.join(unused[:NAMED])}{more}"] if unused else []),
            self._describe_resizing(),
            *self._describe_values(),
        ]

    def _describe_resizing(self) -> str:
        decode, own = self.config.decode, self.network.architecture
        is_own = all(getattr(decode, key) == getattr(own, key) for key in ("resize", "size", "fit", "interpolation"))
        taken = f"as in {own.wanted_by}" if own.wanted_by else "which is assumed: see decode.size"
        sides = {"crop": "a shortest side of ", "squash": "both sides of ", "pad": "a longest side of "}[decode.fit]
        if not isinstance(decode.resize, int):
            sides = {"crop": "cover ", "squash": "", "pad": "fit into "}[decode.fit]
        cut = "cropped" if decode.fit != "pad" else "cropped or padded"
        height, width = decode.size
        return (
            f"images are resized ({decode.interpolation}, by {decode.resample}) to "
            f"{sides}{describe_size(decode.resize)} pixels, then {cut} to {height} × {width}, "
            f"{taken if is_own else 'as the configuration says'}"
        )

    def _describe_values(self) -> list[str]:
        """Describe what becomes of an image's bands and values, where it is not the usual."""
        decode, data, own = self.config.decode, self.config.data, self.network.architecture
        lines = []
        if decode.bands:
            lines.append(f"bands {', '.join(map(str, decode.bands))} of an image are the channels")
        if decode.channels == 1:
            lines.append("images become grey: the network takes one channel")
        if decode.channels != COLOURS and len(own.mean) != decode.channels:
            mean, std = own.normalisation(decode.channels)
            each = f"each of {decode.channels} channels" if decode.channels > 1 else "the channel"
            lines.append(
                f"{each} is normalised by mean {mean[0]:.3f} and deviation {std[0]:.3f}, "
                "which is assumed: see network.mean"
            )
        if data.range:
            pairs = ", ".join(f"{low:.6g} to {high:.6g}" for low, high in data.range)
            lines.append(f"values from {pairs} become 0 to 255: see data.range")
        if decode.channels not in (1, COLOURS):
            usual = "0, 1, 2" if decode.channels > COLOURS else "0"
            shown = ", ".join(map(str, self.config.tile.bands)) or usual
            lines.append(f"pictures show channels {shown}: see tile.bands")
        return lines

    def first_weights(self, layer: Layer) -> np.ndarray | None:
        """Return the weights (filter, channel, y, x) of layer 1, where it is a convolution of the pixels."""
        return pixel_weights(self.network.module, layer) if layer.number == 1 else None

    @property
    def rules(self) -> Rules:
        """The rules of the deconvnet."""
        config = self.config.deconvolve
        return Rules(config.rule, config.pooling, config.lrn)

    def check_rule(self) -> None:
        """Raise InputError where ``deconvolve.rule`` or ``deconvolve.precision`` is not defined for a layer."""
        if self.config.deconvolve.precision == "float64":
            check_double(self.network, self.layers, self.preparation.shape)
        rule = self.config.deconvolve.rule
        for layer in self.layers:
            if layer.unprojectable:
                raise InputError(f"layer {layer.name} can be mined but not projected: {layer.unprojectable}.")
            if rule != "gradient" and layer.unrectified:
                raise InputError(
                    f"layer {layer.name} is computed with {', '.join(layer.unrectified)}, no rectifier: "
                    f'deconvolve.rule = {rule!r} is not defined for it. Use deconvolve.rule = "gradient".'
                )
            if rule != "gradient" and layer.unseen:
                raise InputError(
                    f"layer {layer.name} is computed with {', '.join(layer.unseen)}, which the trace does not see (an "
                    "autograd.Function, a scripted function or an extension): whether it rectifies is not known, and "
                    f'with it not what deconvolve.rule = {rule!r} does. Use deconvolve.rule = "gradient", or write it '
                    "with torch's functions."
                )

    def classifier(self) -> Classifier:
        """Return where the network's classifier is read; InputError where it has none, or the weights have none."""
        classifier = find_classifier(self.graph)
        check_classifier(self.network, classifier, self.graph.input_shape)
        return classifier

    def check_store(self, store: Store) -> None:
        """Check that a store was made with the plan's settings; InputError names the first that differs."""
        self._compare(store.fingerprint("index"), self.fingerprints.index)
        for layer in self.layers:
            self._compare(store.fingerprint("mine", layer.name), self.fingerprints.of("mine", layer))
        recorded = {name: store.layer(name) for name in self.references}
        probes = {name: layer.attributes.get("probe", {}) for name, layer in recorded.items() if layer.is_added}
        references = {name: tuple(probe["references"]) for name, probe in probes.items() if "references" in probe}
        difference = find_difference(references, self.references, "float32")
        if difference:
            raise InputError(
                f"store {self.config.store} was made with a network that computed otherwise: {difference}. Its code or "
                "the versions of its libraries have changed since: give another STORE."
            )

    def _compare(self, recorded: Fingerprint | None, wanted: Fingerprint) -> None:
        if recorded is None:
            return
        for key, value in wanted.items():
            if recorded.get(key) != value:
                hint = f" DATA is {self.config.data.path} here." if key == "data" else ""
                raise InputError(
                    f"store {self.config.store} was made with {key} = {recorded.get(key)}, this run has {value}: "
                    f"give another STORE, or the setting it was made with.{hint}"
                )

    def name_classes(self, class_folders: list[str], labels: np.ndarray) -> list[str]:
        """Return the names of the dataset's classes: those of ``data.classes``, of class folders, or of the network.

        The network's are taken for numbers (image) that it tells apart, where its classifier is as it was trained.
        """
        if self.classes:
            return list(self.classes.names)
        if class_folders and not self.config.data.labels:
            return class_folders
        is_trained = self.config.network.weights != "random" and not self.network.unloaded_keys
        names = self.network.architecture.categories if is_trained else ()
        return list(names) if 0 <= labels.max(initial=-1) < len(names) else []

    def root_attributes(self, names: list[str]) -> dict[str, Any]:
        """Return the attributes of the store's root; ``names`` are those of the classes."""
        shards = [{"name": s.name, "size": s.size, "modified": s.modified} for s in self.dataset.shards]
        return {
            "dataset": {"name": self.dataset.name, "shards": shards, "classes": names},
            "network": {"name": self.config.network.name, "weights": self.network.digest},
            "preprocessing": self.preprocessing(),
            "versions": versions(),
            "configuration": absolute(self.config),
        }

    def layer_attributes(self, layer: Layer) -> dict[str, Any]:
        """Return the attributes of a layer, as the store records them."""
        attributes = {**layer.attributes(), "precision": self.config.mine.precision, "versions": versions()}
        attributes["probe"]["references"] = list(self.references[layer.name])
        return attributes

    def preprocessing(self) -> dict[str, Any]:
        """Return how an image becomes the network's input, as the store records it."""
        decode, data = self.config.decode, self.config.data
        mean, std = self.network.architecture.normalisation(decode.channels)
        return {
            "resize": decode.resize if isinstance(decode.resize, int) else list(decode.resize),
            "size": list(decode.size),
            "channels": decode.channels,
            **({"bands": list(decode.bands)} if decode.bands else {}),
            **({"range": [value for limits in data.range for value in limits]} if data.range else {}),
            "fit": decode.fit,
            **({"fill": list(decode.fill)} if decode.fill else {}),
            "filter": decode.interpolation,
            "resample": decode.resample,
            "orientation": "ignored",
            "scale": "values/255",
            "mean": list(mean),
            "std": list(std),
        }


def make_plan(config: RunConfig, photographs: Path | None = None) -> Plan:
    """Load the network, find the layers and the data, and check them against the store if there is one.

    Nothing is written but the sample photographs' shards, where ``data.path`` is ``photos``: into the run's folder, or
    the one given.

    Raises
    ------
    InputError
        Anything that a user has to change.
    """
    config = complete_decoding(config)
    if config.cluster.kind == "inline":  # the worker is this very process
        open_device(config.cluster.device).check_precision(config.mine.precision)
    check_writable(config.store)
    dataset = _find_data(config, photographs)  # before weights are downloaded
    logger.info("loading %s", config.network.name)
    network = load_network(config.network)
    check_reproducible(network)
    config = _complete_values(config, network, dataset)
    sample = _sample_images(config)  # InputError where they are none that the network takes
    examined = _EXAMINED.setdefault(network.module, {})
    key = Preparation.of(config.decode, config.data).shape, config.mine.layers
    if key not in examined:
        logger.info("tracing and probing %s", config.network.name)
        examined[key] = _examine(config, network, sample)
    graph, layers, references = examined[key]
    classes = read_classes(config.data.classes) if config.data.classes else None
    fingerprints = compute_fingerprints(config, dataset, network.digest)
    plan = Plan(config, dataset, layers, fingerprints, classes, network, graph, references)
    if Store.exists(config.store):
        plan.check_store(Store.open(config.store))
    return plan


def _complete_values(config: RunConfig, network: Network, dataset: Dataset) -> RunConfig:
    """Return a configuration with the channels of the network, the colour of borders, and the range of deep values."""
    decode = config.decode
    channels = decode.channels or network.architecture.channels
    mean, _ = network.architecture.normalisation(channels)
    fill = decode.fill or (tuple(round(255 * value) for value in mean) if decode.fit == "pad" else None)
    counts = {
        "decode.fill": len(fill or ()),
        "network.mean": len(config.network.mean or ()),
        "network.std": len(config.network.std or ()),
        "data.range": len(config.data.range) if len(config.data.range) > 1 else 0,
    }
    for key, count in counts.items():
        if count not in (0, channels):
            raise InputError(f"{key} is that of {count} channels, and the network takes {channels}.")
    config = config.model_copy(update={"decode": decode.model_copy(update={"channels": channels, "fill": fill})})
    if config.data.range or config.data.path == "photos":
        return config
    limits = find_range(ImageSource(dataset, Preparation.of(config.decode, config.data)))
    return config.model_copy(update={"data": config.data.model_copy(update={"range": limits})})


def _examine(config: RunConfig, network: Network, sample: np.ndarray) -> _Examined:
    """Trace a network and probe its layers, on a few images (image, y, x, channel) uint8 of the data."""
    shape = Preparation.of(config.decode, config.data).shape
    pixels = probe_pixels(sample, network.architecture, shape)
    recording = trace_network(network, pixels[:1])
    wanted = find_layers(recording.graph, network.architecture.layers, config.mine.layers, network.unwrapped)
    check_layers(network, {layer.name: layer.tap for layer in wanted}, pixels[:1])
    layers = _find_recorded(config, network, wanted) or probe(network.module, recording, wanted, pixels)
    return recording.graph, layers, Forward.on_cpu(network, layers, shape).references()


def _find_recorded(config: RunConfig, network: Network, layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Return layers as an earlier run's probe completed them; none where the store does not have all of them.

    Only of the same weights, operations and input size: what the probe found holds for no other.
    """
    if not Store.exists(config.store):
        return ()
    store = Store.open(config.store)
    now = {"network.weights": network.digest, "decode.size": list(config.decode.size)}
    restored = []
    for layer in layers:
        made_with = store.fingerprint("mine", layer.name) or {}
        if any(made_with.get(key) != value for key, value in {**now, "network.graph": layer.digest}.items()):
            return ()
        try:
            restored.append(layer.restored(store.layer(layer.name).attributes))
        except (LookupError, TypeError, ValueError):  # they are not what a probe wrote
            return ()
    return tuple(restored)


def plan_checkpoints(config: RunConfig) -> list[Plan]:
    """Plan a run for every one of ``network.checkpoints``, each into a store of its own beside the run's figures.

    Raises
    ------
    InputError
        There are none, or two whose files have one name; and what ``make_plan`` raises.
    """
    names = [Path(weights).stem for weights in config.network.checkpoints]
    if not names:
        raise InputError(
            "no checkpoints are named: network.checkpoints is a list of weights files in the order of training."
        )
    for name in names:
        if names.count(name) > 1:
            raise InputError(
                f"two of network.checkpoints have the name {name!r}, by which their stores are told apart: rename one."
            )
    folder = run_folder(config.store)
    plans = []
    for name, weights in zip(names, config.network.checkpoints, strict=True):
        network = config.network.model_copy(update={"weights": weights, "checkpoints": ()})
        store = str(folder / "checkpoints" / f"{name}.zarr")
        plans.append(make_plan(config.model_copy(update={"network": network, "store": store}), folder / "shards"))
    return plans


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    return {name: version(name) for name in RECORDED_VERSIONS}


def _sample_images(config: RunConfig) -> np.ndarray:
    """Return a few images (image, y, x, channel) uint8 of the data for the probe; none where none can be read yet."""
    preparation = Preparation.of(config.decode, config.data)
    path = str(run_folder(config.store) / "shards") if config.data.path == "photos" else config.data.path
    if config.data.path == "photos" and not Path(path).exists():  # nothing is written before the network is probed
        return np.empty((0, *preparation.shape), np.uint8)
    return ImageSource(find_dataset(path), preparation).sample(SAMPLED_IMAGES)


def _find_data(config: RunConfig, photographs: Path | None) -> Dataset:
    if config.data.path == "photos":
        folder = photographs or run_folder(config.store) / "shards"
        write_shards(folder)
        return find_dataset(str(folder), "photos")
    dataset = find_dataset(config.data.path)
    if Path(config.data.path).resolve() == run_folder(config.store).resolve():
        raise InputError(
            f"figures for {config.store} would be written into the data {config.data.path}: give another STORE."
        )
    return dataset
