"""Single images of a store, chosen by key or by chance, and the classes they are of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .errors import InputError
from .store import OK, Store


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
        ``label``: what the dataset says; ``most likely``: what the network says of the image as it is.
    """

    number: int
    name: str
    source: str


def choose_images(store: Store, keys: Sequence[str], count: int, seed: int) -> list[Sample]:
    """Choose images that were decoded: those of some keys, in this order, or without keys a seeded random subset.

    Raises
    ------
    InputError
        There is no image of a key, or it is damaged; no image is mined yet.
    """
    key, status, label = store.image_columns(("key", "status", "label"))
    if not keys:
        known = np.nonzero(status == OK)[0]
        if not len(known):
            raise InputError(f"no image of store {store.path} is mined yet: `topnine run` first.")
        chosen = np.sort(np.random.default_rng(seed).permutation(known)[:count]).tolist()
    else:
        place = {name: image for image, name in enumerate(key.tolist())}
        chosen = [_find(store, place, status, name) for name in keys]
    return [Sample(image, str(key[image]), int(label[image])) for image in chosen]


def _find(store: Store, place: dict[str, int], status: np.ndarray, key: str) -> int:
    if key not in place:
        raise InputError(
            f"there is no image {key!r} in store {store.path}: --images takes keys, as {next(iter(place))!r}."
        )
    if status[place[key]] != OK:
        raise InputError(f"image {key!r} of store {store.path} is damaged or not mined yet: --images takes others.")
    return place[key]


def name_class(store: Store, number: int, classes: int) -> str:
    """Name a class of a network of so many classes: its number, unless the dataset names just as many."""
    names = store.attributes["dataset"]["classes"]
    return str(names[number]) if len(names) == classes else str(number)


def true_class(store: Store, sample: Sample, probability: np.ndarray) -> TrueClass:
    """Give the class whose probability is followed, from the probabilities (class) of the image as it is.

    Notes
    -----
    It is the dataset's label, unless there is none, or the dataset numbers other classes than the network: more or
    fewer names than the network has classes, as folders of some of them give.
    """
    classes, names = len(probability), store.attributes["dataset"]["classes"]
    labelled = 0 <= sample.label < classes and len(names) in (0, classes)
    number = sample.label if labelled else int(np.argmax(probability))
    return TrueClass(number, name_class(store, number, classes), "label" if labelled else "most likely")
