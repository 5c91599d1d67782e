"""What is left of a key's limits, as OpenAI's headers say it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from server.access.limits import Allowance

NAMES = tuple(
    f"x-ratelimit-{what}-{of}" for of in ("requests", "tokens") for what in ("limit", "remaining", "reset")
)


def headers_of(allowance: Allowance) -> Iterator[tuple[str, str]]:
    """Three for each limit that there is."""
    for of, left in (("requests", allowance.requests_left()), ("tokens", allowance.tokens_left())):
        if left is not None:
            yield f"x-ratelimit-limit-{of}", str(left.limit)
            yield f"x-ratelimit-remaining-{of}", str(left.remaining)
            yield f"x-ratelimit-reset-{of}", duration(left.reset_s)


def duration(seconds: float) -> str:
    """As Go writes it, in whole milliseconds, never less than it is: 20ms, 1.5s, 6m0s."""
    ms = math.ceil(seconds * 1000)
    if 0 < ms < 1000:
        return f"{ms}ms"
    minutes, rest_ms = divmod(ms, 60_000)
    return (f"{minutes}m" if minutes else "") + f"{rest_ms / 1000:g}s"
