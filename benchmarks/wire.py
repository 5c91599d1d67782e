"""What a token costs a front end over plain TCP, over TLS and over a Unix socket.

    python -m benchmarks.wire [--json FILE] [--repeats 5]

Three front ends, each a process, use one engine over Unix sockets, as workers do. They are loaded in turn,
with the loads of benchmarks/frontend.py. The engine is vLLM's with an executor that computes nothing. CPU is
that of the front end's process with all threads, TLS handshakes included.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from rich.console import Console

from benchmarks.elsewhere import MODELS, STEP_S, STREAMS
from benchmarks.frontend import ENGINE, MODEL, NUM_TOKENS, Cell, cpu_seconds, load
from benchmarks.load import connect
from benchmarks.report import machine, table, write
from benchmarks.servers import STEP_FILE, Server, free_port, running, set_step
from server.config.model import ModelSettings
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.stats import EngineMetrics
from tests.certificates import Authority

NUM_CONNECTIONS = 200
WIRES = ("tcp", "tls", "unix")


async def behind(folder: Path, names: Sequence[str]) -> None:
    """The engine, with a folder of sockets for each front end, until standard input ends."""
    model, folders = ModelSettings.model_validate(MODELS[0]), [folder / name for name in names]
    for one in folders:
        one.mkdir()
    stats = EngineMetrics(CollectorRegistry()).of(MODEL)
    engine = VLLMEngine(model, ENGINE["max_model_len"], stats, folders, hang_timeout_s=0)
    try:
        await engine.start(lambda status: None)
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await engine.close()


@contextlib.contextmanager
def engine_in(folder: Path, names: Sequence[str] = WIRES) -> Iterator[None]:
    """names: of the front ends, in the order of their numbers, from 1."""
    command = [sys.executable, "-m", "benchmarks.wire", "behind", str(folder), *names]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            while process.stdout.readline().strip() != "ready":
                if process.poll() is not None:
                    raise RuntimeError("the engine did not start")
            yield
        finally:
            process.stdin.close()


@contextlib.contextmanager
def front_end(
    wire: str, number: int, settings: dict[str, Any], folder: Path, environ: Mapping[str, str] | None = None
) -> Iterator[Server]:
    """A front end; its admin port, with plain HTTP, shows when it is ready."""
    port, admin, file = free_port(), free_port(), folder / f"{wire}.yaml"
    config = {"port": port, "models": MODELS, "log_level": "warning", **settings}
    file.write_text(yaml.safe_dump(config | {"admin": {"port": admin, "tls": False}}))
    way = json.dumps({"folder": str(folder / wire), "number": number})
    command = [sys.executable, "-m", "benchmarks.elsewhere", "front", way, "serve", "--config", str(file)]
    with running(wire, command, admin, "/ready", folder, environ) as server:
        yield replace(server, port=port)


def connection_us(server: Server, ca: str = "", unix: str = "") -> float:
    """µs of CPU for a connection with one small request, including its handshake."""
    before = cpu_seconds(server)
    for _ in range(NUM_CONNECTIONS):
        with connect(server.port, ca, unix) as connection:
            connection.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")
            while connection.recv(1 << 16):
                pass
    return (cpu_seconds(server) - before) / NUM_CONNECTIONS * 1e6


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="verbatim-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        authority = Authority(folder)
        pair, path = authority.pair("server"), folder / "s"
        settings: dict[str, dict[str, Any]] = {
            "tcp": {},
            "tls": {"tls": {"cert": str(pair.cert), "key": str(pair.key)}},
            "unix": {"host": f"unix:{path}"},
        }
        how = {"tcp": {}, "tls": {"ca": str(authority.cert)}, "unix": {"unix": str(path)}}
        set_step(folder / "step", 0.0)
        os.environ |= {STEP_FILE: str(folder / "step"), "PYTHONPATH": str(Path(__file__).parents[1])}
        stack.enter_context(engine_in(folder))
        servers = {
            wire: stack.enter_context(front_end(wire, number, settings[wire], folder))
            for number, wire in enumerate(WIRES, 1)
        }
        for wire, server in servers.items():
            load(server, Cell("plain", 16, 0.0), **how[wire])  # warm up
        connections = {wire: connection_us(server, **how[wire]) for wire, server in servers.items()}
        set_step(folder / "step", STEP_S)
        for streams in STREAMS:
            us: dict[str, list[float]] = {wire: [] for wire in WIRES}
            for repeat in range(options.repeats):
                for wire in WIRES if repeat % 2 else reversed(WIRES):
                    us[wire].append(
                        load(servers[wire], Cell("plain", streams, STEP_S), **how[wire])["cpu_us"]
                    )
            rows.append({"streams": streams, **us})
    cells = [[str(row["streams"]), *(_cell(row[wire]) for wire in WIRES)] for row in rows]
    Console(width=110).print(table("µs of CPU a token: median (least to most)", ("streams", *WIRES), cells))
    print("µs of CPU a connection:", ", ".join(f"{wire} {us:.0f}" for wire, us in connections.items()))
    if options.json:
        found = {"machine": machine("wire"), "step_s": STEP_S, "tokens_a_stream": NUM_TOKENS}
        write(options.json, {**found, "connection_us": connections, "rows": rows})


def _cell(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["behind", folder, *names]:
            asyncio.run(behind(Path(folder), names))
        case _:
            main()
