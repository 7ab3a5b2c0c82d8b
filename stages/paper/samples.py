"""Single images of a store, picked by key or at random, and the classes whose probability is followed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from topnine.pipeline.errors import InputError
from topnine.pipeline.store.schema import OK
from topnine.pipeline.store.store import Store


@dataclass(frozen=True)
class Sample:
    """An image of a store: its id, its key, and its class in the dataset (-1 = unknown)."""

    image: int
    key: str
    label: int


@dataclass(frozen=True)
class TrueClass:
    """The class whose probability is followed.

    Attributes
    ----------
    number : int
    name : str
        Its number, where the dataset does not name the network's classes.
    source : str
        ``label``: the dataset's label; ``most likely``: the most likely class of the unmodified image.
    """

    number: int
    name: str
    source: str


def pick_images(store: Store, keys: Sequence[str], count: int, seed: int) -> list[Sample]:
    """Return images that were decoded: those of some keys, in this order, or without keys a seeded random subset.

    Raises
    ------
    InputError
        There is no image of a key, or it is damaged; no image is mined yet.
    """
    key, label = store.images.columns(("key", "label"))
    (status,) = store.images.columns_so_far(["status"])
    if not keys:
        decoded = np.nonzero(status == OK)[0]
        if not len(decoded):
            raise InputError(f"no image of store {store.path} is mined yet: `topnine run` first.")
        chosen = np.sort(np.random.default_rng(seed).permutation(decoded)[:count]).tolist()
    else:
        by_key = {name: image for image, name in enumerate(key.tolist())}
        chosen = [_find(store, by_key, status, name) for name in keys]
    return [Sample(image, str(key[image]), int(label[image])) for image in chosen]


def _find(store: Store, by_key: dict[str, int], status: np.ndarray, key: str) -> int:
    if key not in by_key:
        raise InputError(
            f"there is no image {key!r} in store {store.path}: --images takes keys, as {next(iter(by_key))!r}."
        )
    if status[by_key[key]] != OK:
        raise InputError(f"image {key!r} of store {store.path} is damaged or not mined yet: --images takes others.")
    return by_key[key]


def name_class(store: Store, number: int, classes: int) -> str:
    """Return the name of a class of a network with so many classes: its number, unless the dataset names as many."""
    names = store.attributes["dataset"]["classes"]
    return str(names[number]) if len(names) == classes else str(number)


def true_class(store: Store, sample: Sample, probability: np.ndarray) -> TrueClass:
    """Return the class whose probability is followed, given the probabilities (class) of the unmodified image.

    Notes
    -----
    It is the dataset's label, unless there is none, or the dataset numbers other classes than the network: its classes
    have more or fewer names than the network has classes, as where there are folders of some of them only.
    """
    classes, names = len(probability), store.attributes["dataset"]["classes"]
    labelled = 0 <= sample.label < classes and len(names) in (0, classes)
    number = sample.label if labelled else int(np.argmax(probability))
    return TrueClass(number, name_class(store, number, classes), "label" if labelled else "most likely")
