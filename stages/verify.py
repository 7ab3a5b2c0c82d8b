"""Check a store against itself, and samples of it against the images and the network it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import schema
from pipeline.activations import Mined, list_images, run_images
from pipeline.config import RunConfig
from pipeline.device import cores
from pipeline.distinct import CANDIDATES, choose, describe
from pipeline.errors import InputError, TopnineError
from pipeline.layers import Layer
from pipeline.plan import Plan, make_plan
from pipeline.projections import FILTERS_A_TASK, TOLERANCE, make_patches
from pipeline.ranking import RANKS, Ranking
from pipeline.receptive_field import ReceptiveField
from pipeline.store import UNDECODABLE, Store, describe_layer

BATCHES = 4  # of a layer that are mined again
FILTERS = 64  # whose activations are sorted at once
SHOWN = 3  # problems of a check


@dataclass(frozen=True)
class Check:
    """What was checked, and what is wrong with it; nothing where all is right."""

    name: str
    detail: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        if not self.problems:
            return f"ok      {self.name}: {self.detail}"
        more = len(self.problems) - SHOWN
        shown = "; ".join(self.problems[:SHOWN]) + (f"; and {more:,} more" if more > 0 else "")
        return f"FAILED  {self.name}: {shown}"


def verify(path: str, changes: Mapping[str, str], seed: int) -> Iterator[Check]:
    """Check every chunk, every ranking, and seeded samples of what was mined and projected.

    Parameters
    ----------
    path : str
        The store.
    changes : mapping
        From the sections of the configuration that the store recorded to other values: where data or weights are now.
    """
    store = Store.open(path)
    if store.fingerprint("index") is None:
        raise InputError(f"store {path} has no index yet: there is nothing to verify.")
    names = store.marked_layers
    yield _check("images", "every chunk is there, checksums right", _image_problems, store, names)
    for name in names:
        yield _check(f"{name} chunks", _progress(store, name), _layer_problems, store, name)
    for name in names:
        if store.fingerprint("rank", name) is not None:
            detail = f"the same as a full sort of {store.images:,} activations of every filter"
            yield _check(f"{name} ranking", detail, _ranking_problems, store, name)
    for name in names:
        yield from _again(store, name, changes, np.random.default_rng(seed))


def _check(name: str, detail: str, find: Callable[..., list[str]], *arguments: Any) -> Check:
    try:
        return Check(name, detail, tuple(find(*arguments)))
    except (TopnineError, ValueError, LookupError, OSError) as error:  # damage elsewhere may keep it from its work
        return Check(name, detail, (str(error).splitlines()[0],))


# -- the store against itself -----------------------------------------------------------------------------------------


def _done(store: Store, names: list[str]) -> set[int]:
    return set().union(*(store.done_blocks(name) for name in names))


def _image_problems(store: Store, names: list[str]) -> list[str]:
    mined = {(block,) for block in _done(store, names)}
    index = schema.index_arrays(store.images).items()
    problems = [text for name, spec in index for text in store.find_damage(f"images/{name}", spec)]
    for name, spec in schema.image_arrays(store.images, store.block).items():
        problems += store.find_damage(f"images/{name}", spec, mined)
    return problems


def _progress(store: Store, name: str) -> str:
    done = len(store.done_blocks(name))
    return f"every chunk of {done:,} of {store.blocks:,} blocks and of what follows is there, checksums right"


def _layer_problems(store: Store, name: str) -> list[str]:
    attributes = store.layer_attributes(name)
    filters, size = attributes["filters"], attributes["map"]
    done = store.done_blocks(name)
    mined = schema.mined_arrays(store.images, store.block, filters, size["height"], size["width"])
    problems = []
    for array, spec in mined.items():
        problems += store.find_damage(f"layers/{name}/{array}", spec, {(block, 0) for block in done})
    later: dict[str, schema.Spec] = {}
    if store.fingerprint("rank", name) is not None:
        later |= schema.ranked_arrays(filters)
    if store.fingerprint("statistics", name) is not None:
        later |= schema.statistics_arrays(filters, attributes["classes"])
    if store.fingerprint("deconvolve", name) is not None:
        crop = store.attributes["preprocessing"]["crop"]
        field = np.broadcast_to(attributes["receptive_field"]["size"], 2)
        later |= schema.patch_arrays(filters, *(min(int(side), crop) for side in field))
    for array, spec in later.items():
        problems += store.find_damage(f"layers/{name}/{array}", spec)
    for kind, spec in schema.marker_arrays(store.blocks).items():
        problems += store.find_damage(f"progress/{kind}/{name}", spec, ())
    return problems


def _ranking_problems(store: Store, name: str) -> list[str]:
    """Sort the activations of every filter in full, with the tie rule, and compare."""
    (status,) = store.image_columns(["status"])
    decodable = max(1, int(np.sum(status != UNDECODABLE)))
    ranking = store.read_ranking(name)
    recorded = {figure: store.read_layer(name, figure) for figure in ("maximum", "mean", "active_fraction")}
    config = _config(store, name, {})
    field = ReceptiveField.from_attributes(store.layer_attributes(name)["receptive_field"])
    problems = []
    for first in range(0, len(ranking.image), FILTERS):
        filters = slice(first, min(first + FILTERS, len(ranking.image)))
        activation, row, column = store.read_mined(name, slice(None), filters)
        if not (np.isnan(activation) == (status == UNDECODABLE)[:, None]).all():
            problems.append(f"filters {first} to {filters.stop - 1} are not NaN exactly where no image was decoded")
        for f in range(filters.start, filters.stop):
            values = activation[:, f - first]
            order = np.argsort(-values, kind="stable")  # NaN last; equal ones in the order of their ids
            order = order[: np.count_nonzero(values > 0)]
            order = _distinct(store, config, field, order, row[:, f - first], column[:, f - first])
            found = [part[f][: len(order)] for part in (ranking.image, ranking.row, ranking.column)]
            wanted = [order, row[order, f - first], column[order, f - first]]
            right = all(np.array_equal(*pair) for pair in zip(found, wanted, strict=True))
            right &= np.array_equal(ranking.activation[f][: len(order)], values[order])
            right &= bool((ranking.image[f][len(order) :] == -1).all())
            live = values[~np.isnan(values)].astype(np.float64)
            figures = live.max() if len(live) else np.nan, live.sum() / decodable, (live > 0).sum() / decodable
            right &= np.allclose([recorded[figure][f] for figure in recorded], figures, rtol=1e-5, equal_nan=True)
            if not right:
                problems.append(f"filter {f} is not what a full sort of its activations gives")
    return problems


def _distinct(
    store: Store, config: RunConfig, field: ReceptiveField, order: np.ndarray, row: np.ndarray, column: np.ndarray
) -> np.ndarray:
    """Give the first nine of a filter's images, strongest first, that do not show the same as one before."""
    if config.rank.distinct == "image":
        return order[:RANKS]
    for count in (CANDIDATES, CANDIDATES**2, len(order)):
        image = order[None, :count]
        hits = Ranking(np.zeros(image.shape, np.float32), image, row[image], column[image])
        chosen = choose(hits, describe(store, config, field, *hits.places()), config).image[0]
        if chosen[-1] >= 0:
            break
    return chosen[chosen >= 0]


# -- samples against the images and the network -----------------------------------------------------------------------


def _again(store: Store, name: str, changes: Mapping[str, str], random: np.random.Generator) -> Iterator[Check]:
    done = sorted(store.done_blocks(name))
    batch = (store.fingerprint("mine", name) or {}).get("mine.batch", 1)
    runs = [_batch(store, block, batch, random) for block in sorted(random.permutation(done)[:BATCHES].tolist())]
    filters = int(random.integers(-(-store.layer_attributes(name)["filters"] // FILTERS_A_TASK)))
    images = sum(rows.stop - rows.start for rows in runs)
    detail = f"{images:,} images, chosen at random, give the recorded rows"
    yield _check(f"{name} mined again", detail, _mined_problems, store, name, runs, changes)
    if store.fingerprint("deconvolve", name) is not None:
        first = filters * FILTERS_A_TASK
        detail = f"filters {first} to {first + FILTERS_A_TASK - 1}, chosen at random, give the recorded patches"
        yield _check(f"{name} deconvolved again", detail, _patch_problems, store, name, first, changes)


def _batch(store: Store, block: int, batch: int, random: np.random.Generator) -> slice:
    rows = store.rows(block)
    start = rows.start + batch * int(random.integers(-(-(rows.stop - rows.start) // batch)))
    return slice(start, min(start + batch, rows.stop))


def _config(store: Store, name: str, changes: Mapping[str, str]) -> RunConfig:
    """Give the configuration that a layer was mined by, from what the store recorded."""
    tables: dict[str, Any] = {"cluster": {}, **store.attributes["configuration"], "store": store.path}
    stages = ("deconvolve", "rank", "mine")
    recorded = next((found for stage in stages if (found := store.fingerprint(stage, name))), {})
    settings = {key: value for key, value in recorded.items() if key.split(".")[0] in ("mine", "rank", "deconvolve")}
    for key, value in {**settings, "mine.layers": name, **changes}.items():
        section, _, field = key.partition(".")
        tables[section] = {**tables[section], field: value}
    return RunConfig.model_validate(tables)


def _plan(store: Store, name: str, changes: Mapping[str, str]) -> tuple[Plan, Layer]:
    plan = make_plan(_config(store, name, changes))
    for stage, wanted in (("rank", plan.rank_fingerprint), ("deconvolve", plan.deconvolve_fingerprint)):
        found = store.fingerprint(stage, name)
        if found is not None and found != wanted(plan.layers[0]):
            raise InputError(f"the ranks or projections of {name} were made with other settings: {stage} them again.")
    return plan, plan.layers[0]


def _mined_problems(store: Store, name: str, runs: list[slice], changes: Mapping[str, str]) -> list[str]:
    plan, layer = _plan(store, name, changes)
    problems = [
        f"the attribute {key} is {store.layer_attributes(name).get(key)!r}, not {value!r}"
        for key, value in describe_layer(layer).items()
        if store.layer_attributes(name).get(key) != value
    ]
    strongest = store.read_layer(name, "maximum") if store.fingerprint("rank", name) is not None else None
    for rows, mined in zip(runs, run_images(plan, (layer,), list_images(store, runs), runs, cores()), strict=True):
        problems += _differences(store, layer, rows, mined, TOLERANCE[plan.config.mine.precision], strongest)
    return problems


def _differences(
    store: Store, layer: Layer, rows: slice, mined: Mined, tolerance: float, strongest: np.ndarray | None
) -> list[str]:
    problems = []
    for (column, values), recorded in zip(mined.columns.items(), store.image_columns(mined.columns, rows), strict=True):
        wrong = np.nonzero(values != recorded)[0]
        problems += [f"image {rows.start + i}: {column} is {values[i]}, not {recorded[i]}" for i in wrong]
    activation, row, column_ = mined.layers[layer.name]
    recorded_activation, recorded_row, recorded_column = store.read_mined(layer.name, rows)
    scale = strongest if strongest is not None else np.nanmax(np.abs(recorded_activation), axis=0, initial=0)
    same = (activation == recorded_activation) | np.isnan(activation) & np.isnan(recorded_activation)
    near = same | (np.abs(activation - recorded_activation) <= tolerance * scale)  # another machine's arithmetic
    moved = same & ((row != recorded_row) | (column_ != recorded_column))
    for i, f in np.argwhere(~near | moved):
        found = f"{activation[i, f]:.6g} at {row[i, f]}, {column_[i, f]}"
        was = f"{recorded_activation[i, f]:.6g} at {recorded_row[i, f]}, {recorded_column[i, f]}"
        problems.append(f"image {rows.start + i}, filter {f}: {found}, recorded is {was}")
    return problems


def _patch_problems(store: Store, name: str, first: int, changes: Mapping[str, str]) -> list[str]:
    plan, layer = _plan(store, name, changes)
    filters = range(first, min(first + FILTERS_A_TASK, layer.filters))
    made = make_patches(filters, plan, layer, cores())
    assert made is not None, "nobody abandons what is no task"
    problems = []
    for array, values in zip(("patch", "projection", "box"), made, strict=True):
        recorded = store.read_layer(name, array, slice(filters.start, filters.stop))
        for f, now, was in zip(filters, values, recorded, strict=True):
            scale = np.abs(now).max(initial=0) if array == "projection" else 0
            if not np.abs(now - was.astype(np.float64)).max(initial=0) <= TOLERANCE[plan.config.mine.precision] * scale:
                problems.append(f"{array} of filter {f} is not what was recorded")
    return problems
