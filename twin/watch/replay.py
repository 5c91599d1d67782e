"""Answers from recordings, with the recorded timing or at once."""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Scope, Send

from server.http.disconnect import unless_client_leaves
from twin.recordings.exchange import End, Exchange
from twin.recordings.reading import Recordings
from twin.watch.edge import read_asked


class Replay:
    """Plain ASGI. speed: factor on the recorded speed; infinity: at once."""

    def __init__(self, recordings: Recordings, speed: float = 1.0) -> None:
        self._recordings = recordings
        self._speed = speed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        asked = await read_asked(scope, receive)
        exchange = self._recordings.find(asked)
        await unless_client_leaves(scope, receive, self._answer(exchange, send))

    async def _answer(self, exchange: Exchange, send: Send) -> None:
        """An incomplete recording stays incomplete, so that its connection is closed."""
        started = asyncio.get_running_loop().time()
        await _until(started + exchange.head_s / self._speed)
        headers = _headers(exchange)
        await send({"type": "http.response.start", "status": exchange.status, "headers": headers})
        for at, data in exchange.parts:
            await _until(started + at / self._speed)
            await send({"type": "http.response.body", "body": data, "more_body": True})
        if exchange.end is End.WHOLE:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until(time: float) -> None:
    await asyncio.sleep(time - asyncio.get_running_loop().time())


def _headers(exchange: Exchange) -> list[tuple[bytes, bytes]]:
    """A key that was redacted in the body has changed its length."""
    has_its_length = exchange.end is End.WHOLE and exchange.asked.method != "HEAD"
    length = str(len(exchange.body))
    return [
        # The sign that replaces a secret is not Latin-1; everything else is sent as recorded.
        (
            name.encode("latin-1"),
            (length if has_its_length and name == "content-length" else value).encode("latin-1", "replace"),
        )
        for name, value in exchange.headers
    ]
