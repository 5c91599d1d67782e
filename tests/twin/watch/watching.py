"""`verbatim watch` as it serves, in this process, and an upstream that says given bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import httpx
import uvicorn
from starlette.types import ASGIApp

from server.http.connections import Connections
from server.process.port import open_port
from tests.helpers import until
from twin.verdict.connection import WatchedConnection
from twin.verdict.eyes import Eyes
from twin.watch.serve import state_of_none, watched

Say = Callable[[bytes, asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def watching(answers: ASGIApp, eyes: Eyes | None = None) -> AsyncIterator[str]:
    """Its URL."""
    state, eyes = state_of_none(), eyes or Eyes()
    config = uvicorn.Config(
        watched(answers, state, eyes),
        http=partial(  # type: ignore[arg-type]
            WatchedConnection, connections=Connections(state.settings, state.metrics, 1000), eyes=eyes
        ),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=5,
    )
    server = uvicorn.Server(config)
    with open_port("127.0.0.1", 0, 0) as listener:
        serving = asyncio.create_task(server.serve([listener]))
        await until(lambda: server.started)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await serving


@asynccontextmanager
async def upstream(say: Say) -> AsyncIterator[httpx.URL]:
    """A server that reads a request, head and body, and has `say` answer it, one for each connection."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
            body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
            await say(head + body, reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=2**24)
    try:
        yield httpx.URL(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


def client(url: str, **more: str) -> httpx.AsyncClient:
    headers = {"authorization": "Bearer secret-of-mine"} | more
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=10, verify=False)  # noqa: S501  # no TLS here


def reply(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "content-type: application/json", f"content-length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


STREAM_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: theirs\r\n"
    b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
)


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def saying(*answers: bytes) -> Say:
    """One for each request, the last again and again. All of what was asked is in `.heard`."""
    left = list(answers)
    heard: list[bytes] = []

    async def say(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(asked)
        writer.write(left.pop(0) if len(left) > 1 else left[0])
        await writer.drain()

    say.heard = heard  # type: ignore[attr-defined]
    return say
