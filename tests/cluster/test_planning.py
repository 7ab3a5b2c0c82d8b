"""A run over a hundred thousand blocks is planned in seconds and in little memory."""

import os
import time
import tracemalloc
from pathlib import Path

from tests.conftest import run_stages, write_tar
from topnine.pipeline.store.store import Store
from topnine.stages.mine import count_mined, find_spans, find_todo

BLOCKS = 100_000


def test_a_hundred_thousand_blocks_are_planned_in_seconds(planned, some_photos, tmp_path):
    images = some_photos[:1] + [(f"{i}.jpg", b"") for i in range(BLOCKS - 1)]
    write_tar(tmp_path / "data" / "a.tar", images)
    plan = planned(data__path=tmp_path / "data", mine__layers="1 5", mine__block=1, mine__span=16)
    run_stages(plan, "index")
    store = Store.open(plan.config.store, write=True)
    for layer in plan.layers:
        attributes = {**layer.attributes(), "precision": "float32", "versions": {}}
        store.add_layer(layer.name, attributes, plan.fingerprints.of("mine", layer))
    store.progress.mark("conv1", 0)
    markers = Path(plan.config.store) / "progress/done/conv1/c"
    for block in range(2, BLOCKS, 2):  # every second block, so that no two can be one span
        os.link(markers / "0", markers / str(block))
    began = time.monotonic()
    tracemalloc.start()
    spans = find_spans(find_todo(store, plan.layers), plan.config.mine.span)
    assert count_mined(store, [layer.name for layer in plan.layers]) == 0
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.monotonic() - began < 10
    assert peak < 500 * 2**20
    assert len(spans) == BLOCKS
    assert [len(span.layers) for span in spans[:4]] == [1, 2, 1, 2]
