"""What happens to a client: the fault that it meets, and how it asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PROMPT = "Once upon a time there was"  # the twin goes on for more than NUM_TOKENS
NUM_TOKENS = 16
SHORT_S = 2.0  # the timeout of a client that is to run into it
LONG_S = 30.0  # and of one that is not
STALL_S = 25


@dataclass(frozen=True, slots=True)
class Scenario:
    """rule: of the twin's faults (docs/faults.md). cancel_after: the pieces after which the caller stops.
    timeout_s: that the caller gives the client."""

    name: str
    title: str
    rule: dict[str, Any] | None = None
    stream: bool = False
    cancel_after: int | None = None
    timeout_s: float = LONG_S

    def faults(self) -> dict[str, Any]:
        return {"rules": [self.rule] if self.rule else []}

    def ask(self, base_url: str, key: str, model: str) -> dict[str, Any]:
        """What a driver reads on its standard input."""
        return {
            "base_url": base_url,
            "key": key,
            "model": model,
            "prompt": PROMPT,
            "max_tokens": NUM_TOKENS,
            "stream": self.stream,
            "cancel_after": self.cancel_after,
            "timeout_s": self.timeout_s,
        }


PAUSE_S = 1.5  # within a stream, by which it shows whether pieces come when they are sent
WHOLE = Scenario("whole", "A whole reply")
STREAMED = Scenario(
    "streamed",
    f"A stream that rests {PAUSE_S} s after three tokens",
    {"fault": f"stall={PAUSE_S}s after=3"},
    True,
)
FAILING = (
    Scenario(
        "429", "429 with `Retry-After: 2`, then fine", {"fault": "status=429 retry_after=2", "first": 1}
    ),
    Scenario("503", "503 with `Retry-After: 1`, each time", {"fault": "status=503 retry_after=1"}),
    Scenario("503-bare", "503 without `Retry-After`, each time", {"fault": "status=503 retry_after=0"}),
    Scenario("401", "401, each time", {"fault": "status=401"}),
    Scenario("400", "400, each time", {"fault": "status=400"}),
    Scenario(
        "dropped",
        "The connection closed without a byte, then fine",
        {"fault": "cut_before_headers", "first": 1},
    ),
    Scenario(
        "cut", "A stream whose connection ends after five tokens", {"fault": "cut_after_tokens=5"}, True
    ),
    Scenario(
        "stall",
        f"Nothing for {STALL_S} s, with a timeout of {SHORT_S:g} s",
        {"fault": f"stall={STALL_S}s"},
        timeout_s=SHORT_S,
    ),
    Scenario(
        "stall-stream",
        f"A stream that stops after three tokens for {STALL_S} s, with a timeout of {SHORT_S:g} s",
        {"fault": f"stall={STALL_S}s after=3"},
        stream=True,
        timeout_s=SHORT_S,
    ),
)
CANCELLED = Scenario(
    "cancelled",
    "A stream that the caller leaves after three tokens, in a program that goes on",
    {"fault": f"stall={STALL_S}s after=3"},
    stream=True,
    cancel_after=3,
)
ALL = (WHOLE, STREAMED, *FAILING, CANCELLED)
