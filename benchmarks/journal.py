"""What the request journal costs a front end: for each token, and for each request.

    python -m benchmarks.journal [--before CHECKOUT] [--json FILE] [--repeats 5]

Several front ends, each a process, use one engine over Unix sockets: one without a journal, one with, one
that also records prompts and texts, and one that redacts them; with --before also one of another checkout.
They are loaded in turn, with the streams of benchmarks/frontend.py, and with short requests of one token over
open connections. The engine is vLLM's with an executor that computes nothing. CPU is that of the front end
with all threads, and of the process that redacts.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.elsewhere import STEP_S
from benchmarks.frontend import MODEL, NUM_TOKENS, Cell, cpu_seconds, load
from benchmarks.report import machine, table, write
from benchmarks.servers import STEP_FILE, Server, set_step
from benchmarks.wire import engine_in, front_end

STREAMS = (64, 256)
CONNECTIONS, REQUESTS = 8, 100  # short requests of each connection
SETTLE_S = 0.5  # seconds until waiting records are in the journal
PATTERNS = [r"[\w.+-]+@[\w-]+\.[\w.-]+", r"\b(?:\d[ -]?){13,16}\b"]
KINDS: dict[str, dict[str, Any] | None] = {
    "before": None,
    "off": None,
    "on": {},
    "texts": {"prompts": True, "texts": True},
    "redacted": {"prompts": True, "texts": True, "redact": PATTERNS},
}


def settled(server: Server) -> float:
    """CPU seconds, including what is written after the replies."""
    time.sleep(SETTLE_S)
    return cpu_seconds(server)


def request_us(server: Server) -> float:
    """µs of CPU for a request of 16 words and one token."""
    fields = {"model": MODEL, "prompt": "once upon a time " * 4, "max_tokens": 1}
    body, headers = json.dumps(fields), {"content-type": "application/json", "authorization": "Bearer any"}

    def ask(_: int) -> None:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection:
            for _ in range(REQUESTS):
                connection.request("POST", "/v1/completions", body, headers)
                response = connection.getresponse()
                response.read()
                assert response.status == 200

    before = settled(server)
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(ask, range(CONNECTIONS)))
    return (settled(server) - before) / CONNECTIONS / REQUESTS * 1e6


def token_us(server: Server, streams: int) -> tuple[float, float]:
    """(µs of CPU per token, p99 of the gaps between a stream's chunks in ms)."""
    before = settled(server)
    found = load(server, Cell("plain", streams, STEP_S))
    us = (settled(server) - before) / streams / NUM_TOKENS * 1e6
    return us, found["gap_s"].get("p99", 0.0) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, help="another checkout, of a version without a journal")
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    names = [name for name in KINDS if name != "before" or options.before]
    rows: dict[str, dict[str, list[float]]] = {}

    def note(what: str, name: str, value: float) -> None:
        rows.setdefault(what, {name: [] for name in names})[name].append(value)

    with tempfile.TemporaryDirectory(prefix="verbatim-", dir="/tmp") as path, contextlib.ExitStack() as stack:
        folder = Path(path)
        set_step(folder / "step", 0.0)
        here = str(Path(__file__).parents[1])
        os.environ |= {STEP_FILE: str(folder / "step"), "PYTHONPATH": here}
        stack.enter_context(engine_in(folder, names))
        servers: dict[str, Server] = {}
        for number, name in enumerate(names, 1):
            journal = KINDS[name]
            settings = {} if journal is None else {"journal": {"path": str(folder / f"of-{name}"), **journal}}
            environ = {"PYTHONPATH": str(options.before) if name == "before" else here}
            servers[name] = stack.enter_context(front_end(name, number, settings, folder, environ))
        for server in servers.values():
            load(server, Cell("plain", 16, 0.0))  # warm up
            request_us(server)
        for repeat in range(options.repeats):
            order = names if repeat % 2 else names[::-1]
            set_step(folder / "step", STEP_S)
            for streams in STREAMS:
                for name in order:
                    us, gap_ms = token_us(servers[name], streams)
                    note(f"µs a token, {streams} streams", name, us)
                    note(f"gap p99 ms, {streams} streams", name, gap_ms)
            set_step(folder / "step", 0.0)
            for name in order:
                note("µs a request", name, request_us(servers[name]))
    cells = [[what, *(_cell(values) for values in found.values())] for what, found in rows.items()]
    Console(width=150).print(table("CPU: median (least to most)", ("", *names), cells))
    if options.json:
        write(options.json, {"machine": machine("journal"), "step_s": STEP_S, "rows": rows})


def _cell(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
