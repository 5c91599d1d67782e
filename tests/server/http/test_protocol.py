"""uvicorn with the extension for writing at once: the same bytes as without, over real sockets."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import uvicorn
from fastapi import FastAPI

from server.http.protocol import Protocol
from server.process.port import open_port
from tests.helpers import LONG, URL, app_of, eager, events, running, talking, until

STREAM = LONG | {"stream": True}


@asynccontextmanager
async def listening(app: FastAPI, http: Any, timeout_s: float = 0) -> AsyncIterator[int]:
    """The port of a server of this application, and how its connections speak HTTP."""
    with open_port("127.0.0.1", 0, timeout_s) as listener:
        config = uvicorn.Config(app, http=http, ws="none", lifespan="off", log_config=None, access_log=False)
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await until(lambda: server.started)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            await serving


def request(body: dict[str, Any], version: str = "1.1") -> bytes:
    content = orjson.dumps(body)
    head = (
        f"POST {URL} HTTP/{version}\r\nhost: x\r\nauthorization: Bearer k\r\ncontent-length: {len(content)}"
    )
    return f"{head}\r\n\r\n".encode() + content


async def said(port: int, sent: bytes, num_replies: int = 1) -> bytes:
    """What the server says to these bytes, to the end of the last reply."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent)
    received = b""
    while received.count(b"0\r\n\r\n") < num_replies:
        part = await asyncio.wait_for(reader.read(1 << 16), 5)
        assert part, received
        received += part
    writer.close()
    return received


def replies(received: bytes) -> list[bytes]:
    """The bodies, their chunks joined; what differs from one request to the next is blotted out."""
    found = []
    for reply in received.split(b"HTTP/1.1 200 OK\r\n")[1:]:
        chunked, body = reply.split(b"\r\n\r\n", 1)[1], b""
        while chunked:
            size, chunked = chunked.split(b"\r\n", 1)
            body += chunked[: int(size, 16)]
            chunked = chunked[int(size, 16) + 2 :]
        found.append(re.sub(rb'"id":"\w+"', b'"id":""', re.sub(rb'"created":\d+', b'"created":0', body)))
    return found


async def test_same_bytes(directory: Path) -> None:
    """With and without the extension a stream is the same, chunk by chunk."""
    app = app_of(talking(directory, "hello é or hello"))
    async with running(app):
        bodies = []
        for http in (Protocol, "httptools"):
            async with listening(app, http) as port:
                bodies.append(replies(await said(port, request(STREAM | {"logprobs": 1}))))
    assert bodies[0] == bodies[1]
    assert len(events(bodies[0][0])) > 5


async def test_body_comes_later(directory: Path) -> None:
    """A request whose body comes after its head, and in pieces, is answered as any other."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app, Protocol) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, body = request(STREAM).split(b"\r\n\r\n")
        for part in (head + b"\r\n\r\n", body[:10], body[10:]):
            writer.write(part)
            await asyncio.sleep(0.02)
        received = await asyncio.wait_for(reader.readuntil(b"[DONE]"), 5)
        writer.close()
    assert received.startswith(b"HTTP/1.1 200 OK")


async def test_one_connection_many_requests(directory: Path) -> None:
    """Requests of one connection, sent without waiting, are answered in their order."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app, Protocol) as port:
        received = await said(port, request(STREAM) + request(STREAM | {"n": 2, "best_of": 2}), 2)
        first, second = replies(received)
    assert (len(events(first)), len(events(second))) == (2, 4)


async def test_old_clients(directory: Path) -> None:
    """A client that speaks HTTP/1.0 gets what uvicorn gives it, and the connection closes."""
    app = app_of(talking(directory, "he"))
    async with running(app), listening(app, Protocol) as port:
        received = await said(port, request(STREAM, "1.0"))
    assert b"connection: close" in received
    assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_one_that_reads_nothing_is_cut_off(directory: Path) -> None:
    """After slow_reader_timeout_s without a byte taken, the kernel ends the connection, and that the work."""
    model, engine = eager(directory, step_s=0.0)
    app = app_of(model)
    async with running(app), listening(app, Protocol, 0.5) as port:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
            client.connect(("127.0.0.1", port))
            client.sendall(request(STREAM | {"n": 64, "max_tokens": 59, "logprobs": 5}))
            await until(lambda: app.state.server.in_flight == 1)
            await until(lambda: app.state.server.in_flight == 0, within_s=10)
    assert engine.running == set()


@pytest.mark.parametrize("timeout_s", [0.0, 2.5])
def test_deadline_is_the_listeners(timeout_s: float) -> None:
    """The kernel's own time-out is set on the port, in milliseconds; 0 leaves it alone."""
    with open_port("127.0.0.1", 0, timeout_s) as listener:
        found = listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    assert found == int(timeout_s * 1000)
