"""The parts of a request for its trace, without OpenTelemetry's types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Value = str | bool | int | float | Sequence[str]


@dataclass(slots=True)
class Span:
    """start, end: time.monotonic, seconds; so are the times of events. error: what went wrong, for a person;
    None: nothing. inner: child spans."""

    name: str
    start: float
    end: float
    attributes: dict[str, Value] = field(default_factory=dict)
    events: list[tuple[str, float]] = field(default_factory=list)
    inner: list[Span] = field(default_factory=list)
    error: str | None = None
