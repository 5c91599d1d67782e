"""What one traced request costs, part by part: on the event loop, and in the thread that sends spans.

    python -m benchmarks.traceparts [--json FILE]

The figures are the CPU time of the thread, the smallest of many rounds, so that other work of the machine
hardly matters. The request goes to the application on a simulated engine and has one candidate: five spans.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.sdk.trace import ReadableSpan

from benchmarks.report import machine, write
from server.config.tracing import Tracing
from server.http.spans import span_of
from tests.helpers import URL, app_of, byte_level, eager, model_directory, running

ROUNDS, TIMES, BATCH = 20, 200, 12  # BATCH: requests that are sent together
HEADERS = [(b"host", b"here"), (b"authorization", b"Bearer key"), (b"content-type", b"application/json")]
TRACEPARENT = (b"traceparent", b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


def least_us(work: Callable[[], object], times: int = TIMES) -> float:
    found = []
    for _ in range(ROUNDS):
        began = time.thread_time_ns()
        for _ in range(times):
            work()
        found.append((time.thread_time_ns() - began) / times / 1000)
    return round(min(found), 1)


async def measured() -> dict[str, float]:
    asked: list[tuple[Any, ...]] = []

    def noted(*values: Any, **more: Any) -> Any:
        asked.append(values)
        return span_of(*values, **more)

    with tempfile.TemporaryDirectory() as name, patch("server.http.border.span_of", noted):
        model = eager(model_directory(Path(name), byte_level()), step_s=0)[0]
        app = app_of(model, tracing=Tracing(endpoint="http://127.0.0.1:9"))
        async with running(app) as client:
            await client.post(URL, json={"model": "m", "prompt": "hello", "max_tokens": 8})
    tracer, sent = app.state.server.tracer, list[ReadableSpan]()
    exchange, following, scope, ended = asked[0]
    tracer.close()
    tracer._outbox.put = sent.extend
    span = span_of(exchange, following, scope, ended)

    def make() -> None:
        tracer.end(following.trace, span)
        sent.clear()

    found = {
        "begin_us": least_us(lambda: tracer.begin(HEADERS)),
        "begin_with_parent_us": least_us(lambda: tracer.begin([*HEADERS, TRACEPARENT])),
        "describe_us": least_us(lambda: span_of(exchange, following, scope, ended)),
        "make_us": least_us(make),
    }
    tracer.end(following.trace, span)
    batch = sent * BATCH
    encode_us = least_us(lambda: encode_spans(batch).SerializePartialToString(), TIMES // BATCH) / BATCH
    num_bytes = len(encode_spans(batch).SerializePartialToString()) / BATCH
    return found | {"encode_us": round(encode_us, 1), "spans": len(sent), "bytes": round(num_bytes)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    found = asyncio.run(measured())
    print(found)
    if options.json:
        write(options.json, {"machine": machine("traceparts"), **found})


if __name__ == "__main__":
    main()
