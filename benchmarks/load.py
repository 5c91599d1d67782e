"""A load client that asks for many completions at once and takes little CPU: raw sockets and epoll.

`python -m benchmarks.load` runs it as a process of its own: it reads a JSON object from standard input (port,
path, bodies; optional ca or unix) and writes one to standard output.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import sys
import time
from typing import Any

READ_BYTES = 1 << 18
TIMEOUT_S = 300


class Reply:
    """One reply. Times: time.perf_counter, seconds."""

    def __init__(self) -> None:
        self.first: float | None = None  # time of the first chunk
        self.last = 0.0
        self.num_bytes = 0
        self.num_chunks = 0
        self.head = b""
        self.tail = b""

    def take(self, data: bytes, now: float, gaps: list[float]) -> None:
        if not self.head:
            self.head = data[:64]
        self.num_bytes += len(data)
        self.tail = (self.tail + data[-64:])[-64:]
        chunks = data.count(b"data: {")
        if chunks:
            self.num_chunks += chunks
            if self.first is None:
                self.first = now
            else:
                gaps.append(now - self.last)
            self.last = now


def connect(port: int, ca: str, unix: str) -> socket.socket:
    if unix:
        local = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        local.connect(unix)
        return local
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if ca:
        return ssl.create_default_context(cafile=ca).wrap_socket(connection, server_hostname="127.0.0.1")
    return connection


def received(connection: socket.socket) -> bytes | None:
    """Received bytes; None: nothing yet. Under TLS it reads everything: epoll does not know of bytes in
    OpenSSL's buffer."""
    parts: list[bytes] = []
    try:
        while part := connection.recv(READ_BYTES):
            parts.append(part)
            if not isinstance(connection, ssl.SSLSocket):
                break
    except ssl.SSLWantReadError:
        return b"".join(parts) or None
    return b"".join(parts)


def ask(port: int, path: str, bodies: list[str], ca: str = "", unix: str = "") -> dict[str, Any]:
    """Send all requests at once and read all replies to their ends.

    ca: a file with the CA of the server's certificate. unix: the path of its socket.
    """
    epoll, gaps = select.epoll(), list[float]()
    sockets: dict[int, socket.socket] = {}
    replies: dict[int, Reply] = {}
    for _ in bodies:
        connection = connect(port, ca, unix)
        sockets[connection.fileno()] = connection
        replies[connection.fileno()] = Reply()
    began = time.perf_counter()
    for (fd, connection), body in zip(sockets.items(), bodies, strict=True):
        connection.sendall(request(path, body.encode()))
        connection.setblocking(False)
        epoll.register(fd, select.EPOLLIN)
    left = len(sockets)
    while left:
        if not (ready := epoll.poll(TIMEOUT_S)):
            raise TimeoutError(f"{left} replies have not ended")
        for fd, _ in ready:
            data = received(sockets[fd])
            if data is None:
                continue
            if data:
                replies[fd].take(data, time.perf_counter(), gaps)
            else:
                epoll.unregister(fd)
                sockets[fd].close()
                left -= 1
    return summary(list(replies.values()), gaps, began, time.perf_counter() - began)


def request(path: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer any\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def summary(replies: list[Reply], gaps: list[float], began: float, seconds: float) -> dict[str, Any]:
    if wrong := [reply for reply in replies if not reply.head.startswith(b"HTTP/1.1 200")]:
        raise RuntimeError(f"{len(wrong)} replies failed, the first with {wrong[0].head!r}{wrong[0].tail!r}")
    streamed = [reply for reply in replies if reply.first is not None]
    if any(b"[DONE]" not in reply.tail for reply in streamed):
        raise RuntimeError("a stream has no end")
    return {
        "seconds": seconds,
        "first_s": sorted((reply.first or 0.0) - began for reply in streamed),
        "gap_s": percentiles(gaps),
        "chunks": sum(reply.num_chunks for reply in replies),
        "bytes": sum(reply.num_bytes for reply in replies),
    }


def percentiles(values: list[float]) -> dict[str, float]:
    """The median and the 99th percentile."""
    ordered = sorted(values)
    return {f"p{p}": ordered[min(len(ordered) - 1, len(ordered) * p // 100)] for p in (50, 99) if ordered}


if __name__ == "__main__":
    json.dump(ask(**json.load(sys.stdin)), sys.stdout)
