"""Reads that fail for a while: tried again, then the block's failure, and never a fact about an image."""

import errno
import os
import re

import pytest

from tests.conftest import contents, encode, noise, plan_run, run_stages
from tests.forms import Picture, class_folders, hugging_face, webdataset
from topnine.pipeline.errors import WorkError

pytestmark = pytest.mark.slow

PICTURES = [Picture(f"p{number:02d}", f"n{number % 3}", number % 3, encode(noise(number))) for number in range(10)]
FORMS = {"folder": class_folders, "tar": webdataset, "parquet": hugging_face}
OFTEN = ["EIO", "ENOENT", "ENOMEM", "short"]
ALL = [
    *OFTEN,
    *"ESTALE EACCES EPERM ENODEV ENXIO EMFILE ENFILE ETIMEDOUT ECONNRESET EHOSTDOWN EREMOTEIO".split(),  # noqa: SIM905
    *"EBADF EINVAL ENOSPC EDQUOT EBUSY EAGAIN EINTR".split(),  # noqa: SIM905
]
KINDS = ALL if os.environ.get("TOPNINE_TORTURE") else OFTEN
SETTINGS = {"mine__layers": "1", "mine__block": 4, "mine__batch": 4}
STAGES = ("mine", "rank", "deconvolve")


class Faults:
    """Has some reads of the data fail, by an error or by an answer that is too short."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(re.split(r"[{*]", path)[0])
        self.kind = ""
        self.left = 0
        self.spoilt = 0
        self._pread = os.pread

    def pread(self, descriptor: int, size: int, offset: int) -> bytes:
        """Read, or fail."""
        name = os.readlink(f"/proc/self/fd/{descriptor}")
        if not self.left or not name.startswith(self.path):
            return self._pread(descriptor, size, offset)
        self.left -= 1
        self.spoilt += 1
        if self.kind == "short":
            return b""
        number = getattr(errno, self.kind)
        raise OSError(number, os.strerror(number))


@pytest.fixture(scope="module", params=FORMS)
def form(request, tmp_path_factory):
    """A dataset in a form, indexed, and the store that an undisturbed run makes of it."""
    folder = tmp_path_factory.mktemp(request.param)
    path = FORMS[request.param](PICTURES, folder / "data")["path"]
    plan = plan_run(folder, data__path=path, **SETTINGS)
    run_stages(plan, "index", *STAGES)
    return path, contents(folder / "run.zarr")


def indexed(form, folder):
    path, undisturbed = form
    plan = plan_run(folder, data__path=path, **SETTINGS)
    run_stages(plan, "index")
    return plan, {**undisturbed, "zarr.json": b""}


@pytest.mark.parametrize("kind", KINDS)
def test_a_read_that_fails_for_a_while_changes_nothing(form, tmp_path, monkeypatch, kind):
    plan, undisturbed = indexed(form, tmp_path)
    faults = Faults(str(form[0]))
    monkeypatch.setattr(os, "pread", faults.pread)
    for stage in STAGES:
        faults.kind, faults.left = kind, 2
        run_stages(plan, stage)
    assert faults.spoilt >= 4  # ranking reads no images
    assert {**contents(tmp_path / "run.zarr"), "zarr.json": b""} == undisturbed


@pytest.mark.parametrize("kind", OFTEN[1:])
def test_a_read_that_goes_on_failing_is_the_blocks_failure_and_the_next_run_continues(
    form, tmp_path, monkeypatch, kind
):
    plan, undisturbed = indexed(form, tmp_path)
    faults = Faults(str(form[0]))
    faults.kind, faults.left = kind, 10_000
    monkeypatch.setattr(os, "pread", faults.pread)
    with pytest.raises(WorkError, match=r"cannot be read|memory ran out"):
        run_stages(plan, "mine")
    faults.left = 0
    run_stages(plan, *STAGES)
    assert {**contents(tmp_path / "run.zarr"), "zarr.json": b""} == undisturbed
