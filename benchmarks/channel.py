"""What a token costs a front end whose engine runs on another machine, against one on the same machine.

    python -m benchmarks.channel [--json FILE] [--repeats 9] [--seconds 4]

An engine that computes nothing sends a step every 20 ms, as vLLM does. This process receives it in turn over
Unix sockets (link.py) and through a hub over TCP with CURVE (channel.py). CPU is that of this process with
all threads, including ZeroMQ's, which decrypts; the hub's CPU is that of its own process. Both are read from
the process clock in nanoseconds: a run takes about as long as one 10 ms tick of the kernel. A whole front end
costs 15 to 20 µs a token (benchmarks/frontend.py); this benchmark measures the part that differs.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import multiprocessing
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
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
from server.engine.vllm.wire import UTILITY, Answer, CoreOutput, CoreOutputs, encode

STREAMS = (16, 64, 256)
STEP_S = 0.02
WAYS = ("link", "channel")


def engine(folder: Path, names: list[str]) -> None:
    """An engine's side: sends a token for each of these jobs every step, and answers questions."""
    context = zmq.Context()
    inputs, outputs = context.socket(zmq.DEALER), context.socket(zmq.PUSH)
    inputs.identity = ENGINE
    inputs.connect(inputs_of(folder))
    outputs.connect(outputs_of(folder))
    inputs.send_multipart((b"", b""))
    step = _step(names)
    answer = encode(CoreOutputs(utility_output=Answer(0, None, [None, [1, False]])))
    begins = time.monotonic()
    while True:
        while inputs.poll(int(max(0, begins + STEP_S - time.monotonic()) * 1000)):
            if inputs.recv_multipart()[0] == UTILITY:
                outputs.send(answer)
        begins += STEP_S
        outputs.send(step)


def hub(folder: Path, pipe: Connection) -> None:
    """A hub, as on a node of its own. It reports its CPU time whenever it is asked."""
    one = Hub("127.0.0.1", folder, 1)
    pipe.send(asdict(one.admit()))
    while pipe.recv() == "cpu":
        pipe.send(time.process_time())
    one.close()


@contextlib.asynccontextmanager
async def way(name: str, folder: Path) -> AsyncIterator[tuple[Exchange, Path, Callable[[], float]]]:
    """A connection to an engine, the folder of its sockets, and the CPU seconds of the hub."""
    if name == "link":
        link = Link(folder)
        yield link, folder, lambda: 0.0
        return
    here, there = multiprocessing.Pipe()
    process = multiprocessing.Process(target=hub, args=(folder, there))
    process.start()

    def cpu_s() -> float:
        here.send("cpu")
        return float(here.recv())

    yield Channel(Admission(**here.recv())), folder / "0", cpu_s
    here.send("end")
    process.join()


async def measure(name: str, num_streams: int, seconds: float) -> dict[str, float]:
    """µs of CPU per token, of this process and of the hub."""
    names = _names(num_streams)
    with tempfile.TemporaryDirectory(prefix="verbatim-", dir="/tmp") as path:
        async with way(name, Path(path)) as (exchange, folder, hub_cpu_s):
            process = multiprocessing.Process(target=engine, args=(folder, names), daemon=True)
            process.start()
            client = EngineClient(exchange, EngineMetrics(CollectorRegistry()).of("m"))
            await exchange.reached()
            num_tokens = 0

            def sink(_: object) -> None:
                nonlocal num_tokens
                num_tokens += 1

            client.listen(lambda: None)
            for one in names:
                client.submit(Job(one, one, [1], GenerationParams(), (), 1 << 30), sink)
            await asyncio.sleep(1)
            before = (hub_cpu_s(), time.process_time(), num_tokens)
            await asyncio.sleep(seconds)
            after = (time.process_time(), hub_cpu_s())
            tokens = num_tokens - before[2]
            process.kill()
            process.join()
            client.close()
    return {"front_end": (after[0] - before[1]) / tokens * 1e6, "hub": (after[1] - before[0]) / tokens * 1e6}


def _names(num_streams: int) -> list[str]:
    """Names of candidates, as long as the server's."""
    return [f"cmpl-{uuid.uuid4().hex}-{k}" for k in range(num_streams)]


def _step(names: list[str]) -> bytes:
    return encode(CoreOutputs(outputs=[CoreOutput(one, [k]) for k, one in enumerate(names)], timestamp=1.0))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()
    multiprocessing.set_start_method("spawn")
    shown: list[list[str]] = []
    rows: list[dict[str, Any]] = []
    for num_streams in STREAMS:
        found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
        for repeat in range(args.repeats):
            for name in WAYS if repeat % 2 else reversed(WAYS):
                found[name].append(uvloop.run(measure(name, num_streams, args.seconds)))
        here, elsewhere = ([one["front_end"] for one in found[name]] for name in WAYS)
        of_hub = [one["hub"] for one in found["channel"]]
        ratios = [there / one for one, there in zip(here, elsewhere, strict=True)]
        rows.append(
            {
                "streams": num_streams,
                "step_bytes": len(_step(_names(num_streams))),
                "link": here,
                "channel": elsewhere,
                "ratio": ratios,
                "hub": of_hub,
                "hub_us_a_step": median(of_hub) * num_streams,
            }
        )
        more = median(elsewhere) - median(here)
        cells = (_cell(here), _cell(elsewhere), _cell(ratios), f"{more:+.2f}", _cell(of_hub))
        shown.append([str(num_streams), *cells])
    columns = ("streams", "here", "elsewhere", "ratio", "more", "hub")
    Console(width=110).print(table("µs of CPU a token: median (least to most)", columns, shown))
    if args.json:
        write(args.json, {"machine": machine("channel"), "step_s": STEP_S, "rows": rows})


def _cell(values: list[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


if __name__ == "__main__":
    main()
