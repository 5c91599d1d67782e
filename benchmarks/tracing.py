"""What tracing costs a front end: for each token, for each request, and in the gaps that a client sees.

    python -m benchmarks.tracing [--json FILE] [--repeats 5] [--before CHECKOUT]

Several front ends, each a process, use one engine that computes nothing (benchmarks/wire.py): one without
tracing, one that traces every request, one that traces a tenth; with --before also one of another checkout.
They are loaded in turn. CPU is that of the front end's process with all threads, until two seconds after the
last reply, when all spans have been sent. Each figure includes what an idle front end takes in that time.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from rich.console import Console

from benchmarks.elsewhere import MODELS
from benchmarks.frontend import MODEL, NUM_TOKENS, Cell, cpu_seconds
from benchmarks.report import machine, table, write
from benchmarks.servers import STEP_FILE, Server, free_port, running, set_step
from benchmarks.wire import engine_in

BEFORE, OFF, TENTH, ON = "before", "off", "a tenth", "all"
STEP_S, STREAMS = 0.02, 256
NUM_SHORT = 512  # requests of one token, not streamed
LAST_S = 2.0  # seconds for the last spans
HERE = Path(__file__).parents[1]


class Sink(BaseHTTPRequestHandler):
    """A collector that accepts everything, and keeps its connection open."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Log nothing."""


@contextlib.contextmanager
def sink() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()


@contextlib.contextmanager
def front_end(
    name: str, number: int, settings: dict[str, Any], folder: Path, checkout: Path
) -> Iterator[Server]:
    port, file = free_port(), folder / f"{number}.yaml"
    file.write_text(yaml.safe_dump({"port": port, "models": MODELS, "log_level": "warning", **settings}))
    way = json.dumps({"folder": str(folder / name), "number": number})
    command = [sys.executable, "-m", "benchmarks.elsewhere", "front", way, "serve", "--config", str(file)]
    shell = ["sh", "-c", f"cd {shlex.quote(str(checkout))} && exec {shlex.join(command)}"]
    environ = {"PYTHONPATH": str(checkout)}
    with running(name, shell, port, "/ready", folder, environ) as server:
        yield server


def load(server: Server, bodies: list[str]) -> dict[str, Any]:
    """cpu_s of the server, and the results of benchmarks/load.py."""
    spec = json.dumps({"port": server.port, "path": "/v1/completions", "bodies": bodies})
    before = cpu_seconds(server)
    command = [sys.executable, "-m", "benchmarks.load"]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, input=spec, capture_output=True, text=True, check=True).stdout
    )
    time.sleep(LAST_S)
    return found | {"cpu_s": cpu_seconds(server) - before}


def short() -> list[str]:
    """Requests that mainly cost admission."""
    fields = {"model": MODEL, "max_tokens": 1, "ignore_eos": True}
    return [json.dumps(fields | {"prompt": f"Story number {k}: once upon a time"}) for k in range(NUM_SHORT)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--before", type=Path, help="another checkout, of a version without tracing")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="verbatim-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder, url = Path(name), stack.enter_context(sink())
        tracing: dict[str, dict[str, Any]] = {
            OFF: {},
            TENTH: {"tracing": {"endpoint": url, "sample_ratio": 0.1}},
            ON: {"tracing": {"endpoint": url}},
        }
        before: dict[str, dict[str, Any]] = {BEFORE: {}} if options.before else {}
        settings = before | tracing
        set_step(folder / "step", 0.0)
        os.environ |= {STEP_FILE: str(folder / "step"), "PYTHONPATH": str(HERE)}
        stack.enter_context(engine_in(folder, [*settings]))
        servers = {}
        for number, one in enumerate(settings, 1):
            checkout = options.before.absolute() if one == BEFORE else HERE
            ends = front_end(one, number, settings[one], folder, checkout)
            servers[one] = stack.enter_context(ends)
        streams = Cell("plain", STREAMS, STEP_S).bodies()
        for server in servers.values():
            load(server, streams[:16])  # warm up
        for repeat in range(options.repeats):
            for one in settings if repeat % 2 else reversed(settings):
                set_step(folder / "step", STEP_S)
                long = load(servers[one], streams)
                set_step(folder / "step", 0.0)
                few = load(servers[one], short())
                rows.append(
                    {
                        "traces": one,
                        "token_us": long["cpu_s"] / (STREAMS * NUM_TOKENS) * 1e6,
                        "gap_p99_ms": long["gap_s"]["p99"] * 1000,
                        "request_us": few["cpu_s"] / NUM_SHORT * 1e6,
                    }
                )
                print(rows[-1], flush=True)
    figures = ("token_us", "gap_p99_ms", "request_us")
    cells = [
        [one, *(_cell([row[figure] for row in rows if row["traces"] == one]) for figure in figures)]
        for one in settings
    ]
    columns = ("traces", "µs of CPU a token", "gap p99, ms", "µs of CPU a request")
    Console(width=110).print(table("traces: median (least to most)", columns, cells))
    if options.json:
        found = {"machine": machine("tracing"), "step_s": STEP_S, "tokens_a_stream": NUM_TOKENS}
        write(options.json, {**found, "rows": rows})


def _cell(values: list[float]) -> str:
    return f"{median(values):.1f} ({min(values):.1f} to {max(values):.1f})"


if __name__ == "__main__":
    main()
