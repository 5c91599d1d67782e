"""Measures the costs of the server's own code: seconds and bytes, by the number of replicas and
of front ends."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
from collections.abc import Callable
from random import Random
from typing import Any

import msgspec
import psutil
import zmq

from benchmarks.fleet.engine import Shape, SteppedEngine
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Sink
from server.engine.prefixes import Prefixes
from server.engine.vllm.running import RunningJobs
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import CoreOutput, CoreOutputs, decode
from server.engine.work import Work
from server.http.metrics import Metrics

PLAIN = GenerationParams()
BEAT_MS = 10


def least(measured: Callable[[], None], repeats: int = 5) -> float:
    """CPU seconds: the smallest of several measurements."""
    found = []
    for _ in range(repeats):
        gc.collect()
        began = time.process_time()
        measured()
        found.append(time.process_time() - began)
    return min(found)


class Nowhere(SteppedEngine):
    """An engine that takes jobs and does nothing with them."""

    def __init__(self) -> None:
        super().__init__(Shape())
        self.sinks: list[Sink] = []

    def submit(self, job: Job, sink: Sink) -> None:
        self.sinks.append(sink)


def routed_s(num_replicas: int, num_tokens: int, count: int = 100) -> float:
    """CPU seconds of one job from submission to end in Work, Turns, Router and Prefixes, for a prompt of this
    many tokens."""
    rng = Random(0)
    prompts = [[rng.randrange(1 << 17) for _ in range(num_tokens)] for _ in range(count)]

    async def work() -> None:
        jobs, engines = Work(), [Nowhere() for _ in range(num_replicas)]
        for number, engine in enumerate(engines):
            jobs.begin(engine, number)
        for number, prompt in enumerate(prompts):
            jobs.submit(Job(str(number), "", prompt, PLAIN, (), 9, number), lambda output: None)
            for engine in engines:
                for sink in engine.sinks:
                    sink(EngineOutput([1]))
                    sink(EngineOutput([1] * 8, finish_reason="length"))
                engine.sinks.clear()

    beginning = least(lambda: asyncio.run(_begun(num_replicas)))
    return (least(lambda: asyncio.run(work())) - beginning) / count


async def _begun(num_replicas: int) -> None:
    jobs = Work()
    for number in range(num_replicas):
        jobs.begin(Nowhere(), number)


def block_bytes(num_replicas: int, num_blocks: int = 100_000) -> float:
    """Bytes of the router's table for each block that a replica holds; each block is held by one replica."""
    rng = Random(0)
    blocks = [rng.getrandbits(61) for _ in range(num_blocks)]
    gc.collect()
    tracemalloc.start()
    prefixes, each = Prefixes(), max(num_blocks // num_replicas, 1)
    for replica in range(num_replicas):
        prefixes.add(replica, blocks[replica * each : (replica + 1) * each])
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    hash_bytes = 32  # bytes of a 61-bit integer, which the table keeps alive
    return used / num_blocks + hash_bytes


def step_s(num_tokens: int, count: int = 500) -> float:
    """CPU seconds of one step's message with this many jobs, from sending it over ZeroMQ to the sinks."""
    outputs = [CoreOutput(str(number), [7]) for number in range(num_tokens)]
    frame = msgspec.msgpack.encode(CoreOutputs(0, outputs))
    from prometheus_client import CollectorRegistry

    running = RunningJobs(EngineMetrics(CollectorRegistry()).of("m"), lambda job: None)
    for number in range(num_tokens):
        running.add(Job(str(number), "", [1], PLAIN, (), 9), lambda output: None)

    context = zmq.Context()
    engine, front_end = context.socket(zmq.PUSH), context.socket(zmq.PULL)
    engine.sndhwm = front_end.rcvhwm = 0
    engine.connect(f"tcp://127.0.0.1:{front_end.bind_to_random_port('tcp://127.0.0.1')}")

    def steps() -> None:
        for _ in range(count):
            engine.send(frame)
            running.take([decode([front_end.recv(copy=False).buffer])])

    seconds = least(steps) / count
    context.destroy(linger=0)
    return seconds


def heartbeat_s(num_pairs: int = 50, seconds: float = 2.0) -> float:
    """CPU seconds of one ping and its answer between two ZeroMQ sockets over TCP, both ends."""
    context = zmq.Context()
    sockets = []
    for _ in range(num_pairs):
        server, client = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
        client.heartbeat_ivl, client.heartbeat_timeout = BEAT_MS, 10_000
        client.connect(f"tcp://127.0.0.1:{server.bind_to_random_port('tcp://127.0.0.1')}")
        sockets += [server, client]
    time.sleep(0.5)
    process = psutil.Process()
    before = process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    context.destroy(linger=0)
    used = after.user + after.system - before.user - before.system
    return used / (num_pairs * seconds / (BEAT_MS / 1000))


def scrape(num_replicas: int) -> tuple[float, int]:
    """(seconds, bytes) of /metrics of one front end."""
    metrics = Metrics()
    for number in range(num_replicas):
        stats = metrics.engines.of("model", number)
        stats.stopped()
    found = list[bytes]()
    return least(lambda: found.append(metrics.render()), 2), len(found[0])


def keeper_s(num_replicas: int, num_front_ends: int, num_keys: int = 100) -> float | None:
    """CPU seconds of one report of a front end to the keeper, with its answer; None: Ray is not installed."""
    try:
        from server.engine.ray.keeper import FrontEnd, Keeper
        from server.engine.ray.messages import Load, ReplicaView, Report, Use, View
    except ImportError:
        return None
    use = Use(
        requests=[(float(k), 1) for k in range(6)], tokens=[(float(k), 100) for k in range(6)], running=3
    )
    load = Load(jobs=dict.fromkeys(range(num_replicas), 5), num_ready=num_replicas)
    keys = {f"key-{number}": use for number in range(num_keys)}
    report = Report(front_end="0", models={0: load}, keys=keys)
    told = report.model_dump_json()
    keeper: Any = object.__new__(Keeper)
    keeper._front_ends = {
        str(n): FrontEnd(report.model_copy(update={"front_end": str(n)}), 0.0) for n in range(num_front_ends)
    }

    def hear() -> None:
        Report.model_validate_json(told)
        View(
            num_front_ends=num_front_ends,
            replicas=[ReplicaView(model=0, replica=n, needs="1 free GPUs") for n in range(num_replicas)],
            keys=keeper._used_elsewhere("0", 0.0),
        ).model_dump_json()

    return least(hear, 3)
