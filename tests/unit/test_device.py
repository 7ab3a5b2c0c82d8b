"""A batch is computed on one core of a CPU, so that its bits are the same whatever the machine has."""

from threading import get_ident

import pytest
import torch

from pipeline import activations, projections
from tests.conftest import run_stages, write_tar

THREADS = 3


@pytest.mark.parametrize(
    ("stages", "module", "name"),
    [(("index", "mine"), activations, "read_taps"), (("index", "mine", "rank", "deconvolve"), projections, "project")],
    ids=["mine", "deconvolve"],
)
def test_every_forward_runs_on_one_thread_and_several_side_by_side(
    planned, some_photos, tmp_path, monkeypatch, stages, module, name
):
    shard = write_tar(tmp_path / "a.tar", some_photos[:24])
    plan = planned(
        data__path=shard, mine__layers="5", mine__block=12, mine__batch=2, deconvolve__batch=1,
        cluster__threads=THREADS,
    )  # fmt: skip
    genuine, seen = getattr(module, name), []

    def watched(*arguments):
        seen.append((get_ident(), torch.get_num_threads()))
        return genuine(*arguments)

    monkeypatch.setattr(module, name, watched)
    run_stages(plan, *stages)
    assert {threads for _, threads in seen} == {1}
    assert len({thread for thread, _ in seen}) >= THREADS
