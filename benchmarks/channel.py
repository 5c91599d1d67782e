"""What a token costs a front end whose engine is on another machine, beside one that is on its own.

    python -m benchmarks.channel [--json FILE] [--repeats 5] [--seconds 4]

An engine that computes nothing sends a step every 20 ms, as vLLM's would; this process takes it, over the
sockets of one machine (link.py), and through a hub over TCP with CURVE (channel.py), in turn. CPU is this
process's, all its threads; the hub's is its process's. A whole front end costs 15 to 20 µs a token
(benchmarks/frontend.py): of that this is the part that differs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import psutil
import zmq
from prometheus_client import CollectorRegistry
from rich.console import Console

from benchmarks.report import machine, table, write
from server.contract.params import GenerationParams
from server.engine.base import Job
from server.engine.vllm.channel import Channel
from server.engine.vllm.client import EngineClient
from server.engine.vllm.exchange import Exchange
from server.engine.vllm.hub import Admission, Hub
from server.engine.vllm.link import ENGINE, Link, inputs_of, outputs_of
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import UTILITY, CoreOutput, CoreOutputs, encode

STREAMS = (16, 64, 256)
STEP_S = 0.02
WAYS = ("link", "channel")


def engine(folder: Path, num_streams: int) -> None:
    """Says a token for each stream every step, and answers questions."""
    context = zmq.Context()
    inputs, outputs = context.socket(zmq.DEALER), context.socket(zmq.PUSH)
    inputs.identity = ENGINE
    inputs.connect(inputs_of(folder))
    outputs.connect(outputs_of(folder))
    inputs.send_multipart((b"", b""))
    step = encode(CoreOutputs(outputs=[CoreOutput(f"{k}", [k]) for k in range(num_streams)], timestamp=1.0))
    answer = encode(CoreOutputs(utility_output=[0, None, [None, [1, False]]]))
    begins = time.monotonic()
    while True:
        while inputs.poll(int(max(0, begins + STEP_S - time.monotonic()) * 1000)):
            if inputs.recv_multipart()[0] == UTILITY:
                outputs.send(answer)
        begins += STEP_S
        outputs.send(step)


def hub(folder: Path, pipe: Connection) -> None:
    """On a node of its own, say."""
    one = Hub("127.0.0.1", folder, 1)
    pipe.send(asdict(one.admit()))
    pipe.recv()
    one.close()


@contextlib.asynccontextmanager
async def way(name: str, folder: Path) -> AsyncIterator[tuple[Exchange, Path, int]]:
    """The way to an engine, where its sockets are, and the process of the hub; 0: none."""
    if name == "link":
        link = Link(folder)
        yield link, folder, 0
        return
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=hub, args=(folder, there))
    process.start()
    yield Channel(Admission(**here.recv())), folder / "0", process.pid or 0
    here.send("end")
    process.join()


async def measure(name: str, num_streams: int, seconds: float) -> dict[str, float]:
    """µs of CPU a token, of this process and of the hub."""
    with tempfile.TemporaryDirectory(prefix="verbatim-", dir="/tmp") as path:
        async with way(name, Path(path)) as (exchange, folder, hub_pid):
            process = multiprocessing.Process(target=engine, args=(folder, num_streams), daemon=True)
            process.start()
            client = EngineClient(exchange, EngineMetrics(CollectorRegistry()).of("m"))
            await exchange.reached()
            num_tokens = 0

            def sink(_: object) -> None:
                nonlocal num_tokens
                num_tokens += 1

            client.listen(lambda: None)
            for k in range(num_streams):
                client.submit(Job(f"{k}", f"{k}", [1], GenerationParams(), (), 1 << 30), sink)
            await asyncio.sleep(1)
            processes = [psutil.Process(), *([psutil.Process(hub_pid)] if hub_pid else [])]
            before, num_before = [_cpu_s(one) for one in processes], num_tokens
            await asyncio.sleep(seconds)
            spent = [_cpu_s(one) - start for one, start in zip(processes, before, strict=True)]
            tokens = num_tokens - num_before
            process.kill()
            process.join()
            client.close()
    return {"front_end": spent[0] / tokens * 1e6, "hub": (spent[1] if hub_pid else 0.0) / tokens * 1e6}


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    shown: list[list[str]] = []
    rows: list[dict[str, Any]] = []
    for num_streams in STREAMS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for _ in range(args.repeats):
            for name in WAYS:
                found[name].append(asyncio.run(measure(name, num_streams, args.seconds)))
        here, elsewhere = ([one["front_end"] for one in found[name]] for name in WAYS)
        of_hub = [one["hub"] for one in found["channel"]]
        rows.append({"streams": num_streams, "link": here, "channel": elsewhere, "hub": of_hub})
        more = median(elsewhere) - median(here)
        shown.append([str(num_streams), _cell(here), _cell(elsewhere), f"{more:+.2f}", _cell(of_hub)])
    columns = ("streams", "here", "elsewhere", "difference", "hub")
    Console().print(table("µs of CPU a token: median (least to most)", columns, shown))
    if args.json:
        write(args.json, {"machine": machine("channel"), "step_s": STEP_S, "rows": rows})


def _cell(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
