"""A fake engine behind a hub, front ends on channels to it, and a way between that one can watch."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import zmq
from prometheus_client import CollectorRegistry

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job
from server.engine.vllm.channel import Channel
from server.engine.vllm.client import EngineClient
from server.engine.vllm.hub import Admission
from server.engine.vllm.link import ENGINE, inputs_of, outputs_of
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import ABORT, ADD, UTILITY, Answer, CoreOutput, CoreOutputs, CoreRequest, encode
from server.errors import RequestFailure

SECRET = 123456  # a token of prompts
TIMEOUT_S = 30.0


def job(name: str, num_tokens: int = 1) -> Job:
    return Job(name, name, [SECRET] * num_tokens, GenerationParams(), (), 10)


class FakeEngine:
    """What vLLM's engine is to its clients, for all slots: a thread that answers questions, and notes what it
    hears. folders: of the slots. heard: of each of them, by kinds of message. signs: its answer."""

    def __init__(self, folders: Sequence[Path]) -> None:
        self.heard: list[list[tuple[bytes, bytes]]] = [[] for _ in folders]
        self.signs: list[Any] = [1, False]
        self._context = zmq.Context()
        self._inputs, self._outputs = [], []
        for folder in folders:
            inputs, outputs = self._context.socket(zmq.DEALER), self._context.socket(zmq.PUSH)
            inputs.identity = ENGINE
            inputs.connect(inputs_of(folder))
            outputs.connect(outputs_of(folder))
            inputs.send(b"")
            self._inputs.append(inputs)
            self._outputs.append(outputs)
        self._to_say: list[tuple[int, list[bytes]]] = []
        self._ends = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def say(self, slot: int, *frames: bytes) -> None:
        self._to_say.append((slot, [*frames]))

    def step(self, slot: int, name: str, *tokens: int) -> None:
        self.say(slot, encode(CoreOutputs(outputs=[CoreOutput(name, [*tokens])], timestamp=1.0)))

    def names(self, slot: int, kind: bytes) -> list[str]:
        """Of requests that were added, or given up."""
        found = []
        for one, payload in self.heard[slot]:
            if one == kind == ADD:
                found.append(msgspec.msgpack.decode(payload, type=CoreRequest).request_id)
            elif one == kind == ABORT:
                found += msgspec.msgpack.decode(payload)
        return found

    def close(self) -> None:
        self._ends = True
        self._thread.join()
        self._context.destroy(linger=0)

    def _run(self) -> None:
        poller = zmq.Poller()
        for inputs in self._inputs:
            poller.register(inputs, zmq.POLLIN)
        while not self._ends:
            while self._to_say:
                slot, frames = self._to_say.pop(0)
                self._outputs[slot].send_multipart(frames)
            for inputs, _ in poller.poll(5):
                slot = self._inputs.index(inputs)
                kind, payload = inputs.recv_multipart()
                self.heard[slot].append((kind, payload))
                if kind == UTILITY:
                    answer = CoreOutputs(utility_output=Answer(0, None, [None, self.signs]))
                    self._outputs[slot].send(encode(answer))


class FrontEnd:
    """admission: its place. got: by the jobs' names. num_lost: how often it was told that its way to the
    engine is lost."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.got: dict[str, list[EngineOutput | RequestFailure]] = {}
        self.num_lost = 0
        self.channel = Channel(admission)
        self.registry = CollectorRegistry()
        stats = EngineMetrics(self.registry).of("m")
        self.client = EngineClient(self.channel, stats, admission.slot + 1)

    async def reach(self) -> None:
        async with asyncio.timeout(TIMEOUT_S):
            await self.channel.reached()

    def listen(self) -> None:
        self.client.listen(self._lose)

    def gauge(self, name: str) -> float | None:
        """Of the engine, as this front end's metrics have it."""
        return self.registry.get_sample_value(f"vllm:{name}", {"model_name": "m", "engine": "0"})

    def submit(self, one: Job) -> None:
        self.got[one.id] = []
        self.client.submit(one, self.got[one.id].append)

    def tokens(self, name: str) -> list[int]:
        return [token for one in self.got[name] if isinstance(one, EngineOutput) for token in one.token_ids]

    def _lose(self) -> None:
        self.num_lost += 1


@asynccontextmanager
async def front_end(admission: Admission) -> AsyncIterator[FrontEnd]:
    """One that has reached the engine, and listens."""
    one = FrontEnd(admission)
    try:
        await one.reach()
        one.listen()
        yield one
    finally:
        one.client.close()


class Between:
    """Stands between a front end and its hub, and reads along. admission: the way through it. up: what has
    gone to the hub; seen: all. count: of connections."""

    def __init__(self, listener: asyncio.Server, admission: Admission) -> None:
        self._there = admission.address.removeprefix("tcp://").split(":")
        self._listener = listener
        self._writers: list[asyncio.StreamWriter] = []
        self._passes = asyncio.Event()
        self._passes.set()
        self.admission = replace(admission, address=f"tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}")
        self.up, self.seen, self.count = bytearray(), bytearray(), 0

    def freeze(self) -> None:
        """From now on nothing gets through, and nobody is told."""
        self._passes.clear()

    def cut(self) -> None:
        """The connections end."""
        for writer in self._writers:
            writer.transport.abort()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.count += 1
        host, port = self._there
        there, here = await asyncio.open_connection(host, int(port))
        self._writers += (writer, here)
        await asyncio.gather(self._pipe(reader, here, self.up), self._pipe(there, writer, bytearray()))

    async def _pipe(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, into: bytearray
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                into += data
                self.seen += data
                await self._passes.wait()
                writer.write(data)
        writer.close()


@asynccontextmanager
async def between(admission: Admission) -> AsyncIterator[Between]:
    async def take(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        with suppress(asyncio.CancelledError):
            await one.take(reader, writer)

    tasks: set[asyncio.Task[None]] = set()
    listener = await asyncio.start_server(take, "127.0.0.1", 0)
    one = Between(listener, admission)
    try:
        yield one
    finally:
        listener.close()
        one.cut()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks)
