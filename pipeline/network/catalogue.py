"""The networks that can be named, with the weights that there are for each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import groupby

from ..config.sections import BUNDLED, TORCHVISION_WEIGHTS
from ..errors import InputError
from .registry import ARCHITECTURES
from .timm_networks import TIMM, import_timm


@dataclass(frozen=True)
class Offer:
    """A network that can be named, and the weights that there are for it, as ``network.weights`` names them."""

    name: str
    weights: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {', '.join(self.weights) or 'a file, or random'}"


def list_networks(match: str | None = None) -> Iterator[Offer]:
    """Yield every network.

    Parameters
    ----------
    match : str, optional
        List only those that have this in their names, and timm's too where timm is installed. What stands behind one
        of timm's are tags of its weights: ``timm:NAME.TAG`` is a network with these.

    Raises
    ------
    InputError
        No network matches.
    """
    offers = [*_list_registered(match or ""), *(_list_timms(match) if match and find_spec("timm") else ())]
    if not offers:
        beside = "" if find_spec("timm") else " (timm is not installed: pip install 'topnine[timm]')"
        raise InputError(f"no network has {match!r} in its name{beside}: `topnine networks` lists them.")
    yield from offers


def _list_registered(part: str) -> Iterator[Offer]:
    from torchvision.models import get_model_weights, list_models

    torchvisions = set(list_models())
    for name in ARCHITECTURES:
        if part in name:
            members = [member.name for member in get_model_weights(name)] if name in torchvisions else []
            weights = [BUNDLED[name]] if name in BUNDLED else [each for each in members if each in TORCHVISION_WEIGHTS]
            yield Offer(name, tuple(weights))


def _list_timms(part: str) -> Iterator[Offer]:
    timm = import_timm()
    tagged = (name.partition(".") for name in timm.list_models(f"*{part}*", pretrained=True))
    tags = {name: [tag for _, _, tag in group] for name, group in groupby(tagged, key=lambda parts: parts[0])}
    for name in timm.list_models(f"*{part}*"):
        yield Offer(f"{TIMM}{name}", tuple(filter(None, tags.get(name, ()))))
