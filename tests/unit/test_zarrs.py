"""Reading through zarrs: the same values and the same errors as zarr's own reading, whatever became of a file."""

from pathlib import Path

import numpy as np
import pytest

from tests.doctests import ACTIVATION, BLOCK, write_store
from topnine.pipeline.errors import DamageError
from topnine.pipeline.store import arrays
from topnine.pipeline.store.store import Store

pytest.importorskip("zarrs")
CHUNKS = {"activation": "layers/conv1/activation/c/0/0", "row": "layers/conv1/row/c/0/0"}
WHOLE, PART = slice(0, BLOCK), slice(1, 3)


@pytest.fixture
def small(tmp_path) -> str:
    return write_store(str(tmp_path / "small.zarr"))


def read(path: str, name: str, rows: slice = WHOLE) -> np.ndarray | str:
    """Read an array in a store that is opened anew; return its values, or the sentence of the error."""
    try:
        with Store.open(path).arrays.reading(f"layers/conv1/{name}") as array:
            return np.asarray(array[rows])
    except DamageError as error:
        return str(error)


def both(monkeypatch, *given) -> list[np.ndarray | str]:
    """Read with zarrs and without."""
    with_zarrs = read(*given)
    with monkeypatch.context() as patch:
        patch.setattr(arrays, "Zarrs", None)
        return [with_zarrs, read(*given)]


class Spy(arrays.Zarrs):
    """zarrs' pipeline, but it notes what is read and may do something meanwhile."""

    reads: list[str] = []  # noqa: RUF012
    meanwhile = staticmethod(lambda: None)

    async def read(self, batch_info, out, drop_axes=()):
        self.reads.extend(getter.path for getter, *_ in batch_info)
        await super().read(batch_info, out, drop_axes)
        self.meanwhile()

    async def write(self, *given):
        raise AssertionError("nothing is written through zarrs")


@pytest.fixture
def spy(monkeypatch):
    monkeypatch.setattr(arrays, "Zarrs", Spy)
    monkeypatch.setattr(Spy, "reads", [])
    return Spy


def test_whole_chunks_are_read_through_it_and_nothing_else(small, spy):
    activation, position = CHUNKS.values()
    assert np.array_equal(read(small, "activation", slice(0, 6)), ACTIVATION, equal_nan=True)
    assert spy.reads == [activation]  # the second block is not whole
    read(small, "row")
    read(small, "activation", PART)
    assert spy.reads == [activation, position]


def test_nothing_is_written_through_it(tmp_path, spy):
    layer = Store.open(write_store(str(tmp_path / "run.zarr")), write=True).layer("conv1")
    layer.read_activation(WHOLE)
    layer.write_block(0, ACTIVATION[:4] + 1, *np.ones((2, 4, 4)))
    assert np.array_equal(layer.read_activation(WHOLE), ACTIVATION[:4] + 1, equal_nan=True)
    assert spy.reads


@pytest.mark.parametrize("rows", [WHOLE, PART])
@pytest.mark.parametrize("name", CHUNKS)
def test_every_flipped_bit_is_the_same_sentence(small, monkeypatch, name, rows):
    file = Path(small, CHUNKS[name])
    data = file.read_bytes()
    for bit in range(0, 8 * len(data), 1 if name == "row" else 7):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        one, other = both(monkeypatch, small, name, rows)
        assert isinstance(one, str)
        assert one == other
        assert "damaged" in one


@pytest.mark.parametrize("rows", [WHOLE, PART])
@pytest.mark.parametrize("name", CHUNKS)
def test_a_file_that_is_gone_empty_torn_or_zeroed_is_the_same_sentence(small, monkeypatch, name, rows):
    file = Path(small, CHUNKS[name])
    data = file.read_bytes()
    file.unlink()
    sentences = [both(monkeypatch, small, name, rows)]
    for damaged in (b"", data[: len(data) // 2], data[:-1], bytes(len(data))):
        file.write_bytes(damaged)
        sentences.append(both(monkeypatch, small, name, rows))
    for one, other in sentences:
        assert isinstance(one, str)
        assert one == other
    assert all(f"{CHUNKS[name]} is missing or empty" in one for one, _ in sentences[:2])


def test_a_file_that_goes_away_while_it_is_read_is_missing(small, spy, monkeypatch):
    monkeypatch.setattr(spy, "meanwhile", staticmethod(Path(small, CHUNKS["activation"]).unlink))
    assert f"{CHUNKS['activation']} is missing or empty" in read(small, "activation")


def test_a_file_that_is_written_while_it_is_read_is_read_again(small, spy, monkeypatch):
    file = Path(small, CHUNKS["activation"])
    older = file.read_bytes()
    Store.open(small, write=True).layer("conv1").write_block(0, ACTIVATION[:4] + 1, *np.zeros((2, 4, 4)))
    newer = file.with_suffix(".newer")
    newer.write_bytes(file.read_bytes())
    file.write_bytes(older)

    def replace():
        if newer.exists():
            newer.replace(file)

    monkeypatch.setattr(spy, "meanwhile", staticmethod(replace))
    assert np.array_equal(read(small, "activation"), ACTIVATION[:4] + 1, equal_nan=True)


def test_where_it_fails_zarr_reads(small, spy, monkeypatch):
    def fail():
        raise RuntimeError("no threads")

    monkeypatch.setattr(spy, "meanwhile", staticmethod(fail))
    assert np.array_equal(read(small, "activation"), ACTIVATION[:4], equal_nan=True)
