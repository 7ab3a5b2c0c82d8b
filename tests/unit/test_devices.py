"""Devices: batches on one core of a CPU, on the streams of a GPU, and what a machine does not have."""

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from threading import get_ident

import numpy as np
import pytest
import torch

from tests.conftest import run_stages, write_tar
from tests.watched import Watched, watch
from topnine.pipeline.compute import activations, devices, projections
from topnine.pipeline.compute.devices import STREAMS, Cpu, Cuda, count_gpus, open_device
from topnine.pipeline.errors import InputError

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

    def noted(*arguments):
        seen.append((get_ident(), torch.get_num_threads()))
        return genuine(*arguments)

    monkeypatch.setattr(module, name, noted)
    before = torch.get_num_threads()
    run_stages(plan, *stages)
    assert {threads for _, threads in seen} == {1}
    assert len({thread for thread, _ in seen}) >= THREADS
    assert torch.get_num_threads() == before


def test_the_first_batch_of_a_kind_runs_while_no_other_of_as_many_images_does():
    device, running, together = Cpu("cpu"), [], []

    def compute(array):
        running.append(get_ident())
        together.append(len(running))
        time.sleep(0.02)
        running.pop()
        return array

    def run(key):
        return device.run(key, compute, np.zeros(2))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, ["a", "a", "b", "c"]))
        assert max(together) == 1
        together.clear()
        list(pool.map(run, ["a"] * 8))  # known by now: side by side
        assert max(together) > 1
        together.clear()
        list(pool.map(lambda images: device.run("d", compute, np.zeros(images)), range(2, 6)))  # share no operation
        assert max(together) > 1


def test_onednn_generates_no_code_twice():
    """What it would forget would be generated again, by two threads at once, without a first batch's turn."""
    script = (
        "from topnine.pipeline.compute.devices import open_device; import numpy as np; import torch\n"
        "weight = torch.ones(4, 4, 5, 5)\n"
        "for _ in range(2):\n"
        "    for size in range(8, 1100):\n"
        "        open_device('cpu').run('k', lambda pixels: torch.conv2d(pixels, weight), "
        "np.ones((1, 4, 8, size), np.float32))\n"
        "    print('pass', flush=True)\n"
    )
    environment = os.environ | {"ONEDNN_VERBOSE": "profile_create"}
    printed = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    ).stdout
    first, second, _ = printed.split("pass\n")
    assert first.count("create:cache_miss") > 1024
    assert second.count("create:cache_miss") == 0
    assert second.count("create:cache_hit") > 1024


def test_results_come_back_as_arrays_in_the_form_they_were_returned():
    def compute(array):
        return {"double": array * 2, "pair": (array, [array + 1]), "text": "as it is"}

    result = Cpu("cpu").run("k", compute, np.arange(3.0))
    assert isinstance(result["double"], np.ndarray)
    np.testing.assert_array_equal(result["double"], [0, 2, 4])
    np.testing.assert_array_equal(result["pair"][1][0], [1, 2, 3])
    assert result["text"] == "as it is"


def test_precisions_of_the_processor():
    Cpu("cpu").check_precision("bfloat16")
    with pytest.raises(InputError, match='"tf32" needs a GPU, and the device is cpu'):
        Cpu("cpu").check_precision("tf32")


class FakeStream:
    made = 0

    def __init__(self, name):
        FakeStream.made += 1
        self.device = name
        self.waits = []

    def wait_stream(self, other):
        self.waits.append(other)


class FakeDriver:
    """What ``Cuda`` asks of torch.cuda, for a machine with some GPUs of a compute capability."""

    def __init__(self, monkeypatch, gpus, capability=(9, 0)):
        FakeStream.made = 0
        self.current = []
        for name, value in {
            "is_available": lambda: gpus > 0,
            "device_count": lambda: gpus,
            "get_device_capability": lambda name: capability,
            "default_stream": lambda name: f"default of {name}",
            "Stream": FakeStream,
            "stream": self.stream,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
        devices.close_devices()

    def stream(self, stream):
        self.current.append(stream)
        return torch.no_grad()


@pytest.fixture(autouse=True)
def _devices_are_opened_anew():
    devices.close_devices()
    yield
    devices.close_devices()


def test_a_machine_without_a_gpu(monkeypatch):
    FakeDriver(monkeypatch, gpus=0)
    assert open_device("auto").name == "cpu"
    assert count_gpus() == 0
    with pytest.raises(InputError, match="device 'cuda:0' cannot be used: torch finds no GPU here"):
        open_device("cuda")


def test_one_gpu_of_several_and_one_too_many(monkeypatch):
    FakeDriver(monkeypatch, gpus=2)
    assert (open_device("auto").name, open_device("cuda:1").name, count_gpus()) == ("cuda:0", "cuda:1", 2)
    assert open_device("cuda:1") is open_device("cuda:1")
    assert open_device("cuda") is open_device("cuda:0") is open_device("auto")
    with pytest.raises(InputError, match="'cuda:2' cannot be used: this machine has 2 GPUs, numbered from 0"):
        open_device("cuda:2")


@pytest.mark.parametrize(
    ("capability", "refused"),
    [((9, 0), set()), ((7, 5), {"tf32", "bfloat16"}), ((6, 1), {"tf32", "bfloat16", "float16"})],
)
def test_a_gpu_computes_in_the_precisions_it_has_units_for(monkeypatch, capability, refused):
    FakeDriver(monkeypatch, gpus=1, capability=capability)
    for precision in ("float32", "tf32", "bfloat16", "float16"):
        if precision in refused:
            with pytest.raises(InputError, match=f'"{precision}" needs a GPU of compute capability'):
                open_device("cuda").check_precision(precision)
        else:
            open_device("cuda").check_precision(precision)


def test_streams_belong_to_the_process_whichever_threads_compute(monkeypatch):
    driver = FakeDriver(monkeypatch, gpus=2)
    device = open_device("cuda:1")
    barrier = threading.Barrier(STREAMS)

    def compute():
        with device._batch("key"):
            barrier.wait(timeout=10)  # as many at once as there are streams

    for _ in range(4):  # new threads every time
        with ThreadPoolExecutor(STREAMS) as pool:
            for _ in range(STREAMS):
                pool.submit(compute)
    assert FakeStream.made == STREAMS
    assert len(driver.current) == 4 * STREAMS
    assert {stream.device for stream in driver.current} == {"cuda:1"}
    assert all(wait == "default of cuda:1" for stream in driver.current for wait in stream.waits)
    assert (device.forwards(16), device.backwards(16)) == (STREAMS, STREAMS)


def test_tf32_is_allowed_inside_and_as_before_outside(monkeypatch):
    FakeDriver(monkeypatch, gpus=1)
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    with open_device("cuda").deterministic("tf32"):
        assert torch.backends.cuda.matmul.allow_tf32
        assert torch.backends.cudnn.allow_tf32
        assert torch.backends.cudnn.deterministic
    with open_device("cuda").deterministic():
        assert not torch.backends.cudnn.allow_tf32
    assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == before


def test_a_module_is_copied_to_the_gpu_once(monkeypatch):
    FakeDriver(monkeypatch, gpus=1)
    device, copies = open_device("cuda"), []
    monkeypatch.setattr(Cuda, "_copy", lambda self, module: copies.append(module) or object())
    first, second = torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)
    assert device.place(first) is device.place(first)
    device.place(second)
    assert copies == [first, second]


# -- under watch: a GPU's code on the processor -----------------------------------------------------------------------


def test_a_read_that_did_not_wait_is_noticed(monkeypatch):
    leaked = []
    with watch(monkeypatch) as account:
        device = open_device("cpu")
        assert isinstance(device, Watched)
        device.run("k", lambda array: leaked.append(array * 2) or array, np.ones(3))
        assert not account.unsynchronised
        leaked[0] + 1
        assert len(account.unsynchronised) == 0  # the batch has been waited for
        with device._batch("k"):
            late = torch.ones(3) * 3
        late.sum()
    assert any("aten::sum on the host reads what stream" in read for read in account.unsynchronised)
