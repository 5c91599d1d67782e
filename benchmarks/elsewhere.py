"""What a token costs a whole front end whose engine runs on the same machine, or on another one.

    python -m benchmarks.elsewhere [--json FILE] [--repeats 5]

Two front ends, each a process, use one engine: one over Unix sockets, as a worker does, the other one through
the engine's hub over TCP with CURVE, as a front end of a cluster does. They are loaded in turn, with the
loads of benchmarks/frontend.py. The engine is vLLM's with an executor that computes nothing. CPU is that of
the front end's process with all threads. benchmarks/channel.py measures only the part that differs.
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
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from rich.console import Console

import server.cli
from benchmarks.frontend import ENGINE, ENGINE_ARGS, MODEL, NUM_TOKENS, Cell, load
from benchmarks.report import machine, table, write
from benchmarks.servers import STEP_FILE, Server, free_port, running, set_step
from server.config.model import ModelSettings
from server.engine.base import Death, Job, Phase, Report, Sink, Status
from server.engine.vllm.channel import Channel
from server.engine.vllm.client import EngineClient
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.exchange import Exchange
from server.engine.vllm.hub import Admission, Hub
from server.engine.vllm.link import Link
from server.engine.vllm.stats import EngineMetrics, EngineStats
from server.process import models

STREAMS = (64, 256)
STEP_S = 0.02
WAYS = ("here", "elsewhere")
MODELS = [{"id": MODEL, "builtin": MODEL, **ENGINE, "engine_args": ENGINE_ARGS}]


class Reached:
    """An engine that another process runs. way: the folder of a worker's sockets, or an admission."""

    cache_tokens = 0  # unknown here

    def __init__(self, way: dict[str, Any], stats: EngineStats) -> None:
        self._way = way
        self._stats = stats
        self._client: EngineClient | None = None

    async def start(self, report: Report) -> None:
        exchange: Exchange
        if "folder" in self._way:
            exchange, number = Link(Path(self._way["folder"])), self._way.get("number", 2)
        else:
            exchange, number = Channel(Admission(**self._way)), 1
        self._client = EngineClient(exchange, self._stats, number)
        await exchange.reached()
        self._client.listen(lambda: sys.exit("the way to the engine is lost"))
        report(Status(Phase.READY))

    def submit(self, job: Job, sink: Sink) -> None:
        assert self._client is not None, "started"
        self._client.submit(job, sink)

    def abort(self, job_id: str) -> None:
        assert self._client is not None, "started"
        self._client.abort(job_id)

    async def died(self) -> Death:
        await asyncio.Future()
        raise AssertionError("it does not")

    async def close(self) -> None:
        if self._client is not None:
            self._client.close()


def front(way: dict[str, Any]) -> None:
    """`verbatim serve` with such an engine; the rest of the command line is passed on."""

    def make(_: ModelSettings, context_size: int, stats: EngineStats, *rest: Any, **options: Any) -> Reached:
        return Reached(way, stats)

    models.VLLMEngine = make  # type: ignore[attr-defined,assignment]
    sys.argv[1:] = sys.argv[3:]
    server.cli.main()


async def behind(folder: Path) -> None:
    """The engine and its hub, until standard input ends. Prints how each front end reaches it."""
    model = ModelSettings.model_validate(MODELS[0])
    hub, here = Hub("127.0.0.1", folder, 1), folder / "here"
    here.mkdir()
    stats = EngineMetrics(CollectorRegistry()).of(MODEL)
    engine = VLLMEngine(model, ENGINE["max_model_len"], stats, [*hub.folders, here], hang_timeout_s=0)
    try:
        await engine.start(lambda status: None)
        print(json.dumps({"here": {"folder": str(here)}, "elsewhere": asdict(hub.admit())}), flush=True)
        await asyncio.to_thread(sys.stdin.read)
    finally:
        await engine.close()
        hub.close()


@contextlib.contextmanager
def ways(folder: Path) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "benchmarks.elsewhere", "behind", str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield json.loads(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait()


@contextlib.contextmanager
def front_end(name: str, way: dict[str, Any], folder: Path) -> Iterator[Server]:
    port, file = free_port(), folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump({"port": port, "models": MODELS, "log_level": "warning"}))
    command = [sys.executable, "-m", "benchmarks.elsewhere", "front", json.dumps(way)]
    with running(name, [*command, "serve", "--config", str(file)], port, "/ready", folder) as server:
        yield server


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="verbatim-", dir="/tmp") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        set_step(folder / "step", 0.0)
        os.environ |= {STEP_FILE: str(folder / "step"), "PYTHONPATH": str(Path(__file__).parents[1])}
        found = stack.enter_context(ways(folder))
        servers = {one: stack.enter_context(front_end(one, found[one], folder)) for one in WAYS}
        for server in servers.values():
            load(server, Cell("plain", 16, 0.0))  # warm up
        set_step(folder / "step", STEP_S)
        for streams in STREAMS:
            us: dict[str, list[float]] = {one: [] for one in WAYS}
            for repeat in range(options.repeats):
                for one in WAYS if repeat % 2 else reversed(WAYS):
                    us[one].append(load(servers[one], Cell("plain", streams, STEP_S))["cpu_us"])
            ratios = [there / here for here, there in zip(*us.values(), strict=True)]
            rows.append({"streams": streams, **us, "ratio": ratios})
    columns = ("streams", *WAYS, "ratio")
    cells = [[str(row["streams"]), *(_cell(row[key]) for key in columns[1:])] for row in rows]
    Console(width=110).print(table("µs of CPU a token: median (least to most)", columns, cells))
    if options.json:
        found = {"machine": machine("elsewhere"), "step_s": STEP_S, "tokens_a_stream": NUM_TOKENS}
        write(options.json, {**found, "rows": rows})


def _cell(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["front", way, *_]:
            front(json.loads(way))
        case ["behind", folder]:
            asyncio.run(behind(Path(folder)))
        case _:
            main()
