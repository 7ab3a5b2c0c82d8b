"""What a run would do and write, told before it does."""

from __future__ import annotations

from pipeline import shards
from pipeline.layers import Layer
from pipeline.patches import window_size
from pipeline.plan import Plan
from pipeline.ranking import RANKS


def estimate(plan: Plan) -> list[str]:
    """Give lines with images, blocks, and the bytes of a store before compression."""
    images = sum(len(shards.scan(shard)) for shard in plan.dataset.shards)
    blocks = -(-images // plan.config.mine.block)
    lines = [f"{images:,} images in {len(plan.dataset.shards)} shards, {blocks:,} blocks of {plan.config.mine.block}"]
    total = 0
    for layer in plan.layers:
        size = _bytes(plan, layer, images)
        total += size
        lines.append(f"layer {layer.name}: {layer.filters} filters, up to {_mib(size)}")
    return [*lines, f"{plan.config.store}: up to {_mib(total)} before compression, on {plan.device}"]


def _bytes(plan: Plan, layer: Layer, images: int) -> int:
    height, width = window_size(layer.field, plan.config.decode.crop)
    mined = images * layer.filters * (4 + 2 + 2)
    projected = layer.filters * RANKS * height * width * 3 * (4 + 1)
    return mined + projected


def _mib(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
