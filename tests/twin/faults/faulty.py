"""A server with faults on a port of its own, and bytes to say to it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import uvicorn

from server.engine.served import ServedModel
from server.http.connections import Connections
from server.process.port import open_port
from tests.helpers import app_of, running, until
from tests.server.http.sockets import connected, request
from twin.faults.app import FaultyApp
from twin.faults.connection import FaultyConnection
from twin.faults.listener import FaultyServer
from twin.faults.rules import Faults

ASK = {"model": "m", "prompt": "hello", "max_tokens": 60}
STREAM = ASK | {"stream": True}
SAID = "hello é or hello"
CLOSE = {"connection": "close"}


@dataclass
class Faulty:
    """port: that it listens on. server: the one that does."""

    port: int
    faults: Faults
    server: FaultyServer
    connections: Connections


@asynccontextmanager
async def faulty(model: ServedModel, **settings: Any) -> AsyncIterator[Faulty]:
    """As the simulator serves, on a free port."""
    app, faults = app_of(model, **settings), Faults()
    state = app.state.server
    connections = Connections(state.settings, state.metrics, 1000)
    config = uvicorn.Config(
        FaultyApp(app, faults, state),
        http=partial(FaultyConnection, connections=connections, faults=faults),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=5,
    )
    server = FaultyServer(config, faults=faults)
    with open_port("127.0.0.1", 0, 0) as listener:
        async with running(app):
            serving = asyncio.create_task(server.serve([listener]))
            watching = asyncio.create_task(connections.watch())
            await until(lambda: server.started)
            try:
                yield Faulty(listener.getsockname()[1], faults, server, connections)
            finally:
                server.end()
                await serving
                watching.cancel()
                await asyncio.gather(watching, return_exceptions=True)


def asking(body: Any, fault: str = "", **headers: str) -> bytes:
    """A request that asks for this fault."""
    wanted = {"x-verbatim-fault": fault} if fault else {}
    return request(body, headers={"x-request-id": "r", **wanted, **headers})


async def received(port: int, sent: bytes) -> bytes:
    """What the server says to these bytes until it closes the connection."""
    async with connected(port, sent) as (reader, _):
        return blotted(await asyncio.wait_for(reader.read(), 30))


async def clean(port: int, body: Any) -> bytes:
    """What it says without a fault; without the header that says that it closes then."""
    told = await received(port, asking(body, **CLOSE))
    return told.replace(b"connection: close\r\n", b"")


def blotted(text: bytes) -> bytes:
    """Without what differs from one reply to the next, also where it is cut."""
    return re.sub(rb'(?<="id":")\w+|(?<="created":)\d+', lambda found: b"0" * len(found[0]), text)


def halves(text: bytes) -> tuple[bytes, bytes]:
    """The head, and the rest."""
    head, end, body = text.partition(b"\r\n\r\n")
    return head + end, body


def chunks(body: bytes) -> list[bytes]:
    """The chunks of a body as they are on the wire, the last one too."""
    found = []
    while body:
        size = body.partition(b"\r\n")[0]
        end = len(size) + 2 + int(size, 16) + 2
        found.append(body[:end])
        body = body[end:]
    return found


def frames(body: bytes) -> list[bytes]:
    """The frames in the chunks of a body."""
    inner = b"".join(chunk.split(b"\r\n", 1)[1][:-2] for chunk in chunks(body))
    return [frame + b"\n\n" for frame in inner.split(b"\n\n")[:-1]]


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
