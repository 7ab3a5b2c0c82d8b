"""Weights in .npz files; those that unpack to more than there is memory are refused by their headers."""

import io
import pickle
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.loading import load_network
from topnine.pipeline.network.registry import ARCHITECTURES

BOMB_MIB = 512
ALLOWED_KIB = 150 * 2**10  # what reading may add; the weights themselves have 5 MiB

LOAD = """
import sys
from topnine.pipeline.config.sections import NetworkConfig
from topnine.pipeline.errors import InputError
from topnine.pipeline.network.loading import load_network
from tests.conftest import peak_kib
load_network(NetworkConfig(name="tiny_zfnet", weights="random"))
before = peak_kib()
try:
    load_network(NetworkConfig(name="tiny_zfnet", weights=sys.argv[1]))
    print("loaded")
except InputError as error:
    print(error)
print(peak_kib() - before)
"""


def sound_state() -> dict[str, np.ndarray]:
    torch.manual_seed(5)
    return {key: tensor.numpy() for key, tensor in ARCHITECTURES["tiny_zfnet"].build().state_dict().items()}


def header(shape: tuple[int, ...]) -> bytes:
    content = io.BytesIO()
    described = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(content, described)
    return content.getvalue()


def write_zip(path: Path, heads: dict[str, bytes], arrays: dict[str, np.ndarray]) -> Path:
    """Write arrays, and entries that begin with some bytes and go on with half a gigabyte of zeros."""
    np.savez(path, **arrays)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, head in heads.items():
            with archive.open(name, "w", force_zip64=True) as entry:
                entry.write(head)
                for _ in range(BOMB_MIB // 16):
                    entry.write(bytes(16 * 2**20))
    assert path.stat().st_size < 20 * 2**20
    return path


def load_elsewhere(path: Path) -> tuple[str, int]:
    """What loading says in a process of its own, and the KiB that it adds to the peak of its memory."""
    finished = subprocess.run(
        [sys.executable, "-c", LOAD, path], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )
    said, kib = finished.stdout.splitlines()
    return said, int(kib)


ZEROS = (BOMB_MIB * 2**18,)  # numbers of four bytes
LONG_HEADER = b"\x93NUMPY\x02\x00" + struct.pack("<I", BOMB_MIB * 2**20)


@pytest.mark.parametrize(
    ("head", "name", "said"),
    [
        (header(ZEROS), "conv9.weight", "has beside them 1 of its 14 keys, the first is 'conv9.weight'"),
        (header(ZEROS), "conv1.bias", f"conv1.bias has shape {ZEROS}, expected (64,)"),
        (LONG_HEADER, "conv1.bias", "cannot be read: EOF: reading array header"),
        (header((64,)), "conv1.bias", "loaded"),  # what follows the array is not unpacked
        (header(ZEROS), "n_averaged", "loaded"),  # a counter that is not wanted is not read
    ],
    ids=["surplus", "shape", "header", "tail", "unwanted"],
)
def test_a_bomb_is_refused_or_left_packed(tmp_path, head, name, said):
    arrays = {key: array for key, array in sound_state().items() if key != name}
    printed, kib = load_elsewhere(write_zip(tmp_path / "bomb.npz", {f"{name}.npy": head}, arrays))
    assert said in printed
    assert kib < ALLOWED_KIB


def test_a_compressed_checkpoint_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save({key: torch.from_numpy(array) for key, array in sound_state().items()}, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "packed.pth", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name))
    load_network(NetworkConfig(name="tiny_zfnet", weights=str(path)))
    with pytest.raises(InputError, match="it is compressed, which"):
        load_network(NetworkConfig(name="tiny_zfnet", weights=str(tmp_path / "packed.pth")))


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps(Evil()),
        b"",
        b"\x93NUMPY\x03\x00" + bytes(100),
        b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f4'}",
    ],
    ids=["pickle", "empty", "version", "cut"],
)
def test_entries_that_are_no_arrays_of_numbers_are_a_sentence(tmp_path, content):
    path = tmp_path / "weights.npz"
    np.savez(path, **sound_state())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other.npy", content)
    with pytest.raises(InputError, match="cannot be read: ") as error:
        load_network(NetworkConfig(name="tiny_zfnet", weights=str(path)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("array", [np.array([Evil()], object), np.array(["text"]), np.zeros(3, "i4,f4")])
def test_arrays_of_other_things_than_numbers_are_a_sentence(tmp_path, array, capfd):
    path = tmp_path / "weights.npz"
    np.savez(path, **{**sound_state(), "conv1.bias": array})
    with pytest.raises(InputError, match="cannot be read: "):
        load_network(NetworkConfig(name="tiny_zfnet", weights=str(path)))
    assert "code ran" not in capfd.readouterr().out


def test_arrays_with_the_names_of_wrappers_and_a_counter_give_the_network(tmp_path):
    path, state = tmp_path / "weights.npz", sound_state()
    np.savez_compressed(path, n_averaged=np.array(3), **{f"module.{key}": array for key, array in state.items()})
    module = load_network(NetworkConfig(name="tiny_zfnet", weights=str(path))).module
    assert all(np.array_equal(tensor.numpy(), state[key]) for key, tensor in module.state_dict().items())
