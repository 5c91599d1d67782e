"""One request over a connection of its own, by well-behaved and by bad clients, as raw bytes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from benchmarks.chaos.replies import BrokenReply, Reply, num_comments, parse

PATH = "/v1/completions"
READ_BYTES = 1 << 16
# For a slow reader: its receive buffer, bytes per read, and seconds between reads.
SLOW_BUFFER, SLOW_BYTES, SLOW_S = 4096, 2048, 0.05


@dataclass(slots=True)
class Exchange:
    """A request and its outcome. received: bytes so far, head included. longest_gap_s: between two chunks of
    a stream."""

    body: dict[str, Any]
    received: bytearray = field(default_factory=bytearray)
    longest_gap_s: float = 0.0
    last_chunk: float | None = None

    def reply(self) -> Reply:
        """Raises BrokenReply."""
        head, found, rest = bytes(self.received).partition(b"\r\n\r\n")
        if not found:
            raise BrokenReply("the connection ended before the reply began")
        is_chunked = b"transfer-encoding: chunked" in head.lower()
        content = dechunked(rest) if is_chunked else rest
        return parse(int(head.split()[1]), content, stream=bool(self.body.get("stream")))

    @property
    def num_comments(self) -> int:
        return num_comments(bytes(self.received))

    def take(self, data: bytes) -> None:
        self.received += data
        if b"data: " in data:
            now = time.monotonic()
            if self.last_chunk is not None:
                self.longest_gap_s = max(self.longest_gap_s, now - self.last_chunk)
            self.last_chunk = now


def request_of(body: dict[str, Any]) -> bytes:
    content = json.dumps(body).encode()
    head = (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer any\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    return head.encode() + content


def dechunked(data: bytes) -> bytes:
    """The content of chunks. Raises BrokenReply for a body without its last chunk."""
    parts: list[bytes] = []
    while data:
        size, _, data = data.partition(b"\r\n")
        if not (length := int(size, 16)):
            return b"".join(parts)
        parts.append(data[:length])
        data = data[length + 2 :]
    raise BrokenReply(f"the connection was cut: {b''.join(parts)[-200:]!r}")


async def ask(port: int, exchange: Exchange, *, slowly: bool = False) -> None:
    """Read the whole reply, however long it takes: the caller limits the time."""
    async with _connected(port, slowly=slowly) as (reader, writer):
        writer.write(request_of(exchange.body))
        while data := await reader.read(SLOW_BYTES if slowly else READ_BYTES):
            exchange.take(data)
            if slowly:
                await asyncio.sleep(SLOW_S)


async def leave(port: int, exchange: Exchange, num_bytes: int) -> None:
    """Read this many bytes, and close the connection."""
    async with _connected(port) as (reader, writer):
        writer.write(request_of(exchange.body))
        while len(exchange.received) < num_bytes and (data := await reader.read(READ_BYTES)):
            exchange.received += data


async def half(port: int, exchange: Exchange, share: float, stays_s: float) -> bytes:
    """Send a part of the request, and wait. Returns the server's answer to that."""
    async with _connected(port) as (reader, writer):
        request = request_of(exchange.body)
        writer.write(request[: int(len(request) * share)])
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(stays_s):
                return await reader.read()
        return b""


@contextlib.asynccontextmanager
async def _connected(
    port: int, *, slowly: bool = False
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection that is closed at the end."""
    connection = socket.socket()
    connection.setblocking(False)
    if slowly:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BUFFER)
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(
        sock=connection, limit=SLOW_BUFFER if slowly else READ_BYTES
    )
    try:
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)
