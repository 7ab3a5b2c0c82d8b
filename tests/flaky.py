"""A proxy before an S3 server that spoils some of the answers to reads of objects."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

FAULTS = ("403", "404", "500", "503", "reset", "short", "cut", "slow")
SLOW_S = 3
HOP_BY_HOP = {"connection", "transfer-encoding", "content-length", "keep-alive"}


class FlakyProxy(ThreadingHTTPServer):
    """Passes requests on; every fault in ``faults`` spoils the answer to one read of a part of an object.

    An answer is spoilt by a status, by a connection that is reset before it, by a body that is half as long and says
    so (``short``), by one that is half as long as it says (``cut``), or by coming ``SLOW_S`` late.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.faults: list[str] = []
        self.spoilt = 0
        self.lock = Lock()

    def next_fault(self) -> str:
        """Take the next fault; "" where there is none."""
        with self.lock:
            self.spoilt += bool(self.faults)
            return self.faults.pop(0) if self.faults else ""

    def handle_error(self, *_: object) -> None:
        """Say nothing of clients that are gone."""


class _Handler(BaseHTTPRequestHandler):
    server: FlakyProxy
    protocol_version = "HTTP/1.1"

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection = http.client.HTTPConnection(self.server.target, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers.items()))
        answer = connection.getresponse()
        content = answer.read()
        connection.close()
        fault = self.server.next_fault() if self.command == "GET" and "Range" in self.headers else ""
        if fault == "slow":
            time.sleep(SLOW_S)
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
            return
        status = int(fault) if fault.isdigit() else answer.status
        content = b"" if fault.isdigit() else content[: len(content) // 2] if fault == "short" else content
        self.send_response(status)
        for name, value in answer.getheaders():
            if name.lower() not in HOP_BY_HOP:
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection = self.close_connection or fault == "cut"

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _pass_on

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def flaky_proxy(target: str) -> Iterator[FlakyProxy]:
    """Run a proxy before the server at an address."""
    with FlakyProxy(target) as proxy:
        thread = Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
            thread.join()
