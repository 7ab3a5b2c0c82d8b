import io
import tarfile

import pytest

from topnine.pipeline.data.forms.headers import walk
from topnine.pipeline.data.forms.windows import LARGEST, Windows


def tar_of(sizes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as container:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = size
            container.addfile(member, io.BytesIO(bytes([number % 256]) * size))
    return buffer.getvalue()


def counted(content):
    requests = []

    def read(offset, size):
        requests.append((offset, size))
        return content[offset : offset + size]

    return read, requests


@pytest.mark.parametrize("sizes", [[100_000] * 50, [300] * 5000, [20_000] * 200, [5, 2_000_000, 7, 0, 90_000] * 5, []])
def test_the_members_are_those_without_windows(sizes):
    content = tar_of(sizes)
    read, requests = counted(content)
    through = list(walk(Windows(read).read, 0, len(content)))
    assert through == list(walk(counted(content)[0], 0, len(content)))
    assert [member.size for member in through] == sizes
    assert max(size for _, size in requests) <= max(LARGEST, 2**20 + 512)


@pytest.mark.parametrize(("sizes", "most"), [([300] * 5000, 16), ([20_000] * 500, 30), ([110_000] * 100, 103)])
def test_small_members_come_many_at_a_time_and_large_ones_cost_a_request_each(sizes, most):
    content = tar_of(sizes)
    read, requests = counted(content)
    assert len(list(walk(Windows(read).read, 0, len(content)))) == len(sizes)
    assert len(requests) <= most
    if sizes[0] > 100_000:  # what is skipped is not read
        assert sum(size for _, size in requests) < len(content) / 4


def test_what_lies_before_a_window_or_reaches_behind_it_is_read_again():
    content = bytes(range(256)) * 4096
    read, _ = counted(content)
    windows = Windows(read)
    for offset, size in ((1000, 10), (900, 200), (5000, 500_000), (0, 512), (len(content) - 5, 50)):
        assert windows.read(offset, size) == content[offset : offset + size]
