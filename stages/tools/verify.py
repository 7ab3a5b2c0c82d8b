"""Check a store against itself, and samples of it against the images and the network that it was made from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from topnine.pipeline.compute.activations import BlockResult, run_images
from topnine.pipeline.compute.footprints import trace
from topnine.pipeline.compute.probing.references import TOLERANCE
from topnine.pipeline.compute.projections import FILTERS_A_TASK
from topnine.pipeline.compute.traits import TRAIT_COLUMNS, HitDescriber
from topnine.pipeline.errors import InputError, TopnineError
from topnine.pipeline.machine import count_cores
from topnine.pipeline.network.layers import Layer
from topnine.pipeline.network.receptive_field import ReceptiveField
from topnine.pipeline.plan import Plan, make_plan
from topnine.pipeline.ranking.distinct import CANDIDATES, choose
from topnine.pipeline.ranking.topk import RANKS, Ranking
from topnine.pipeline.store.layers import StoredLayer
from topnine.pipeline.store.schema import UNDECODABLE
from topnine.pipeline.store.store import Store
from topnine.pipeline.store.verification import expect_images, expect_layer, find_damage, list_marked_layers
from topnine.stages.changes import check_shard, find_touched
from topnine.stages.settings import hit_describer, mining_settings, projection_settings
from topnine.stages.tools.recorded import layer_config
from topnine.stages.work import groups, image_columns, iterate_records, project_filters

SAMPLED_BATCHES = 4  # of a layer that are mined again
SORTED_BYTES = 2**28  # of activations, rows and columns that are sorted at once
MINED_BYTES = 12  # of an image and a filter, at most
LISTED_PROBLEMS = 3  # of a check
TIE_TOLERANCE = 0.25  # of the strongest projection of a filter: four times the most that a near-tie changed in the demo


@dataclass(frozen=True)
class Check:
    """A check: its name, what it covers, and what it found to be wrong; no problems where all is right."""

    name: str
    detail: str
    problems: tuple[str, ...]

    def __str__(self) -> str:
        if not self.problems:
            return f"ok      {self.name}: {self.detail}"
        more = len(self.problems) - LISTED_PROBLEMS
        listed = "; ".join(self.problems[:LISTED_PROBLEMS]) + (f"; and {more:,} more" if more > 0 else "")
        return f"FAILED  {self.name}: {listed}"


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
    names = list_marked_layers(store)
    yield _check("images", "every chunk is there, checksums right", _image_problems, store, names)
    for name in names:
        yield _check(f"{name} chunks", _progress(store, name), _layer_problems, store, name)
    for name in names:
        if store.fingerprint("rank", name) is not None:
            detail = f"the same as a full sort of {len(store.images):,} activations of every filter"
            yield _check(f"{name} ranking", detail, _ranking_problems, store, name)
    if names:
        detail = "every shard that was touched since it was indexed holds the same images"
        yield _check("data", detail, _shard_problems, store, names[0], changes)
    for name in names:
        yield from _sample(store, name, changes, np.random.default_rng(seed))


def _check(name: str, detail: str | Callable[[], str], find: Callable[..., list[str]], *arguments: Any) -> Check:
    try:
        problems = tuple(find(*arguments))
        return Check(name, detail() if callable(detail) else detail, problems)
    except (TopnineError, ValueError, LookupError, OSError) as error:  # damage elsewhere may keep it from its work
        return Check(name, "", (str(error).splitlines()[0],))


# -- the store against itself -----------------------------------------------------------------------------------------


def _image_problems(store: Store, names: list[str]) -> list[str]:
    expected = expect_images(store, [name for name in names if store.layer(name).is_added])
    return [damage.text for array in expected for damage in find_damage(store, array)]


def _progress(store: Store, name: str) -> str:
    done = len(store.progress.done_blocks(name))
    return f"every chunk of {done:,} of {store.images.blocks:,} blocks and of what follows is there, checksums right"


def _layer_problems(store: Store, name: str) -> list[str]:
    return [damage.text for array in expect_layer(store, name) for damage in find_damage(store, array)]


def _ranking_problems(store: Store, name: str) -> list[str]:
    """Sort the activations of every filter in full, with the tie rule, and compare."""
    (status,) = store.images.columns(["status"])
    arrays = store.layer(name)
    config = layer_config(store, name, {})
    field = ReceptiveField.from_attributes(arrays.attributes["receptive_field"])
    sort = _FullSort(store, arrays, hit_describer(config, field), int(np.sum(status != UNDECODABLE)))
    problems = []
    for group in groups(arrays.filters, max(1, SORTED_BYTES // (MINED_BYTES * len(store.images)))):
        activation, row, column = arrays.read_mined(slice(None), slice(group.start, group.stop))
        if not (np.isnan(activation) == (status == UNDECODABLE)[:, None]).all():
            problems.append(f"filters {group.start} to {group.stop - 1} are not NaN exactly where no image was decoded")
        for i, filter in enumerate(group):
            if not sort.agrees(filter, activation[:, i], row[:, i], column[:, i]):
                problems.append(f"filter {filter} is not what a full sort of its activations gives")
    return problems


class _FullSort:
    """Holds a layer's ranking and totals against a full sort of a filter's activations."""

    def __init__(self, store: Store, arrays: StoredLayer, describer: HitDescriber, decoded: int) -> None:
        self._store = store
        self._describer = describer
        self._decoded = max(1, decoded)
        self._ranking = arrays.read_ranking()
        self._totals = [arrays.read(name) for name in ("max_activation", "mean_activation", "active_fraction")]

    def agrees(self, filter: int, values: np.ndarray, row: np.ndarray, column: np.ndarray) -> bool:
        """Return whether a filter's ranks and totals are those of its activations, rows and columns (image)."""
        order = np.argsort(-values, kind="stable")  # NaN last; equal ones in the order of their ids
        order = self._distinct(order[: np.count_nonzero(values > 0)], row, column)
        ranking, count = self._ranking, len(order)
        right = np.array_equal(ranking.image[filter, :count], order) and (ranking.image[filter, count:] == -1).all()
        for recorded, expected in ((ranking.row, row), (ranking.column, column), (ranking.activation, values)):
            right = right and np.array_equal(recorded[filter, :count], expected[order])
        live = values[~np.isnan(values)].astype(np.float64)
        totals = live.max() if len(live) else np.nan, live.sum() / self._decoded, (live > 0).sum() / self._decoded
        return bool(right) and np.allclose(
            [recorded[filter] for recorded in self._totals], totals, rtol=1e-5, equal_nan=True
        )

    def _distinct(self, order: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """Return the first nine of a filter's images, strongest first, that do not duplicate one before."""
        if self._describer.rule.by == "image":
            return order[:RANKS]
        read_columns = partial(self._store.images.columns, TRAIT_COLUMNS)
        for count in (CANDIDATES, CANDIDATES**2, len(order)):
            image = order[None, :count]
            hits = Ranking(np.zeros(image.shape, np.float32), image, row[image], column[image])
            traits = self._describer.describe(read_columns, hits.image, hits.row, hits.column)
            chosen = choose(hits, traits, self._describer.rule).image[0]
            if chosen[-1] >= 0:
                break
        distinct: np.ndarray = chosen[chosen >= 0]
        return distinct


# -- samples against the images and the network -----------------------------------------------------------------------


def _shard_problems(store: Store, name: str, changes: Mapping[str, str]) -> list[str]:
    """Compare the headers of touched shards with the index."""
    plan, _ = _plan(store, name, changes)
    found = (check_shard(touched, store.path) for touched in find_touched(plan.dataset, store))
    return [difference for difference in found if difference]


def _sample(store: Store, name: str, changes: Mapping[str, str], random: np.random.Generator) -> Iterator[Check]:
    done = sorted(store.progress.done_blocks(name))
    batch = (store.fingerprint("mine", name) or {}).get("mine.batch", 1)
    runs = [
        _batch(store, block, batch, random) for block in sorted(random.permutation(done)[:SAMPLED_BATCHES].tolist())
    ]
    tasks = len(groups(store.layer(name).attributes["filters"], FILTERS_A_TASK))
    first = int(random.integers(tasks)) * FILTERS_A_TASK
    images = sum(rows.stop - rows.start for rows in runs)
    detail = f"{images:,} images, chosen at random, give the recorded rows"
    yield _check(f"{name} mined again", detail, _mined_problems, store, name, runs, changes)
    if store.fingerprint("deconvolve", name) is not None:
        describe = partial(_describe_deconvolved, store, name, first)
        yield _check(f"{name} deconvolved again", describe, _patch_problems, store, name, first, changes)


def _describe_deconvolved(store: Store, name: str, first: int) -> str:
    """Return what was deconvolved again, and how many of all projections of the layer hang on a near-tie."""
    layer = store.layer(name)
    hits, ties = np.sum(layer.read_ranking().image >= 0), layer.count_ties()
    hang = f"; {ties:,} of {hits:,} projections hang on a near-tie of a pooling region" if ties else ""
    return f"filters {first} to {first + FILTERS_A_TASK - 1}, chosen at random, give the recorded patches{hang}"


def _batch(store: Store, block: int, batch: int, random: np.random.Generator) -> slice:
    rows = store.images.rows(block)
    start = rows.start + batch * int(random.integers(-(-(rows.stop - rows.start) // batch)))
    return slice(start, min(start + batch, rows.stop))


def _plan(store: Store, name: str, changes: Mapping[str, str]) -> tuple[Plan, Layer]:
    plan = make_plan(layer_config(store, name, changes))
    for stage in ("rank", "deconvolve"):
        recorded = store.fingerprint(stage, name)
        if recorded is not None and recorded != plan.fingerprints.of(stage, plan.layers[0]):
            raise InputError(f"the ranks or projections of {name} were made with other settings: {stage} them again.")
    return plan, plan.layers[0]


def _mined_problems(store: Store, name: str, runs: list[slice], changes: Mapping[str, str]) -> list[str]:
    plan, layer = _plan(store, name, changes)
    arrays = store.layer(name)
    recorded = {**arrays.attributes, "probe": {**arrays.attributes.get("probe", {})}}
    recorded["probe"].pop("references", None)  # planning has compared them, up to a tolerance
    problems = [
        f"the attribute {key} is {recorded.get(key)!r}, not {value!r}"
        for key, value in layer.attributes().items()
        if recorded.get(key) != value
    ]
    strongest = arrays.read("max_activation") if store.fingerprint("rank", name) is not None else None
    settings = mining_settings(plan, count_cores())
    results = run_images(settings, (layer,), iterate_records(store, runs), runs)
    for rows, result in zip(runs, results, strict=True):
        problems += _compare_images(store, rows, result)
        problems += _compare_activations(arrays, rows, result, TOLERANCE[settings.precision], strongest)
    return problems


def _compare_images(store: Store, rows: slice, result: BlockResult) -> Iterator[str]:
    columns = image_columns(result)
    for (column, values), recorded in zip(columns.items(), store.images.columns(columns, rows), strict=True):
        for i in np.nonzero(values != recorded)[0]:
            yield f"image {rows.start + i}: {column} is {values[i]}, not {recorded[i]}"


def _compare_activations(
    arrays: StoredLayer, rows: slice, result: BlockResult, tolerance: float, strongest: np.ndarray | None
) -> Iterator[str]:
    activation, row, column = result.layers[arrays.name]
    recorded, recorded_row, recorded_column = arrays.read_mined(rows)
    scale = strongest if strongest is not None else np.nanmax(np.abs(recorded), axis=0, initial=0)
    same = (activation == recorded) | np.isnan(activation) & np.isnan(recorded)
    near = same | (np.abs(activation - recorded) <= tolerance * scale)  # another machine's arithmetic
    moved = same & ((row != recorded_row) | (column != recorded_column))
    for i, f in np.argwhere(~near | moved):
        now = f"{activation[i, f]:.6g} at {row[i, f]}, {column[i, f]}"
        was = f"{recorded[i, f]:.6g} at {recorded_row[i, f]}, {recorded_column[i, f]}"
        yield f"image {rows.start + i}, filter {f}: {now}, recorded is {was}"


def _patch_problems(store: Store, name: str, first: int, changes: Mapping[str, str]) -> list[str]:
    plan, layer = _plan(store, name, changes)
    filters = range(first, min(first + FILTERS_A_TASK, layer.filters))
    settings = projection_settings(plan, layer, count_cores())
    result = project_filters(filters, store, settings, should_stop=lambda: False)
    assert result is not None
    rows = slice(filters.start, filters.stop)
    hangs = store.layer(name).read("tie", rows) | result["tie"]
    tolerance = np.where(hangs, TIE_TOLERANCE, TOLERANCE[settings.mined_precision])
    problems = []
    for array in ("patch", "projection", "box", "source_box"):
        recorded = store.layer(name).read(array, rows)
        for f, now, was in zip(filters, result[array], recorded, strict=True):
            scale = np.abs(now).max(initial=0) if array == "projection" else 0
            difference = np.where(now == was, 0, np.abs(now - was.astype(np.float64)))
            difference[np.isnan(now) & np.isnan(was)] = 0  # the box of a rank that is empty
            largest = difference.reshape(len(now), -1).max(axis=1, initial=0)
            if not (largest <= tolerance[f - first] * scale).all():
                problems.append(f"{array} of filter {f} is not what was recorded")
    return [*problems, *_footprint_problems(store.layer(name), filters)]


def _footprint_problems(arrays: StoredLayer, filters: range) -> Iterator[str]:
    """Name the filters whose recorded footprints and masks are not those of the recorded projections."""
    names = ("top_image", "projection", "box", "footprint", "mask")
    recorded = zip(*(arrays.read(name, slice(filters.start, filters.stop)) for name in names), strict=True)
    for f, (image, *of_filter) in zip(filters, recorded, strict=True):
        for projection, box, footprint, mask in zip(*(values[image >= 0] for values in of_filter), strict=True):
            traced = trace(projection, box)
            if not (np.array_equal(traced[0], footprint) and np.array_equal(traced[1], mask)):
                yield f"the footprint or the mask of filter {f} is not that of its projection"
                break
