"""What has to be in a store by its markers and fingerprints: finding what is not, and taking them back for it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
import zarr

from ..errors import DamageError, first_line
from ..files import list_names, list_sizes
from . import schema
from .arrays import DAMAGE_ERRORS, coordinate_values, expected_metadata, find_node
from .names import layer_path, marker_path, unquote
from .schema import Spec
from .storage import DOCUMENT, MissingChunkError
from .store import Store

GROUPS = ("images", "layers", "progress", "progress/done", "progress/failed")
Position = tuple[int, ...]


@dataclass(frozen=True)
class Expected:
    """An array that has to be there, and what vouches for it.

    Attributes
    ----------
    path : str
        In the store.
    spec : Spec
        What the array has to be.
    required : collection of tuple of int, optional
        Positions, in the array's grid, of the units that have to be there. All, unless given.
    layers : tuple of str
        Whose markers or fingerprints vouch for it; none for the columns of the index.
    stage : str
        index; mine, by a marker for every block; markers, which nothing vouches for; or another stage, by its
        fingerprint.
    """

    path: str
    spec: Spec
    required: Collection[Position] | None
    layers: tuple[str, ...]
    stage: str


@dataclass(frozen=True)
class Damage:
    """What is wrong with an array, as a sentence: with a unit at a position in its grid, or with its metadata."""

    array: Expected
    at: Position | None
    text: str


def list_marked_layers(store: Store) -> list[str]:
    """List the layers that have markers, by name, whether their arrays can be read or not."""
    return [unquote(step) for step in list_names(f"{store.arrays.path}/progress/done") if step != DOCUMENT]


def expect_images(store: Store, names: Collection[str]) -> Iterator[Expected]:
    """Yield the arrays of the images that have to be there, where some layers are mined."""
    done = {name: store.progress.done_blocks(name) for name in names}
    for name, spec in schema.index_arrays(len(store.images)).items():
        yield Expected(f"images/{name}", spec, None, (), "index")
    mined = {(block,) for blocks in done.values() for block in blocks}
    for name, spec in schema.image_arrays(len(store.images), store.images.block).items():
        yield Expected(f"images/{name}", spec, mined, tuple(names), "mine")


def expect_layer(store: Store, name: str) -> Iterator[Expected]:
    """Yield the arrays of a layer that have to be there."""
    done = {(block, 0) for block in store.progress.done_blocks(name)}
    for stage, arrays in schema.arrays_by_stage(store.attributes, store.layer(name).attributes).items():
        for array, spec in arrays.items():
            required = done if stage == "mine" else None
            yield Expected(f"{layer_path(name)}/{array}", spec, required, (name,), stage)
    still_done = store.progress.done_blocks(name)  # when all else was found to be there, or taken back
    markers: dict[str, set[Position]] = {"done": {(block,) for block in still_done}, "failed": set()}
    for kind, spec in _marker_arrays(store, name).items():
        yield Expected(marker_path(kind, name), spec, markers[kind], (name,), "markers")


def _marker_arrays(store: Store, name: str) -> dict[str, Spec]:
    return schema.marker_arrays(store.images.blocks, store.fingerprint("mine", name) or {})


def find_damage(store: Store, expected: Expected) -> Iterator[Damage]:
    """Read every unit of an array, and yield those that are missing or damaged, and its metadata where that is."""
    path, spec = expected.path, expected.spec
    yield from _find_damaged_metadata(store, expected)
    try:
        with_chunks = store.arrays.open(path, complete=True)  # of metadata that was made again meanwhile, too
    except DamageError:
        return
    for at in np.ndindex(spec.grid):
        name = f"{path}/c/{'/'.join(map(str, at))}"
        try:
            values = with_chunks[spec.region(at)]
        except MissingChunkError:
            if expected.required is None or at in expected.required:
                yield Damage(expected, at, f"{name} is missing or empty")
            elif store.arrays.has_file(name):
                yield Damage(expected, at, f"{name} is empty")
        except DAMAGE_ERRORS as error:
            yield Damage(expected, at, f"{name} is damaged: {first_line(error)}")
        else:
            if spec.values is not None and not np.array_equal(values, coordinate_values(spec)[spec.region(at)]):
                yield Damage(expected, at, f"{path} does not hold the values that the schema wants")


def _find_damaged_metadata(store: Store, expected: Expected) -> Iterator[Damage]:
    array = find_node(store.arrays.root, expected.path, zarr.Array)
    if array is None or array.metadata.to_dict() != expected_metadata(expected.path, expected.spec):
        what = "is missing or damaged" if array is None else "is not what the schema wants"
        yield Damage(expected, None, f"{expected.path}/{DOCUMENT} {what}")


def find_damaged_markers(store: Store, expected: Expected) -> Iterator[Damage]:
    """Yield what is damaged of an array of markers, and its metadata where that is.

    There is a chunk for every block, and in a bucket a request for every chunk. So all are read at once, and one by one
    only where that fails.
    """
    yield from _find_damaged_metadata(store, expected)
    marked = list_names(f"{store.arrays.path}/{expected.path}/c")
    try:
        if marked:
            store.arrays.open(expected.path)[:]
    except DamageError:  # of metadata, which is the first that was yielded
        return
    except DAMAGE_ERRORS:
        yield from (damage for damage in find_damage(store, expected) if damage.at is not None)


def find_missing(expected: Expected, sizes: dict[str, int]) -> Iterator[Damage]:
    """Yield the units of an array that are missing or empty by a listing of the store, or its metadata."""
    document = f"{expected.path}/{DOCUMENT}"
    if not sizes.get(document):
        yield Damage(expected, None, f"{document} is missing or empty")
    required = np.ndindex(expected.spec.grid) if expected.required is None else sorted(expected.required)
    for at in required:
        name = f"{expected.path}/c/{'/'.join(map(str, at))}"
        if not sizes.get(name):
            yield Damage(expected, at, f"{name} is missing or empty")


def mend(store: Store, names: Collection[str], thorough: bool) -> Iterator[str]:
    """Take back the markers and fingerprints of some layers that vouch for what is not there; yield what was wrong.

    Metadata of arrays is made again, as it follows from the layers' attributes. The stages do again what is taken back.
    The columns of images belong to all layers.

    Parameters
    ----------
    thorough : bool
        Read every chunk; else only list the store, and find what is missing or empty.
    """
    for group in GROUPS:
        if store.arrays.find_group(group) is None:
            store.arrays.create_group(group)
            yield f"{group}/{DOCUMENT} is missing or damaged"
    for name in names:  # before they are listed
        for kind, spec in _marker_arrays(store, name).items():
            for damage in find_damaged_markers(store, Expected(marker_path(kind, name), spec, (), (name,), "markers")):
                _take_back(store, damage)
                yield damage.text
    sizes: dict[str, int] = {} if thorough else list_sizes(store.arrays.path)
    marked = [name for name in list_marked_layers(store) if store.layer(name).is_added]
    for array in chain(expect_images(store, marked), *(expect_layer(store, name) for name in names)):
        for damage in find_damage(store, array) if thorough else find_missing(array, sizes):
            _take_back(store, damage)
            yield damage.text


def _take_back(store: Store, damage: Damage) -> None:
    array, at = damage.array, damage.at
    if at is not None:
        store.arrays.delete_chunk(array.path, at)  # zarr may read what it writes over
    if at is None or array.spec.values is not None:
        store.arrays.create(array.path, array.spec)
    elif array.stage == "mine":
        for name in array.layers:
            store.progress.take_back(name, at[0])
    elif array.stage not in ("index", "markers"):  # the stage index makes its columns again, where one is missing
        for name in array.layers:
            store.set_fingerprint(array.stage, None, name)
