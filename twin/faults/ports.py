"""Faults of connections: refused, reset when they are made, closed when they are used again."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from twin.faults.fault import Fault, Reach, Seconds


class Refuse(Fault):
    """Answers this request, any one, even GET /health; then closes the port for a time in which connections
    are refused, and idle connections."""

    name = "refuse"
    example = "refuse=5s"

    seconds: Seconds = Field(description="how long the port is closed")

    def begin(self, reach: Reach) -> None:
        reach.close_port(self.seconds)


class ResetConnections(Fault):
    """Answers this request, and resets (RST) the next connections as soon as they are made, not counting
    those that the kernel refuses."""

    name = "reset_connections"
    example = "reset_connections=3"

    count: Annotated[int, Field(ge=1, le=1_000_000)] = Field(default=1, description="connections")

    def begin(self, reach: Reach) -> None:
        reach.reset_next(self.count)


class CloseAtReuse(Fault):
    """Answers this request and keeps the connection open, then closes it without a byte when the next
    request arrives on it."""

    name = "close_at_reuse"
    example = "close_at_reuse"

    def begin(self, reach: Reach) -> None:
        reach.end_at_reuse()
