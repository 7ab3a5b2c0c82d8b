"""A proxy before a bucket's server: it delays answers, spoils some of them, and counts requests.

In a thread of the tests: ``with running_proxy(address) as proxy``. In a process of its own, where it takes nothing from
what is measured but a core: ``with proxy_process(address, delay_s) as (proxied, requests)``.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from urllib.parse import urlsplit

FAULTS = ("403", "404", "500", "503", "reset", "short", "cut", "slow")
SLOW_S = 3
WINDOW_BYTES = 1 << 20  # of a body, in the proxy at one time


class Request(NamedTuple):
    """The first line and the headers of a request; the headers' names are in lower case."""

    method: str
    path: str
    headers: dict[str, str]

    @property
    def is_read(self) -> bool:
        """Return whether a part of an object is asked for."""
        return self.method == "GET" and "range" in self.headers


class Proxy:
    """Passes requests on, each connection with one of its own to the server.

    Attributes
    ----------
    port : int
    address : str
    delay_s : float
        Before each request is passed on.
    requests : int
        How many came.
    most_at_once : int
        How many of them were waiting for their answers at one time.
    spoilt : int
        How many answers were spoilt.
    faults : list of str
        Each spoils the answer to one read of a part of an object: by a status, with or without a code of S3
        (``503 SlowDown``), in which case the server is not asked; by a connection that is reset before the answer; by a
        body that is half as long and says so (``short``), or half as long as it says (``cut``); by coming ``SLOW_S``
        late (``slow``).
    choose_fault : callable
        Returns the fault of a request, "" for none; by default it takes the next of ``faults``.
    """

    def __init__(self, target: str, delay_s: float = 0.0) -> None:
        parts = urlsplit(target)
        self._server = (parts.hostname, parts.port or 80)
        self.delay_s = delay_s
        self.requests = self.spoilt = self.port = self.most_at_once = self._waiting = 0
        self.faults: list[str] = []
        self._serving: set[Any] = set()
        self.choose_fault: Callable[[Request], str] = self._next_fault

    @property
    def address(self) -> str:
        """Where the proxy listens."""
        return f"http://127.0.0.1:{self.port}"

    def _next_fault(self, request: Request) -> str:
        return self.faults.pop(0) if self.faults and request.is_read else ""

    async def listen(self) -> asyncio.Server:
        """Accept connections from now on."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=WINDOW_BYTES, backlog=1000)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        to_server = None
        self._serving.add(asyncio.current_task())  # asyncio itself keeps no task alive
        gone = (OSError, asyncio.IncompleteReadError, asyncio.CancelledError)  # either side, or the proxy itself
        with contextlib.suppress(*gone):
            server, to_server = await asyncio.open_connection(*self._server, limit=WINDOW_BYTES)
            while await self._pass_on(client, to_client, server, to_server):
                pass
        self._serving.discard(asyncio.current_task())
        to_client.close()
        if to_server is not None:
            to_server.transport.abort()

    async def _pass_on(self, client: Any, to_client: Any, server: Any, to_server: Any) -> bool:
        """Pass a request and its answer on; return whether the connections can be used again."""
        head = await client.readuntil(b"\r\n\r\n")
        self.requests += 1
        self._waiting += 1
        self.most_at_once = max(self.most_at_once, self._waiting)
        try:
            return await self._answer(head, client, to_client, server, to_server)
        finally:
            self._waiting -= 1

    async def _answer(self, head: bytes, client: Any, to_client: Any, server: Any, to_server: Any) -> bool:
        line, headers = _parse(head)
        method, path, _ = line.split(" ", 2)
        fault = self.choose_fault(Request(method, path, headers))
        self.spoilt += bool(fault)
        if delay_s := self.delay_s + (SLOW_S if fault == "slow" else 0):
            await asyncio.sleep(delay_s)
        if headers.get("expect", "").lower() == "100-continue":
            to_client.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            head = b"\r\n".join(line for line in head.split(b"\r\n") if not line.lower().startswith(b"expect:"))
        refused = fault[:3].isdigit()
        if not refused:
            to_server.write(head)
        await _copy(client, None if refused else to_server, int(headers.get("content-length", 0)))
        if refused:
            status, _, code = fault.partition(" ")
            body = f"<Error><Code>{code}</Code><Message>spoilt</Message></Error>".encode() if method != "HEAD" else b""
            to_client.write(f"HTTP/1.1 {status} Spoilt\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
            await to_client.drain()
            return True
        answer = await server.readuntil(b"\r\n\r\n")
        line, headers = _parse(answer)
        size = 0 if method == "HEAD" or line.split()[1] in ("204", "304") else int(headers.get("content-length", -1))
        is_chunked = headers.get("transfer-encoding", "").lower() == "chunked"
        goes_on = (size >= 0 or is_chunked) and headers.get("connection", "").lower() != "close"
        if fault == "reset":
            to_client.transport.abort()
            return False
        given = size // 2 if fault in ("short", "cut") else size
        if fault == "short":
            answer = _with_length(answer, given)
        to_client.write(answer)
        await (_copy_chunks(server, to_client) if is_chunked else _copy(server, to_client, given))
        return goes_on and fault not in ("short", "cut")


def _parse(head: bytes) -> tuple[str, dict[str, str]]:
    line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    pairs = (line.split(":", 1) for line in lines)
    return line, {name.lower(): value.strip() for name, value in pairs}


def _with_length(head: bytes, size: int) -> bytes:
    lines = [line for line in head.rstrip(b"\r\n").split(b"\r\n") if not line.lower().startswith(b"content-length:")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % size, b"\r\n"])


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter | None, size: int) -> None:
    """Copy a body of a size, or to its end where it is negative; drop it where there is no target."""
    while size:
        data = await source.read(WINDOW_BYTES if size < 0 else min(size, WINDOW_BYTES))
        if not data:
            if size < 0:
                return
            raise asyncio.IncompleteReadError(b"", size)
        size -= len(data) if size > 0 else 0
        if target is not None:
            target.write(data)
            await target.drain()


async def _copy_chunks(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    size = -1
    while size:
        line = await source.readline()
        target.write(line)
        size = int(line.split(b";")[0], 16)
        await _copy(source, target, size + 2)  # and the end of its line


@contextmanager
def running_proxy(target: str, delay_s: float = 0.0) -> Iterator[Proxy]:
    """Run a proxy before the server at an address, in a thread."""
    proxy = Proxy(target, delay_s)
    loop = asyncio.new_event_loop()
    listens = threading.Event()
    stop = asyncio.Event()

    async def run() -> None:
        server = await proxy.listen()
        listens.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    thread = threading.Thread(target=lambda: (loop.run_until_complete(run()), loop.close()), daemon=True)
    thread.start()
    listens.wait()
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join()


def _run_process(target: str, delay_s: float, requests: Any, connection: Any) -> None:
    with running_proxy(target, delay_s) as proxy:
        connection.send(proxy.address)
        while not connection.poll(0.05):
            requests.value = proxy.requests
        connection.recv()
        requests.value = proxy.requests
        connection.send("done")


@contextmanager
def proxy_process(target: str, delay_s: float = 0.0) -> Iterator[tuple[str, Callable[[], int]]]:
    """Run a proxy in a process of its own; yield its address and a function that returns how many requests came."""
    context = multiprocessing.get_context("spawn")
    requests = context.Value("q", 0)
    ours, theirs = context.Pipe()
    process = context.Process(target=_run_process, args=(target, delay_s, requests, theirs), daemon=True)
    process.start()
    address = ours.recv()
    try:
        yield address, lambda: requests.value
    finally:
        ours.send("stop")
        ours.recv()
        process.join()
