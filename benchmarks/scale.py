"""Which part of a cluster is the first bottleneck, from one replica to a thousand.

    python -m benchmarks.scale [--json FILE] [--requests 1000000]

Costs are measured here with the server's own code (fleet/costs.py): a job's way through Work and Router, a
block in the router's table, a step's message, a heartbeat, /metrics, a report to the keeper. The costs of a
request and of a token in a front end come from docs/performance.md. The load is simulated: requests arrive at
random at front ends, each with one event loop that does this work in order; /metrics is read every 15 s.
Engines are no bottleneck here: each delivers 750 tokens a second, for 15 streams.
"""

from __future__ import annotations

import argparse
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.fleet import costs
from benchmarks.report import machine, write
from server.engine.prefixes import BLOCK

# The load of a replica: requests a second, tokens of a reply, seconds of a step.
A_SECOND, NUM_PROMPT, NUM_REPLY, STEP_S = 5.0, 2000, 150, 0.02
STREAMS = A_SECOND * NUM_REPLY * STEP_S  # at the same time
# Costs of a front end, measured before (benchmarks/results/frontend-xeon-cpu.json): CPU of a request, and of
# a token at 256 streams.
REQUEST_S, TOKEN_S = 350e-6, 13.3e-6
SCRAPE_EVERY_S, BEAT_EVERY_S, REPORT_EVERY_S = 15.0, 2.0, 0.5
NUM_BLOCKS = 9_500  # a replica's cache: 40 GB beside Llama 3 8B
NUM_REPLICAS = (1, 8, 64, 256, 1000)
# The maximum: each has a place at every engine (server/engine/ray/messages.py)
NUM_FRONT_ENDS = (1, 4, 16, 32)


@dataclass(frozen=True)
class Measured:
    """Seconds and bytes, for a number of replicas. keeper_s: of a report, by the number of front ends."""

    routed_s: float
    block_bytes: float
    scrape_s: float
    scrape_bytes: int
    keeper_s: dict[int, float | None]


@dataclass(frozen=True)
class Load:
    """The load of one front end, as shares of its event loop's core. beats: the heartbeats' threads, on
    another core."""

    requests: float
    routing: float
    tokens: float
    messages: float
    scrapes: float
    beats: float

    @property
    def busy(self) -> float:
        return self.requests + self.routing + self.tokens + self.messages + self.scrapes


def measure() -> tuple[dict[int, Measured], float, float]:
    """(costs by the number of replicas, cost of a step's message besides its tokens, cost of a heartbeat)."""
    found = {}
    for num in NUM_REPLICAS:
        seconds, size = costs.scrape(num)
        keeper = {front_ends: costs.keeper_s(num, front_ends) for front_ends in NUM_FRONT_ENDS}
        found[num] = Measured(costs.routed_s(num, NUM_PROMPT), costs.block_bytes(num), seconds, size, keeper)
    return found, costs.step_s(1), costs.heartbeat_s()


def load(num_replicas: int, num_front_ends: int, one: Measured, message_s: float, beat_s: float) -> Load:
    requests = num_replicas * A_SECOND / num_front_ends
    steps = num_replicas / STEP_S  # of all replicas, per second
    # The probability that a step has a token for this front end
    has_stream = 1 - math.exp(-STREAMS / num_front_ends)
    return Load(
        requests * REQUEST_S,
        requests * one.routed_s,
        requests * NUM_REPLY * TOKEN_S,
        steps * has_stream * message_s,
        one.scrape_s / SCRAPE_EVERY_S,
        num_replicas / BEAT_EVERY_S * beat_s,
    )


def waits(one: Load, measured: Measured, requests_s: float, count: int, rng: Random) -> list[float]:
    """How long each of so many requests takes until one front end has sent it on, seconds: those before it,
    the reading of /metrics, itself, while tokens and messages take their share of the time."""
    left = 1 - one.tokens - one.messages
    service = (REQUEST_S + measured.routed_s) / left
    now = free_at = 0.0
    scrape_at, found = rng.random() * SCRAPE_EVERY_S, list[float]()
    for _ in range(count):
        now += rng.expovariate(requests_s)
        while scrape_at <= now:
            free_at = max(free_at, scrape_at) + measured.scrape_s / left
            scrape_at += SCRAPE_EVERY_S
        free_at = max(free_at, now) + service
        found.append(free_at - now)
    return found


def row(
    num_replicas: int,
    num_front_ends: int,
    one: Measured,
    message_s: float,
    beat_s: float,
    num_requests: int,
) -> dict[str, Any]:
    found = load(num_replicas, num_front_ends, one, message_s, beat_s)
    requests_s = num_replicas * A_SECOND / num_front_ends
    ordered = list[float]()
    if found.busy < 1:
        for number in range(num_front_ends):
            ordered += waits(found, one, requests_s, num_requests // num_front_ends, Random(number))
        ordered.sort()
    keeper = one.keeper_s[num_front_ends]
    return {
        "replicas": num_replicas,
        "front_ends": num_front_ends,
        "requests_a_second": num_replicas * A_SECOND,
        "load": {name: round(value, 4) for name, value in asdict(found).items()},
        "busy": round(found.busy, 3),
        "sent_after_s": {f"p{p}": round(ordered[len(ordered) * p // 100], 5) for p in (50, 99) if ordered},
        "request_us": round(found.busy / requests_s * 1e6),
        "routing_us": round(one.routed_s * 1e6),
        "table_mb": round(num_replicas * NUM_BLOCKS * one.block_bytes / 1e6, 1),
        "heartbeats_a_second": round(num_replicas * num_front_ends / BEAT_EVERY_S),
        "scrape_mb": round(one.scrape_bytes / 1e6, 2),
        "scrape_s": round(one.scrape_s, 3),
        "keeper_busy": None if keeper is None else round(keeper * num_front_ends / REPORT_EVERY_S, 3),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    return report.table(
        "front ends, simulated: shares of a core, until a request is sent on, and what grows",
        (
            *(
                "replicas",
                "front ends",
                "busy",
                "sent after p50, ms",
                "p99, ms",
                "µs a request",
                "of it routing",
            ),
            *("table, MB", "scrape, s", "keeper busy"),
        ),
        (
            [
                str(one["replicas"]),
                str(one["front_ends"]),
                f"{one['busy']:.2f}",
                *(
                    f"{1e3 * one['sent_after_s'][p]:.1f}" if one["sent_after_s"] else "-"
                    for p in ("p50", "p99")
                ),
                str(one["request_us"]),
                str(one["routing_us"]),
                f"{one['table_mb']:.0f}",
                f"{one['scrape_s']:.2f}",
                "-" if one["keeper_busy"] is None else f"{one['keeper_busy']:.2f}",
            ]
            for one in rows
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument(
        "--requests", type=int, default=1_000_000, help="simulated requests for each line of the table"
    )
    options = parser.parse_args()
    console = Console()
    console.print("measuring, half a minute")
    by_replicas, message_s, beat_s = measure()
    rows = [
        row(num, front_ends, one, message_s, beat_s, options.requests)
        for num, one in by_replicas.items()
        for front_ends in NUM_FRONT_ENDS
    ]
    console.print(table(rows))
    if options.json:
        measured = {
            "message_us": round(message_s * 1e6, 2),
            "heartbeat_us": round(beat_s * 1e6, 1),
            "request_us": REQUEST_S * 1e6,
            "token_us": TOKEN_S * 1e6,
            "replicas": {str(num): asdict(one) for num, one in by_replicas.items()},
        }
        assumed = {
            "requests_a_second": A_SECOND,
            "prompt": NUM_PROMPT,
            "reply": NUM_REPLY,
            "step_s": STEP_S,
            "streams": STREAMS,
            "blocks": NUM_BLOCKS,
            "block_tokens": BLOCK,
        }
        results = {"machine": machine("scale"), "simulated": True, "assumed": assumed, "measured": measured}
        write(options.json, {**results, "rows": rows})


if __name__ == "__main__":
    main()
