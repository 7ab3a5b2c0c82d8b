"""Resizing by torch: near Pillow's, and the same bytes whatever the processor can do and however many threads."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import REPOSITORY, encode, noise, plan_run, write_tar
from tests.conftest import decode_at as decode
from tests.unit.test_decode import SIZES, photographs
from topnine.pipeline.data.decoding.preparation import Geometry, Preparation
from topnine.pipeline.data.decoding.resizing import LONGEST, resize_crop
from topnine.pipeline.errors import InputError

# Resizes pictures of several shapes, in a thread other than the main one, and prints a digest of them.
SCRIPT = """
import hashlib, os, sys, threading
import numpy as np, torch
from topnine.pipeline.data.decoding.preparation import Geometry
from topnine.pipeline.data.decoding.resizing import resize_with_torch
torch.set_num_threads(int(sys.argv[1]))
digest = hashlib.sha256()
def resize():
    global started
    tasks = len(os.listdir("/proc/self/task"))
    for height, width in ((375, 500), (900, 700), (50, 60), (3, 200), (64, 64)):
        for channels in (1, 3, 5):
            pixels = np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)
            for interpolation in ("bilinear", "bicubic"):
                for fit in ("crop", "squash", "pad"):
                    geometry = Geometry(height, width, 64, (48, 56), fit)
                    digest.update(resize_with_torch(pixels, geometry, interpolation).tobytes())
    started = len(os.listdir("/proc/self/task")) - tasks
thread = threading.Thread(target=resize)
thread.start()
thread.join()
print(digest.hexdigest(), started, torch.backends.cpu.get_cpu_capability())
"""


def run_script(threads, capability):
    environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
    command = [sys.executable, "-c", SCRIPT, str(threads)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, check=True)
    return finished.stdout.split()


def test_its_bytes_depend_neither_on_threads_nor_on_the_processor():
    best = torch.backends.cpu.get_cpu_capability().lower()
    capabilities = {"default", best, *(["avx2"] if best == "avx512" else [])}
    results = [run_script(threads, capability) for capability in sorted(capabilities) for threads in (1, 2)]
    assert len({digest for digest, _, _ in results}) == 1
    assert {capability.lower() for _, _, capability in results} == capabilities
    if best != "default":  # in its own code for these processors it starts no threads
        assert all(int(started) <= 0 for _, started, capability in results if capability != "DEFAULT")


@pytest.mark.parametrize(("interpolation", "most"), [("bilinear", 2), ("bicubic", 8)])
def test_pixels_of_real_photographs_are_nearly_those_of_pillow(test_data, interpolation, most):
    """Bicubic values beyond black and white are cut off between the passes, whose order may be another."""
    apart = []
    for data in photographs(test_data):
        ours, pillows = (
            decode(data, 256, 224, interpolation=interpolation, resample=resample) for resample in ("torch", "pillow")
        )
        assert ours.geometry == pillows.geometry
        apart.append(np.abs(ours.pixels.astype(int) - pillows.pixels))
    assert max(image.max() for image in apart) <= most
    assert 0 < np.mean([(image > 0).mean() for image in apart]) < 0.02


@pytest.mark.parametrize("fit", ["crop", "squash", "pad"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_same_place_is_shown_for_every_fit(height, width, fit):
    smooth = np.asarray(Image.fromarray(noise(1, 12, 12)).resize((width, height), Image.Resampling.BICUBIC))
    ours, pillows = (
        decode(encode(smooth), 256, 224, fit=fit, fill=(1, 2, 3), resample=resample).pixels
        for resample in ("torch", "pillow")
    )
    assert np.abs(ours.astype(int) - pillows).max() <= 1


def test_an_image_of_the_wanted_size_is_not_resampled():
    pixels = noise(2)
    assert np.array_equal(decode(encode(pixels), 96, 96, resample="torch").pixels, pixels)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 6])
def test_other_numbers_of_channels_are_resized_as_three_are(count):
    geometry, preparation = Geometry(60, 80, 40, (32, 32)), Preparation(40, (32, 32), resample="torch")
    bands = np.concatenate([noise(1, 60, 80), noise(2, 60, 80)], axis=-1)[..., :count]
    resized = resize_crop(bands, geometry, preparation)
    assert resized.shape == (32, 32, count)
    for band in range(count):
        alone = np.ascontiguousarray(bands[..., band].repeat(3).reshape(60, 80, 3))
        assert np.array_equal(resize_crop(alone, geometry, preparation)[..., 0], resized[..., band])


def test_a_long_strip_is_left_to_pillow():
    strip = noise(1, 20, 20 * (LONGEST + 1))
    ours, pillows = (decode(encode(strip), 40, 40, resample=resample).pixels for resample in ("torch", "pillow"))
    assert np.array_equal(ours, pillows)


def test_memory_that_ran_out_is_no_damage(monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch.nn.functional, "interpolate", fail)
    with pytest.raises(MemoryError, match="can't allocate memory"):
        decode(encode(noise(1)), 64, 64, resample="torch")


def planned(folder, **changes):
    data = write_tar(folder / "data/a.tar", [("a.png", encode(noise(0)))]).parent
    return plan_run(folder, data__path=data, **changes)


def test_who_resizes_is_chosen_by_the_filter_and_recorded(tmp_path):
    plan = planned(tmp_path)
    assert plan.preparation.resample == plan.preprocessing()["resample"] == "torch"
    assert plan.fingerprints.index["decode.resample"] == "torch"
    assert planned(tmp_path, decode__resample="pillow").preprocessing()["resample"] == "pillow"
    assert planned(tmp_path, decode__interpolation="lanczos").preparation.resample == "pillow"


@pytest.mark.parametrize("interpolation", ["nearest", "lanczos"])
def test_torch_lacks_filters(tmp_path, interpolation):
    wanted = rf"torch' resizes with bilinear or bicubic, and decode\.interpolation is '{interpolation}': set decode\.re"
    with pytest.raises(InputError, match=wanted):
        planned(tmp_path, decode__interpolation=interpolation, decode__resample="torch")
