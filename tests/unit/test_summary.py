from dataclasses import replace
from types import SimpleNamespace

import pytest

from topnine.pipeline.store.store import Store
from topnine.stages.cli import summary
from topnine.stages.cli.summary import describe_run, describe_store
from topnine.stages.tools.status import LayerStatus, StoreStatus, WriterStatus, status

MINED = LayerStatus(
    number=1, blocks=9, done=9, failed=0, to_do=0, reasons={}, rank=True, statistics=True, deconvolve=True, dead=3
)
BEGUN = replace(MINED, number=None, done=6, failed=1, to_do=2, reasons={4: "out of memory"}, rank=False,
                statistics=False, deconvolve=False, dead=None)  # fmt: skip
STATE = StoreStatus("runs/a.zarr", 1536, 3, {"not an image": 2, "no bytes": 1}, {"conv1": MINED, "fc": BEGUN}, None)
WRITER = WriterStatus("node7", 12, "2026-01-01T00:00:00+00:00", "", "mine", "images", 300, 1300, 4.0, 250.0)


def test_status_describes_every_layer_and_every_failed_block():
    assert list(describe_store(STATE)) == [
        "runs/a.zarr: 1,536 images, 3 undecodable",
        "  2 × not an image",
        "  1 × no bytes",
        "  conv1: 9 of 9 blocks mined, 0 to do, rank, deconvolve, statistics",
        "  fc: 6 of 9 blocks mined, 2 to do, 1 failed, rank to do, deconvolve to do",
        "    block 4: out of memory",
    ]


@pytest.mark.parametrize(
    ("change", "pace"),
    [
        ({}, "mine, 300 of 1,300 images, 4.0 images/s, 250 s left"),
        ({"per_second": 0, "seconds_left": None}, "mine, 300 of 1,300 images"),
        ({"stage": ""}, "starting"),
    ],
)
def test_status_says_who_is_writing_and_how_fast(change, pace):
    *_, line = describe_store(replace(STATE, holder=replace(WRITER, **change)))
    assert line == f"a run on node7 (process 12) since 2026-01-01T00:00:00+00:00: {pace}"


@pytest.mark.parametrize(
    ("layers", "lines"),
    [(["conv1", "fc"], ["dead filters: 3 of 96 in conv1", "runs/a.zarr"]), (["fc"], ["runs/a.zarr"])],
)
def test_a_run_ends_with_its_images_its_dead_filters_and_its_store(monkeypatch, layers, lines):
    monkeypatch.setattr(summary, "status", lambda store: STATE)
    monkeypatch.setattr(Store, "open", lambda path: path)
    plan = SimpleNamespace(
        config=SimpleNamespace(store="runs/a.zarr"), layers=[SimpleNamespace(name=name, filters=96) for name in layers]
    )
    images, *rest = describe_run(plan, ["index", "mine"], None)
    assert images == "1,536 images, 3 undecodable"
    assert rest == ["  2 × not an image", "  1 × no bytes", *lines]


def test_a_store_without_an_index_has_neither_images_nor_layers(tmp_path):
    store = Store.create(str(tmp_path / "a.zarr"))
    assert status(store) == StoreStatus(store.path, 0, 0, {}, {}, None)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (
            {"ties": 7, "precision": "float32"},
            "7 of 1,152 projections hang on a near-tie of a pooling region; "
            'deconvolve.precision = "float64" settles them',
        ),
        ({"ties": 0, "precision": "float32"}, None),
        ({"ties": None}, None),
    ],
)
def test_a_run_says_how_many_projections_hang_on_a_near_tie_where_there_are_some(change, line):
    layer = replace(MINED, hits=1152, **change)
    assert list(summary.describe_ties([layer, replace(MINED, hits=9)])) == ([line] if line else [])
