"""What commands print of a store: ``topnine status`` all of it, a run at its end what it did."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from topnine.pipeline.store.store import Store
from topnine.stages.tools.status import LayerStatus, StoreStatus, WriterStatus, status

if TYPE_CHECKING:
    from topnine.pipeline.stored_plan import StoredPlan
    from topnine.stages.tile import SheetChoice


LISTED = 10  # damaged images, and shards that are not complete


def describe_store(state: StoreStatus) -> Iterator[str]:
    """Yield the lines of ``topnine status``."""
    images, *reasons = _count_images(state)
    yield f"{state.store}: {images}"
    yield from reasons
    yield from describe_faults(state)
    for name, layer in state.layers.items():
        yield from _describe_layer(name, layer)
    writer = state.holder
    if writer:
        yield f"a run on {writer.host} (process {writer.pid}) since {writer.started}: {_describe_pace(writer)}"


def describe_run(plan: StoredPlan, stages: Collection[str], choice: SheetChoice) -> Iterator[str]:
    """Yield the lines that a run prints at its end: what the store holds, and the paths of all that was written."""
    state = status(Store.open(plan.config.store))
    yield from _count_images(state)
    yield from describe_faults(state)
    dead = _count_dead_filters({layer.name: layer.filters for layer in plan.layers}, state)
    if dead:
        yield f"dead filters: {', '.join(dead)}"
    yield from describe_ties([state.layers[layer.name] for layer in plan.layers if layer.name in state.layers])
    yield plan.config.store
    yield from _list_files(plan, stages, choice)


def summarise_run(plan: StoredPlan, stages: Collection[str], choice: SheetChoice) -> dict[str, Any]:
    """Return what ``describe_run`` tells as values for JSON: those of ``topnine status --json``, and ``files``."""
    return {**asdict(status(Store.open(plan.config.store))), "files": list(_list_files(plan, stages, choice))}


def describe_faults(state: StoreStatus) -> Iterator[str]:
    """Yield lines that name the first damaged images, and what is missing of the shards that are not complete."""
    for image in state.damaged[:LISTED]:
        yield f"  {image.key} in {image.shard}: {image.reason}"
    if len(state.damaged) > LISTED:
        yield f"  and {len(state.damaged) - LISTED:,} more: `topnine status --json` names all"
    if state.incomplete:
        yield f"{len(state.incomplete):,} shards are not complete, and what is missing of them was not mined:"
    for shard in state.incomplete[:LISTED]:
        yield f"  {shard.shard}: {shard.missing}"
    if len(state.incomplete) > LISTED:
        yield f"  and {len(state.incomplete) - LISTED:,} more: `topnine status --json` names all"


def describe_ties(layers: Collection[LayerStatus]) -> Iterator[str]:
    """Yield a line that says how many projections of some layers hang on a near-tie, where there are some."""
    counted = [layer for layer in layers if layer.ties is not None]
    ties, hits = sum(layer.ties or 0 for layer in counted), sum(layer.hits for layer in counted)
    remedy = '; deconvolve.precision = "float64" settles them' if counted and counted[0].precision == "float32" else ""
    if ties:
        yield f"{ties:,} of {hits:,} projections hang on a near-tie of a pooling region{remedy}"


def _count_images(state: StoreStatus) -> Iterator[str]:
    """Yield a line with the numbers of images and of undecodable ones, and one for each reason."""
    yield f"{state.images:,} images, {state.undecodable:,} undecodable"
    for reason, count in state.reasons.items():
        yield f"  {count} × {reason}"


def _describe_layer(name: str, layer: LayerStatus) -> Iterator[str]:
    """Yield a line for a layer and one for each of its blocks that failed."""
    blocks = f"{layer.done:,} of {layer.blocks:,} blocks mined, {layer.to_do:,} to do"
    failed = [f"{layer.failed:,} failed"] if layer.failed else []
    rank = "rank" if layer.rank else "rank to do"
    deconvolve = "deconvolve" if layer.deconvolve else "deconvolve to do"
    statistics = ["statistics"] if layer.statistics else []
    yield f"  {name}: {', '.join([blocks, *failed, rank, deconvolve, *statistics])}"
    for block, reason in layer.reasons.items():
        yield f"    block {block}: {reason}"


def _describe_pace(writer: WriterStatus) -> str:
    """Return what a run is doing, how fast, and when that will be done."""
    if not writer.stage:
        return "starting"
    amount = f"{writer.stage}, {writer.done:,} of {writer.total:,} {writer.unit}"
    if not writer.per_second or writer.seconds_left is None:
        return amount
    return f"{amount}, {writer.per_second:.1f} {writer.unit}/s, {writer.seconds_left:,.0f} s left"


def _count_dead_filters(filters: Mapping[str, int], state: StoreStatus) -> list[str]:
    """List how many filters no image activates, for each layer (name to its number of filters) that is ranked."""
    ranked = {name: layer.dead for name, layer in state.layers.items() if layer.dead is not None}
    return [f"{ranked[name]} of {count} in {name}" for name, count in filters.items() if name in ranked]


def _list_files(plan: StoredPlan, stages: Collection[str], choice: SheetChoice) -> Iterator[str]:
    """Yield the paths of what stages wrote beside the store."""
    from topnine.stages.tile import sheet_paths

    if "tile" in stages:
        for layer in plan.layers:
            yield from map(str, sheet_paths(plan.folder, layer, choice, plan.first_weights(layer) is not None))
    if "gallery" in stages:
        yield str(plan.folder / "gallery" / "index.html")
