"""What processes listen on, and how whoever connects there is received."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterable

import psutil


def family(process: psutil.Process | None = None) -> list[psutil.Process]:
    """A process, this one by default, and all that descend from it."""
    process = process or psutil.Process()
    return [process, *process.children(recursive=True)]


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """The addresses and ports on which processes listen."""
    sockets = [connection for process in processes for connection in process.net_connections("inet")]
    return {(socket.laddr.ip, socket.laddr.port) for socket in sockets if socket.status == psutil.CONN_LISTEN}


def receive(address: str, port: int) -> str:
    """How somebody without keys is received: turned away by ``tls``, by a ``dashboard`` on loopback, or let in."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    with socket.create_connection((host, port), timeout=30) as plain:
        plain.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        answer = _receive(plain)
    if answer.startswith(b"HTTP/1.1 200 OK") and address == "127.0.0.1":
        return "dashboard"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with socket.create_connection((host, port), timeout=30) as plain, context.wrap_socket(plain) as secured:
            return f"let in, and told {_receive(secured)!r}"
    except ssl.SSLError as error:  # a server asks for a certificate when this side's handshake is done
        return "tls" if "CERTIFICATE_REQUIRED" in str(error) else f"let in: {error}, told {answer!r}"


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(100)
    except ConnectionError:
        return b""
