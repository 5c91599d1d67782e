"""Front ends on other machines, an engine's hub, and who is kept out."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import zmq
from prometheus_client import CollectorRegistry

import server.engine.vllm.hub as hub_module
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job
from server.engine.vllm.channel import Channel
from server.engine.vllm.client import EngineClient
from server.engine.vllm.hub import Admission, Hub
from server.engine.vllm.link import ENGINE, inputs_of, outputs_of
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import (
    ABORT,
    ADD,
    DEAD,
    UTILITY,
    CoreOutput,
    CoreOutputs,
    CoreRequest,
    encode,
)
from server.errors import RequestFailure
from tests.helpers import until

SECRET = 123456  # a token of prompts
NUM_SLOTS = 3


def job(name: str, num_tokens: int = 1) -> Job:
    return Job(name, name, [SECRET] * num_tokens, GenerationParams(), (), 10)


class Pretended:
    """What vLLM's engine is to its clients, for all slots: a thread that answers questions, and notes the
    rest. heard: of each slot, by kinds of message."""

    def __init__(self, hub: Hub) -> None:
        self.heard: list[list[tuple[bytes, bytes]]] = [[] for _ in hub.folders]
        self._context = zmq.Context()
        self._inputs, self._outputs = [], []
        for folder in hub.folders:
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
                    answer = CoreOutputs(utility_output=[0, None, [None, [1, False]]])
                    self._outputs[slot].send(encode(answer))


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    hub = Hub("127.0.0.1", tmp_path, NUM_SLOTS)
    yield hub
    hub.close()


@pytest.fixture
def engine(hub: Hub) -> Iterator[Pretended]:
    engine = Pretended(hub)
    yield engine
    engine.close()


class FrontEnd:
    """admission: its place. got: by the jobs' names. lost: whether the way to the engine is."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.got: dict[str, list[EngineOutput | RequestFailure]] = {}
        self.lost = False
        stats = EngineMetrics(CollectorRegistry()).of("m")
        self.client = EngineClient(Channel(admission), stats, admission.slot + 1)

    def submit(self, one: Job) -> None:
        self.got[one.id] = []
        self.client.submit(one, self.got[one.id].append)

    def tokens(self, name: str) -> list[int]:
        return [token for one in self.got[name] if isinstance(one, EngineOutput) for token in one.token_ids]

    def _lose(self) -> None:
        self.lost = True


@asynccontextmanager
async def front_end(admission: Admission) -> AsyncIterator[FrontEnd]:
    """One that has reached the engine."""
    one = FrontEnd(admission)
    try:
        async with asyncio.timeout(5):
            await one.client.link.reached()
        one.client.listen(one._lose)
        yield one
    finally:
        one.client.close()


async def test_each_has_its_own(hub: Hub, engine: Pretended) -> None:
    """Two front ends at once: requests arrive at the engine under their slots, and outputs at who asked."""
    async with front_end(hub.admit()) as first, front_end(hub.admit()) as second:
        first.submit(job("a"))
        second.submit(job("b"))
        await until(lambda: engine.names(0, ADD) == ["a"] and engine.names(1, ADD) == ["b"])
        engine.step(0, "a", 1, 2)
        engine.step(1, "b", 3)
        await until(lambda: first.got["a"] and second.got["b"])
        assert (first.tokens("a"), second.tokens("b")) == ([1, 2], [3])
        first.client.abort("a")
        await until(lambda: engine.names(0, ABORT) == ["a"])
        assert engine.names(1, ABORT) == []


async def test_whoever_is_gone_is_given_up(hub: Hub, engine: Pretended) -> None:
    """What the engine still works on for a front end that has gone is aborted, and the next one that has its
    slot gets nothing of it."""
    admission = hub.admit()
    async with front_end(admission) as first:
        first.submit(job("a"))
        await until(lambda: engine.names(0, ADD) == ["a"])
    hub.release(admission.slot)
    engine.step(0, "a", 1)
    await until(lambda: engine.names(0, ABORT) == ["a"])
    again = hub.admit()
    assert again.slot == admission.slot
    assert again.public_key != admission.public_key
    async with front_end(again) as second:
        second.submit(job("b"))
        engine.step(0, "a", 1)
        engine.step(0, "b", 2)
        await until(lambda: second.tokens("b") == [2])
        assert list(second.got) == ["b"]


async def test_one_that_vanishes_is_noticed(hub: Hub, engine: Pretended) -> None:
    """Without a word, at the next thing that is said to it."""
    admission = hub.admit()
    async with front_end(admission) as first:
        first.submit(job("a"))
        await until(lambda: engine.names(0, ADD) == ["a"])

    async def speak() -> None:
        while hub.keeps(admission):
            engine.step(0, "a", 1)
            await asyncio.sleep(0.01)

    await asyncio.wait_for(speak(), 5)
    engine.step(0, "a", 1)
    await until(lambda: engine.names(0, ABORT))


async def test_a_hub_that_ends_is_noticed(tmp_path: Path) -> None:
    """Its front ends lose the way at once."""
    hub = Hub("127.0.0.1", tmp_path, 1)
    engine = Pretended(hub)
    try:
        async with front_end(hub.admit()) as one:
            await asyncio.to_thread(hub.close)
            await until(lambda: one.lost)
    finally:
        hub.close()
        engine.close()


async def test_an_engine_that_fails_says_so(hub: Hub, engine: Pretended) -> None:
    """To all of its front ends."""
    async with front_end(hub.admit()) as first, front_end(hub.admit()) as second:
        engine.say(0, DEAD)
        engine.say(1, DEAD)
        await until(lambda: first.lost and second.lost)


async def test_large_messages(hub: Hub, engine: Pretended) -> None:
    """A prompt of 100,000 tokens one way, a megabyte of frames the other."""
    async with front_end(hub.admit()) as one:
        one.submit(job("a", 100_000))
        await until(lambda: engine.names(0, ADD) == ["a"])
        engine.step(0, "a", *range(300_000))
        await until(lambda: len(one.tokens("a")) == 300_000)


async def test_one_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds nobody up, takes a bounded number of messages, and hears of it."""
    monkeypatch.setattr(hub_module, "MOST_WAITING", 50)
    hub = Hub("127.0.0.1", tmp_path, 2)
    engine = Pretended(hub)
    try:
        slow_admission = hub.admit()
        slow = FrontEnd(slow_admission)
        slow.client.link._socket.rcvhwm = 1  # type: ignore[attr-defined]
        async with asyncio.timeout(5):
            await slow.client.link.reached()
        async with front_end(hub.admit()) as other:
            other.submit(job("b"))
            tokens = range(50_000)

            async def flood() -> None:
                while hub.keeps(slow_admission):
                    engine.step(0, "a", *tokens)
                    await asyncio.sleep(0.002)

            # This process does not read what comes for the slow one: it has not begun to listen.
            await asyncio.wait_for(flood(), 30)
            engine.step(1, "b", 7)
            await until(lambda: other.tokens("b") == [7])
        slow.client.close()
    finally:
        hub.close()
        engine.close()


@pytest.mark.parametrize(
    "keys", ["none", "the server's alone", "another server's", "of one that was released"]
)
async def test_strangers_get_nothing(hub: Hub, engine: Pretended, keys: str) -> None:
    """Whoever has not been given keys by this hub reaches neither the engine nor what it says."""
    async with front_end(hub.admit()) as one:
        context = zmq.Context[zmq.Socket[bytes]]()
        stranger = context.socket(zmq.DEALER)
        stranger.linger, stranger.rcvtimeo = 0, 700
        stranger.identity = one.admission.public_key.encode()
        if keys != "none":
            mine = zmq.curve_keypair()
            stranger.curve_publickey, stranger.curve_secretkey = mine
            there = one.admission.server_key.encode()
            stranger.curve_serverkey = zmq.curve_keypair()[0] if keys == "another server's" else there
        if keys == "of one that was released":
            released = hub.admit()
            hub.release(released.slot)
            stranger.curve_publickey = released.public_key.encode()
            stranger.curve_secretkey = released.secret_key.encode()
        stranger.connect(one.admission.address)
        try:
            for _ in range(3):
                stranger.send_multipart((ADD, encode([])))
                engine.step(0, "x", 1)
            with pytest.raises(zmq.Again):
                await asyncio.to_thread(stranger.recv_multipart)
        finally:
            context.destroy(linger=0)
        assert [engine.names(slot, ADD) for slot in range(NUM_SLOTS)] == [[], [], []]
        one.submit(job("a"))
        engine.step(0, "a", 1)
        await until(lambda: one.tokens("a") == [1])


GREETING = b"\xff" + bytes(8) + b"\x7f\x03"  # the beginning of ZeroMQ's own


@pytest.mark.parametrize("sent", [b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 100, GREETING, b""])
async def test_noise_disturbs_nobody(hub: Hub, engine: Pretended, sent: bytes) -> None:
    """Other protocols, garbage, half handshakes, held open by the hundred."""
    async with front_end(hub.admit()) as one:
        host, port = one.admission.address.removeprefix("tcp://").split(":")
        noisy = []
        for _ in range(100):
            connection = socket.create_connection((host, int(port)))
            connection.sendall(sent)
            noisy.append(connection)
        async with front_end(hub.admit()) as another:
            for number, who in enumerate((one, another)):
                who.submit(job("a"))
                engine.step(number, "a", 1)
                await until(lambda who=who: who.tokens("a") == [1])  # type: ignore[misc]
        for connection in noisy:
            connection.close()


async def test_nothing_goes_in_clear(hub: Hub, engine: Pretended) -> None:
    """Whoever reads along between the machines sees no token of a prompt or a text."""
    seen, over = bytearray(), asyncio.Event()

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            seen.extend(data)
            writer.write(data)
        writer.close()

    admission = hub.admit()
    host, port = admission.address.removeprefix("tcp://").split(":")

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, here = await asyncio.open_connection(host, int(port))
        await asyncio.gather(pipe(reader, here), pipe(there, writer))
        await asyncio.gather(here.wait_closed(), writer.wait_closed())
        over.set()

    listener = await asyncio.start_server(between, "127.0.0.1", 0)
    address = f"tcp://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    async with front_end(replace(admission, address=address)) as one:
        one.submit(job("name-of-the-job", 1000))
        await until(lambda: engine.names(0, ADD))
        engine.step(0, "name-of-the-job", *[SECRET] * 1000)
        await until(lambda: len(one.tokens("name-of-the-job")) == 1000)
    await over.wait()
    listener.close()
    assert len(seen) > 5000
    assert b"name-of-the-job" not in seen
    assert encode([SECRET] * 2)[1:] not in seen


async def test_more_than_there_are_slots(hub: Hub) -> None:
    """Is refused, until one is released."""
    admissions = [hub.admit() for _ in range(NUM_SLOTS)]
    with pytest.raises(LookupError, match="all 3 slots are taken"):
        hub.admit()
    hub.release(admissions[1].slot)
    assert hub.admit().slot == 1
