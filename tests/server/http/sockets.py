"""Real sockets before an application: a server of ours on a free port, and bytes to say to it."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from uvicorn.server import ServerState

from server.http.connections import Connections
from server.process.control import place_of
from server.process.port import open_port, protocol_factory
from tests.helpers import URL, until


@asynccontextmanager
async def listening(
    app: FastAPI,
    http: Any = None,
    *,
    host: str = "127.0.0.1",
    timeout_s: float = 0,
    most: int = 1000,
    holds_bytes: int = 0,
) -> AsyncIterator[Any]:
    """The port, or the path, of a server of this application, as uvicorn makes one, but at once.

    http: uvicorn's name of a protocol instead of ours. most: how many connections there may be. timeout_s: as
    open_port has it. holds_bytes: what the kernel keeps for a client that does not read; 0: as it likes.
    """
    state = app.state.server
    connections = app.state.connections = Connections(state.settings, state.metrics, most)
    kind: Any = http or protocol_factory(state.settings.tls, connections)
    config = uvicorn.Config(app, http=kind, ws="none", lifespan="off", log_config=None, access_log=False)
    config.load()
    server_state = ServerState()
    watching = asyncio.create_task(connections.watch())
    with open_port(host, 0, timeout_s) as listener:
        if holds_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, holds_bytes)
        server = await asyncio.get_running_loop().create_server(
            lambda: config.http_protocol_class(config=config, server_state=server_state, app_state={}),  # type: ignore[call-arg]
            sock=listener,
        )
        try:
            yield place_of(listener)
        finally:
            server.close()
            for connection in list(server_state.connections):
                connection.transport.abort()
            await until(lambda: not server_state.connections and not server_state.tasks)
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


def request(body: dict[str, Any] | bytes, version: str = "1.1", headers: Mapping[str, str] = {}) -> bytes:
    """A completion request."""
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    lines = {"host": "x", "authorization": "Bearer k", "content-length": str(len(content)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"POST {URL} HTTP/{version}\r\n{head}\r\n".encode() + content


@asynccontextmanager
async def connected(
    port: int | Path, sent: bytes = b"", **options: Any
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection on which this has been sent; gone without a word in the end."""
    if isinstance(port, Path):
        reader, writer = await asyncio.open_unix_connection(port, **options)
    else:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **options)
    try:
        writer.write(sent)
        yield reader, writer
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def said(port: int, sent: bytes, num_replies: int = 1, **options: Any) -> bytes:
    """What the server says to these bytes, to the end of the last stream."""
    async with connected(port, sent, **options) as (reader, _):
        received = b""
        while received.count(b"0\r\n\r\n") < num_replies:
            part = await asyncio.wait_for(reader.read(1 << 16), 30)
            assert part, received
            received += part
        return received


async def said_to_the_end(port: int, sent: bytes, *, within_s: float = 30) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    async with connected(port, sent) as (reader, _):
        return await asyncio.wait_for(reader.read(), within_s)


async def reply(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], Any]:
    """The next reply that has a length: status, headers, and its JSON."""
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 30)
    first, *lines = head.decode().strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await asyncio.wait_for(reader.readexactly(int(headers["content-length"])), 30)
    return int(first.split()[1]), headers, orjson.loads(body)


def bodies(received: bytes) -> list[bytes]:
    """The bodies of streams, their chunks joined; what differs between requests is blotted out."""
    found = []
    for one in received.split(b"HTTP/1.1 200 OK\r\n")[1:]:
        chunked, body = one.split(b"\r\n\r\n", 1)[1], b""
        while chunked:
            size, chunked = chunked.split(b"\r\n", 1)
            body += chunked[: int(size, 16)]
            chunked = chunked[int(size, 16) + 2 :]
        found.append(blotted(body))
    return found


def blotted(body: bytes) -> bytes:
    return re.sub(rb'"id":"\w+"', b'"id":""', re.sub(rb'"created":\d+', b'"created":0', body))
