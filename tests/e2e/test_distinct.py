"""rank.distinct against the slow and obvious: every filter's hits sorted in full, compared one with another."""

from __future__ import annotations

import io
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import plan_run, run_stages
from topnine.pipeline.data.decoding.decode import difference_hash
from topnine.pipeline.store.store import Store
from topnine.stages import rank as stage
from topnine.stages.tools.verify import verify

RADIUS = {1: (7, 2, -3), 5: (83, 8, -41)}  # size, stride, offset of tiny_zfnet's receptive fields


@pytest.fixture(scope="module")
def mined(photo_shards, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distinct")
    plan = plan_run(folder, data__path=photo_shards, mine__layers="1 5", mine__block=32)
    run_stages(plan, "index", "mine")
    return folder


def nine(store: Store, layer: int, alike) -> list[list[int]]:
    """Every filter's nine strongest images, without those that are alike to one taken before."""
    activation, row, column = store.layer(f"conv{layer}").read_mined(slice(None))
    keys, look = (part.tolist() for part in store.images.columns(("key", "difference_hash")))
    found = []
    for f in range(0, activation.shape[1], 7):
        taken: list[int] = []
        for i in np.lexsort((np.arange(len(activation)), -activation[:, f])).tolist():
            hit = keys[i], look[i], box(layer, keys[i], int(row[i, f]), int(column[i, f]))
            others = [(keys[j], look[j], box(layer, keys[j], int(row[j, f]), int(column[j, f]))) for j in taken]
            if activation[i, f] > 0 and len(taken) < 9 and not any(alike(hit, other) for other in others):
                taken.append(i)
        found.append(taken + [-1] * (9 - len(taken)))
    return found


def box(layer: int, key: str, row: int, column: int) -> list[int]:
    size, stride, offset = RADIUS[layer]
    scale, tile_row, tile_column = map(int, key.split("-")[-3:])
    top, left = (min(max(offset + stride * place, 0), 96 - size) for place in (row, column))
    corner = [tile_row * 96 + top, tile_column * 96 + left]
    return [scale * edge for edge in (*corner, corner[0] + size, corner[1] + size)]


def same_source(one, other) -> bool:
    return one[0].rsplit("-", 3)[0] == other[0].rsplit("-", 3)[0]


def same_place(one, other) -> bool:
    def inside(a, b) -> bool:
        y, x = (a[0] + a[2]) / 2, (a[1] + a[3]) / 2
        return b[0] <= y < b[2] and b[1] <= x < b[3]

    return same_source(one, other) and (inside(one[2], other[2]) or inside(other[2], one[2]))


def same_look(one, other) -> bool:
    return (one[1] ^ other[1]).bit_count() <= 14


@pytest.mark.slow
@pytest.mark.parametrize(
    ("distinct", "alike"),
    [("image", lambda *_: False), ("source", same_source), ("place", same_place), ("look", same_look)],
)
def test_nine_distinct_hits_are_those_of_a_full_comparison_and_images_are_not_read_again(
    mined, photo_shards, monkeypatch, distinct, alike
):
    monkeypatch.setattr(stage, "CANDIDATES", 12)  # so that most filters need more than the first
    monkeypatch.setattr(stage, "BLOCKS_A_TASK", 3)
    changes = {"rank__distinct": distinct, "rank__distance": 14}
    plan = plan_run(mined, data__path=photo_shards, mine__layers="1 5", mine__block=32, **changes)
    store = Store.open(plan.config.store)
    before = [file.stat().st_mtime_ns for file in sorted(mined.rglob("layers/*/activation/c/**/*"))]
    run_stages(plan, "mine", "rank")
    assert [file.stat().st_mtime_ns for file in sorted(mined.rglob("layers/*/activation/c/**/*"))] == before
    for layer in (1, 5):
        assert store.layer(f"conv{layer}").read_ranking().image[::7].tolist() == nine(store, layer, alike)
        recorded = store.fingerprint("rank", f"conv{layer}")
        assert recorded["rank.distinct"] == distinct
        assert recorded.get("rank.distance") == (14 if distinct == "look" else None)
    checks = {check.name: check.problems for check in islice(verify(plan.config.store, {}, 0), 5)}
    assert checks == dict.fromkeys(["images", "conv1 chunks", "conv5 chunks", "conv1 ranking", "conv5 ranking"], ())


def test_a_hash_withstands_another_encoding_and_tells_photographs_apart(some_photos):
    hashes, again = [], []
    for _, data in some_photos:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((224, 224))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=60)
        hashes.append(difference_hash(np.asarray(image)))
        again.append(difference_hash(np.asarray(Image.open(buffer))))
    changed = [(one ^ other).bit_count() for one, other in zip(hashes, again, strict=True)]
    apart = [(one ^ other).bit_count() for i, one in enumerate(hashes) for other in hashes[:i]]
    assert np.median(changed) <= 2
    assert np.mean(np.array(apart) > 10) > 0.95
