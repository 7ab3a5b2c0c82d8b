import io
import tarfile

import pytest

from topnine.pipeline.data.forms.headers import walk
from topnine.pipeline.data.forms.windows import FIRST, LARGEST, Windows


def tar_of(sizes):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as container:
        for number, size in enumerate(sizes):
            member = tarfile.TarInfo(f"{number}.jpg")
            member.size = size
            container.addfile(member, io.BytesIO(bytes([number % 256]) * size))
    return buffer.getvalue()


class Network:
    """A file behind a network: how long its answers take, and what was asked for."""

    def __init__(self, content, latency_s, bytes_a_second):
        self.content, self.latency_s, self.bytes_a_second = content, latency_s, bytes_a_second
        self.requests = []
        self.time_s = 0.0

    def read(self, offset, size):
        content = self.content[offset : offset + size]
        self.requests.append((offset, size))
        self.time_s += self.latency_s + len(content) / self.bytes_a_second
        return content

    def windows(self):
        return Windows(self.read, lambda: self.time_s)

    @property
    def bytes_read(self):
        return sum(size for _, size in self.requests)


NETWORKS = {"fast": (0.05, 1e8), "slow": (0.05, 1e6), "near": (0.0, 1e9)}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("sizes", [[100_000] * 50, [300] * 5000, [20_000] * 200, [5, 2_000_000, 7, 0, 90_000] * 5, []])
def test_the_members_are_those_without_windows(network, sizes):
    content = tar_of(sizes)
    far = Network(content, *NETWORKS[network])
    through = list(walk(far.windows().read, 0, len(content)))
    assert through == list(walk(Network(content, 0, 1e9).read, 0, len(content)))
    assert [member.size for member in through] == sizes
    assert max(size for _, size in far.requests) <= LARGEST


@pytest.mark.parametrize(
    ("sizes", "most"), [([300] * 5000, 16), ([20_000] * 500, 30), ([110_000] * 300, 45), ([2_000_000] * 20, 23)]
)
def test_on_a_fast_network_many_headers_come_in_one_window(sizes, most):
    far = Network(tar_of(sizes), *NETWORKS["fast"])
    assert len(list(walk(far.windows().read, 0, len(far.content)))) == len(sizes)
    assert len(far.requests) <= most
    if sizes[0] > LARGEST:  # no window reaches from one header to the next
        assert far.bytes_read <= FIRST * len(far.requests)


def test_on_a_slow_network_large_members_are_skipped():
    far = Network(tar_of([110_000] * 300), *NETWORKS["slow"])
    assert len(list(walk(far.windows().read, 0, len(far.content)))) == 300
    assert far.bytes_read < len(far.content) / 4
    assert far.time_s < 300 * (far.latency_s + FIRST / far.bytes_a_second) * 1.1  # what a request for each would take


def test_an_answer_that_was_late_once_does_not_end_large_windows():
    far = Network(tar_of([110_000] * 300), *NETWORKS["fast"])
    late = iter([20])

    def read(offset, size):
        if len(far.requests) == 10:
            far.time_s += next(late)  # a request that was tried again
        return far.read(offset, size)

    assert len(list(walk(Windows(read, lambda: far.time_s).read, 0, len(far.content)))) == 300
    assert len(far.requests) <= 48


def test_what_lies_before_a_window_or_reaches_behind_it_is_read_again():
    content = bytes(range(256)) * 4096
    windows = Network(content, 0.05, 1e8).windows()
    for offset, size in ((1000, 10), (900, 200), (5000, 500_000), (0, 512), (len(content) - 5, 50)):
        assert windows.read(offset, size) == content[offset : offset + size]
