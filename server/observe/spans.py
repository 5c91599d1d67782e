"""What is said of a request and its parts when it has ended, before OpenTelemetry has a part in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

Value = str | bool | int | float | Sequence[str]


@dataclass(slots=True)
class Span:
    """start, end: of time.monotonic, seconds; so are the events' times. error: what went wrong, for a person;
    None: nothing. inner: its parts."""

    name: str
    start: float
    end: float
    attributes: dict[str, Value] = field(default_factory=dict)
    events: list[tuple[str, float]] = field(default_factory=list)
    inner: list[Span] = field(default_factory=list)
    error: str | None = None
