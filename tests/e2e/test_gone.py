"""A server of a bucket that is gone in the middle of a command is a sentence and exit code 1, whoever was reading."""

import contextlib
import os
import socket
import threading

import pytest

from tests.buckets import environment, make_bucket, moto_server, put_objects
from tests.conftest import REPOSITORY, encode, noise, plan_run, run_stages, write_tar
from tests.e2e.test_commands import topnine

pytestmark = pytest.mark.slow

OPTIONS = ["--data", "s3://shelf/data", "--layer", "1", "--set", "mine.block=8", "--set", "mine.batch=8"]
GONE_AFTER = {  # a request of the command; the next one fails
    "tile": (["tile", "--filter", "0", "--grid", "9"], b"GET /shelf/done.zarr/images/offset/c/"),
    "deconvolve": (["deconvolve", "--set", "deconvolve.rule=guided"], b"PUT /shelf/done.zarr/layers/conv1/patch/c/"),
    "rank": (["rank", "--set", "rank.distinct=look"], b"GET /shelf/done.zarr/layers/conv1/activation/c/"),
    "mine": (["mine"], b"PUT /shelf/indexed.zarr/layers/conv1/activation/c/"),
}


class Gate:
    """A proxy before a server that is gone for good after a request."""

    def __init__(self, port: int, last: bytes) -> None:
        self.is_gone = False
        self._server, self._last = ("127.0.0.1", port), last
        self._open: list[socket.socket] = []
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = self._listening.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                server = socket.create_connection(self._server)
                self._open += [client, server]
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._pass_on, args=(source, target), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                target.sendall(data)
                if self._last in data:
                    self.close()
        for end in (source, target):
            end.close()

    def close(self) -> None:
        """Refuse connections from now on, and break those that there are."""
        self.is_gone = True
        for end in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A server of buckets with images, a store that is indexed, and one that is deconvolved; its port."""
    folder = tmp_path_factory.mktemp("gone")
    data = write_tar(folder / "data" / "a.tar", [(f"{i}.png", encode(noise(i))) for i in range(16)])
    settings = {"data__path": data, "mine__layers": "1", "mine__block": 8, "mine__batch": 8}
    contents = {"data/a.tar": data.read_bytes()}
    for name, stages in (("indexed", ["index"]), ("done", ["index", "mine", "rank", "deconvolve"])):
        run_stages(plan_run(folder / name, **settings), *stages)
        store = folder / name / "run.zarr"
        files = (path for path in store.rglob("*") if path.is_file())
        contents |= {f"{name}.zarr/{path.relative_to(store)}": path.read_bytes() for path in files}
    with moto_server() as variables:
        make_bucket(variables, "shelf")
        put_objects(variables, "shelf", contents)
        yield int(variables["AWS_ENDPOINT_URL"].rpartition(":")[2])


def test_a_server_that_is_gone_in_the_middle_is_a_sentence(server, tmp_path):
    (tmp_path / "configs").symlink_to(REPOSITORY / "configs")
    for name, (command, last) in GONE_AFTER.items():
        gate = Gate(server, last)
        store = "indexed" if name == "mine" else "done"
        finished = topnine(
            *command, "--store", f"s3://shelf/{store}.zarr", *OPTIONS, cwd=tmp_path,
            env={**os.environ, **environment(f"http://127.0.0.1:{gate.port}"), "AWS_MAX_ATTEMPTS": "2"},
        )  # fmt: skip
        assert gate.is_gone, (name, finished.stderr)
        assert finished.returncode == 1, (name, finished.stdout, finished.stderr)
        assert "Traceback" not in finished.stderr, finished.stderr
        assert "topnine: " in finished.stderr, (name, finished.stderr)
