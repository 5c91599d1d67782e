"""The line in which what is to be sent waits, before a transport that only notes what it is told."""

from __future__ import annotations

from twin.faults.cuts import CutAfterHeaders
from twin.faults.pace import Stall
from twin.faults.transport import FaultyTransport
from twin.faults.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"


class Inner:
    """A transport whose buffer is full, so that it is not closed at once."""

    def __init__(self) -> None:
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def close(self) -> None:
        self.told.append("close")

    def is_closing(self) -> bool:
        return False


async def test_nothing_follows_a_cut() -> None:
    """What the server goes on to write is not sent, also where the connection is not closed yet."""
    transport = FaultyTransport(inner := Inner())
    transport.spoil(Wire(CutAfterHeaders(), has_body=True))
    transport.write(HEAD)
    transport.write(b"data: {}\n\n")
    assert inner.told == [HEAD, "close"]
    assert transport.is_closing()


async def test_the_end_waits_in_the_line() -> None:
    """While a fault makes a pause, the server's close stands behind it, and counts as done."""
    transport = FaultyTransport(inner := Inner())
    transport.spoil(Wire(Stall(seconds=60), has_body=True))
    transport.write(HEAD)
    transport.close()
    assert (inner.told, transport.is_closing(), transport.is_waiting) == ([], True, True)
    transport.stop()
    assert not transport.is_waiting


async def test_a_connection_without_faults() -> None:
    """Its bytes go straight on."""
    transport = FaultyTransport(inner := Inner())
    transport.write(b"x")
    transport.close()
    assert inner.told == [b"x", "close"]
