"""A network with its weights, loaded on the CPU; and its graph for an input size."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from ..config.sections import NetworkConfig
from ..errors import InputError, TopnineError
from .architecture import Architecture
from .graph import Graph
from .modules.preparation import (
    MATERIALISED_AT_PX,
    check_minable,
    check_values,
    count_channels,
    describe,
    materialise,
    unwrap,
    unwrapped_path,
)
from .modules.tensors import constants, convert_to_float32
from .registry import find_architecture
from .tracing.recording import Recording, record, trace
from .weights import Weights, read_weights, weights_digest

UNIFORM_WEIGHT = 0.01  # where only the graph is wanted


@dataclass(frozen=True)
class Network:
    """A loaded network: its architecture, the module in evaluation mode on the CPU, and a digest of its weights.

    Attributes
    ----------
    config : NetworkConfig
        What it was loaded from.
    architecture : Architecture
    module : nn.Module
        Without wrappers such as DataParallel, in float32.
    digest : str
        Of its constants: parameters, buffers and plain tensor attributes.
    wrappers : tuple of str
        Paths of the modules that were taken out of a wrapper, as the user has them: ``module``.
    notes : tuple of str
        What was changed about the module, and may be why a forward pass ends early.
    unloaded : str
        What the weights file lacks of the module, as a part of a sentence; empty where it has everything.
    unloaded_keys : tuple of str
        These keys of the module's state dict. All they hold is one number: see ``unloaded.py``.
    remarks : tuple of str
        What was chosen of the weights file or left out, a line each for the user.
    """

    config: NetworkConfig
    architecture: Architecture
    module: nn.Module
    digest: str
    wrappers: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unloaded: str = ""
    unloaded_keys: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()

    def unwrapped(self, path: str) -> str:
        """Return the path in ``module`` of a module of the user's own network."""
        return unwrapped_path(path, self.wrappers)


def load_network(config: NetworkConfig, digest: str = "") -> Network:
    """Build a network with its weights on the CPU; a process keeps the one it loaded last.

    ``config.weights = "random"`` builds it with ``config.seed`` (a user's own function returns whatever it returns);
    all else is read by ``read_weights``. ``load_network.cache_clear()`` forgets the network that is kept.

    Parameters
    ----------
    config : NetworkConfig
    digest : str, optional
        That the network must have: the one of the process that planned the run.

    Raises
    ------
    InputError
        There is no such network, none that can be mined, no weights that fit it, or it has another digest.
    """
    network = _load(config)
    if digest and network.digest != digest:
        raise InputError(_describe_difference(network, digest))
    return network


def trace_network(network: Network, pixels: Tensor) -> Recording:
    """Run a network once on the CPU on an input (image, channel, y, x); return its graph and its tape."""
    recording = record(network.module, pixels)
    ended = recording.graph.broken_off
    if not ended:
        return recording
    assumed = [f"its input has {pixels.shape[1]} channels: see decode.channels"] if is_own(network.config.name) else []
    return replace(recording, graph=replace(recording.graph, broken_off="; ".join([ended, *network.notes, *assumed])))


def trace_shapes(name: str, height: int, width: int) -> Graph:
    """Return the graph of a network for an input size, of a registered one whatever its weights: all are one number."""
    architecture = find_architecture(NetworkConfig(name=name))
    if is_own(name):
        network = load_network(NetworkConfig(name=name, weights="random"))
        architecture, module = network.architecture, network.module
    else:
        module = _build_empty(architecture).to_empty(device="cpu").eval()
        for tensor in constants(module):
            tensor.detach().fill_(UNIFORM_WEIGHT)
    return trace(
        module.requires_grad_(False), torch.zeros(1, architecture.channels, height, width, dtype=torch.float32)
    )


def check_reproducible(network: Network) -> None:
    """Raise InputError where a user's function gives a network with other weights when it is called again."""
    config = network.config
    if config.weights == "random" and is_own(config.name):
        again = _load.__wrapped__(config)
        if again.digest != network.digest:
            raise InputError(_describe_difference(again, network.digest))


@lru_cache(maxsize=1)  # the tasks that follow each other on a worker share one network
def _load(config: NetworkConfig) -> Network:
    architecture = find_architecture(config)
    try:
        with _torch_as_it_was(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            return (_load_own if is_own(config.name) else _load_registered)(config, architecture)
    except TopnineError:
        raise
    except Exception as error:  # hooks, properties and containers of a user's module may raise anything
        raise InputError(f"network.name = {config.name!r} cannot be loaded: {describe(error)}.") from error


load_network.cache_clear = _load.cache_clear  # type: ignore[attr-defined]


def _load_own(config: NetworkConfig, architecture: Architecture) -> Network:
    """Load the network of a user's function: with values from the beginning, because it may compute with them."""
    module, wrappers = unwrap(architecture.build())
    check_minable(module, config.name)
    converted = convert_to_float32(module)
    notes = (
        [f"its weights were {converted} and are float32 here: its forward must not cast to that"] if converted else []
    )
    weights = Weights({})
    if config.weights != "random":
        weights = _read_into(module, config, any(tensor.is_meta for tensor in constants(module)))
    if materialise(module, config.name):
        notes.append(f"its lazy modules have the shapes for images of {MATERIALISED_AT_PX}×{MATERIALISED_AT_PX} pixels")
    check_values(module, config.name)
    layers = {name: unwrapped_path(path, wrappers) for name, path in architecture.layers.items()}
    channels = count_channels(module)
    architecture = replace(architecture, layers=layers, channels=channels)
    return _finish(config, architecture, module, weights, wrappers, tuple(notes))


def _load_registered(config: NetworkConfig, architecture: Architecture) -> Network:
    """Load one of the registered networks: without values first where these are read from a file."""
    if config.weights == "random":
        return _finish(config, architecture, architecture.build(), Weights({}))
    module = _build_empty(architecture)
    weights = _read_into(module, config, assign=True)
    if any(tensor.is_meta for tensor in constants(module)):  # constants that no file has
        module = architecture.build()
        weights = _read_into(module, config, assign=False)
    return _finish(config, architecture, module, weights)


def _finish(
    config: NetworkConfig,
    architecture: Architecture,
    module: nn.Module,
    weights: Weights,
    wrappers: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Network:
    convert_to_float32(module)  # what was read or materialised wants gradients
    digest = weights_digest(module)
    module = module.eval()
    if not is_own(config.name):  # a user's network may take views that need the usual order
        module = module.to(memory_format=torch.channels_last)
    return Network(
        config,
        architecture,
        module,
        digest,
        wrappers,
        notes,
        unloaded=weights.unloaded,
        unloaded_keys=weights.unloaded_keys,
        remarks=weights.remarks,
    )


def _read_into(module: nn.Module, config: NetworkConfig, assign: bool) -> Weights:
    """Read the weights of a configuration into a module: by copying, so that what is shared stays so, or by assigning.

    ``read_weights`` has checked the keys; a module's extra state may be missing from them.
    """
    weights = read_weights(config, module)
    module.load_state_dict(weights.state, strict=False, assign=assign)
    return replace(weights, state={})


def is_own(name: str) -> bool:
    """Return whether a network's name is that of a user's function."""
    return ":" in name


def _build_empty(architecture: Architecture) -> nn.Module:
    """Build a registered network without values for its weights, where it can be built so."""
    try:
        with torch.device("meta"):
            return architecture.build()
    except (NotImplementedError, RuntimeError):  # RegNet computes its widths with tensors
        return architecture.build()


@contextmanager
def _torch_as_it_was() -> Iterator[None]:
    """Undo what a user's function sets for the whole process: the default type and device, and whether to derive."""
    dtype, device, derives = torch.get_default_dtype(), torch.get_default_device(), torch.is_grad_enabled()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(derives)
        if torch.get_default_device() != device:
            torch.set_default_device(device)


def _describe_difference(network: Network, digest: str) -> str:
    config, digests = network.config, f"their digest is {network.digest} here and was {digest} when the run was planned"
    if config.weights != "random":
        return (
            f"network.weights = {config.weights!r} of {config.name} are not the weights that the run was planned with "
            f"({digests}): give every worker the same file and the same code."
        )
    if not is_own(config.name):
        return (
            f"the random weights of {config.name} are others than in the process that planned the run ({digests}): "
            "give every worker the same version of torch, or network.weights."
        )
    return (
        f"network.name = {config.name!r} gives other weights each time it is called ({digests}): seed whatever it "
        "draws in the function, or give network.weights, and give every worker the same code."
    )
