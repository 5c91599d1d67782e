"""A reply's bytes, and when they are written; and who hears that the client has left."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from server.http.cycle import Cycle

DATE = (b"date", b"today")
LENGTH = (b"content-length", b"2")
HEAD = b"HTTP/1.1 200 OK\r\ndate: today\r\n"


class Transport:
    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.is_closed = False

    def write(self, data: bytes) -> None:
        assert not self.is_closed
        self.written.append(data)

    def close(self) -> None:
        self.is_closed = True

    def is_closing(self) -> bool:
        return self.is_closed

    def resume_reading(self) -> None:
        pass


def made(method: str = "POST", version: str = "1.1", *, keep_alive: bool = True) -> tuple[Cycle, Transport]:
    """A request whose body has come, on a connection that keeps what is written."""
    transport: Any = Transport()
    log = logging.getLogger("uvicorn.error")
    cycle: Any = RequestResponseCycle(
        scope={"method": method, "http_version": version},  # type: ignore[typeddict-item]
        transport=transport,
        flow=FlowControl(transport),
        logger=log,
        access_logger=log,
        access_log=False,
        default_headers=[DATE],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    cycle.__class__ = Cycle
    cycle.more_body = False
    return cycle, transport


def start(*headers: tuple[bytes, bytes], status: int = 200) -> Any:
    return {"type": "http.response.start", "status": status, "headers": [*headers]}


def part(body: bytes = b"", *, more: bool = False) -> Any:
    return {"type": "http.response.body", "body": body, "more_body": more}


@pytest.mark.parametrize(
    ("method", "version", "headers", "expected"),
    [
        ("POST", "1.1", [LENGTH], HEAD + b"content-length: 2\r\n\r\nok"),
        ("HEAD", "1.1", [LENGTH], HEAD + b"content-length: 2\r\n\r\n"),
        ("HEAD", "1.1", [], HEAD + b"\r\n"),
        ("POST", "1.1", [], HEAD + b"transfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"),
        ("POST", "1.0", [], HEAD + b"connection: close\r\n\r\nok"),
        ("POST", "1.1", [(b"X-A", b"B"), LENGTH], HEAD + b"x-a: B\r\ncontent-length: 2\r\n\r\nok"),
    ],
)
async def test_written_at_once(
    method: str, version: str, headers: list[tuple[bytes, bytes]], expected: bytes
) -> None:
    cycle, transport = made(method, version)
    await cycle.send(start(*headers))
    await cycle.send(part(b"ok"))
    await asyncio.sleep(0)
    assert transport.written == [expected]
    assert cycle.response_complete
    assert transport.is_closed == (version == "1.0")


async def test_head_goes_ahead_of_a_late_body() -> None:
    cycle, transport = made()
    await cycle.send(start(LENGTH))
    await asyncio.sleep(0.01)
    assert transport.written == [HEAD + b"content-length: 2\r\n\r\n"]
    await cycle.send(part(b"o", more=True))
    await cycle.send(part(b"k"))
    assert transport.written[1:] == [b"o", b"k"]


async def test_head_of_a_lost_connection_is_not_written() -> None:
    cycle, transport = made()
    await cycle.send(start(LENGTH))
    transport.close()
    await asyncio.sleep(0.01)
    assert transport.written == []


async def test_no_body() -> None:
    """A reply that may have none has no length, and no chunks."""
    cycle, transport = made()
    await cycle.send(start(status=204))
    await cycle.send(part())
    assert transport.written == [b"HTTP/1.1 204 No Content\r\ndate: today\r\n\r\n"]


@pytest.mark.parametrize("header", [None, (b"connection", b"Close")])
async def test_last_reply_of_a_connection(header: tuple[bytes, bytes] | None) -> None:
    """Says so once, whoever wants it."""
    cycle, transport = made(keep_alive=header is not None)
    await cycle.send(start(LENGTH, *([header] if header else [])))
    await cycle.send(part(b"ok"))
    assert transport.written[0].lower().count(b"connection: close\r\n") == 1
    assert transport.is_closed


@pytest.mark.parametrize(
    "messages",
    [
        [part(b"ok")],
        [start(), start()],
        [start(LENGTH), part(b"too long")],
        [start(LENGTH), part(b"o")],
        [start(LENGTH), part(b"ok"), part(b"more")],
        [start((b"x-a", b"b\r\nx-b: c"))],
        [start((b"x a", b"b"))],
    ],
    ids=["body first", "two heads", "too long", "too short", "after the end", "line end", "name"],
)
async def test_a_fault_of_the_application(messages: list[Any]) -> None:
    cycle, _ = made()

    async def answer() -> None:
        for message in messages:
            await cycle.send(message)

    with pytest.raises(RuntimeError):
        await answer()


async def test_leaving() -> None:
    """Is told once, at once if it has happened, and not to those who no longer ask."""
    cycle, transport = made()
    heard: list[str] = []
    cycle.notify(lambda: heard.append("a"))
    cycle.notify(None)
    cycle.leave()
    assert heard == []
    cycle.notify(lambda: heard.append("b"))
    cycle.leave()
    assert heard == ["b"]
    await cycle.send(start(LENGTH))
    await asyncio.sleep(0.01)
    assert transport.written == []
    assert (await cycle.receive())["type"] == "http.disconnect"


async def test_nobody_leaves_after_the_end() -> None:
    cycle, _ = made()
    heard: list[str] = []
    cycle.notify(lambda: heard.append("a"))
    await cycle.send(start(LENGTH))
    await cycle.send(part(b"ok"))
    cycle.leave()
    assert heard == []
