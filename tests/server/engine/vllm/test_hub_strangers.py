"""Who is kept out of a hub, and disturbs nobody."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

import server.engine.vllm.hub as hub_module
from server.engine.vllm.hub import Admission, Hub
from server.engine.vllm.wire import ADD, encode
from server.errors import EngineFailed
from tests.helpers import until
from tests.hubs import SECRET, FakeEngine, FrontEnd, between, front_end, job

# ZeroMQ's own, of a client with CURVE, whole: version, mechanism, and room for what comes later.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"CURVE".ljust(20, b"\0") + bytes(32)
HELLO = b"\x04\xc8\x05HELLO\x01\x00" + bytes(192)  # of the right size, and made without the hub's key
HUGE = b"\x06" + struct.pack(">Q", 1 << 40)  # the head of a command of a terabyte
MANY = 100


def connected(admission: Admission, sent: bytes = b"") -> socket.socket:
    host, port = admission.address.removeprefix("tcp://").split(":")
    one = socket.create_connection((host, int(port)))
    one.sendall(sent)
    return one


def told_by(one: socket.socket) -> bytes:
    """All that comes until the end of the connection."""
    one.settimeout(5)
    with contextlib.suppress(ConnectionResetError):
        return b"".join(iter(lambda: one.recv(1 << 16), b""))
    return b""


async def works(one: FrontEnd, engine: FakeEngine, name: str) -> None:
    """A job of that name reaches the engine, and its token who has asked."""
    slot = one.admission.slot
    one.submit(job(name))
    await until(lambda: name in engine.names(slot, ADD))
    engine.step(slot, name, 1)
    await until(lambda: one.tokens(name) == [1])


@pytest.mark.parametrize(
    "keys", ["none", "of its own making", "for another server", "of one that was released"]
)
async def test_strangers_get_nothing(hub: Hub, engine: FakeEngine, keys: str) -> None:
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
            stranger.curve_serverkey = zmq.curve_keypair()[0] if keys == "for another server" else there
        if keys == "of one that was released":
            released = hub.admit()
            hub.release(released)
            stranger.curve_publickey = released.public_key.encode()
            stranger.curve_secretkey = released.secret_key.encode()
        if keys == "for another server":  # those that it has are right
            stranger.curve_publickey = one.admission.public_key.encode()
            stranger.curve_secretkey = one.admission.secret_key.encode()
        stranger.connect(one.admission.address)
        try:
            for _ in range(3):
                stranger.send_multipart((ADD, encode([])))
                engine.step(0, "x", 1)
            with pytest.raises(zmq.Again):
                await asyncio.to_thread(stranger.recv_multipart)
        finally:
            context.destroy(linger=0)
        assert [engine.names(slot, ADD) for slot in range(len(hub.folders))] == [[], [], []]
        await works(one, engine, "a")


async def test_a_public_key_alone(hub: Hub, engine: FakeEngine) -> None:
    """A front end's public key, with another's secret one, opens nothing."""
    admission = hub.admit()
    async with front_end(admission) as one:
        context = zmq.Context[zmq.Socket[bytes]]()
        stranger = context.socket(zmq.DEALER)
        stranger.linger, stranger.rcvtimeo = 0, 700
        stranger.curve_serverkey = admission.server_key.encode()
        stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
        stranger.curve_publickey = admission.public_key.encode()
        stranger.connect(admission.address)
        stranger.send_multipart((ADD, encode([])))
        with pytest.raises(zmq.Again):
            await asyncio.to_thread(stranger.recv_multipart)
        context.destroy(linger=0)
        await works(one, engine, "a")


async def test_nobody_answers_for_the_keys(hub: Hub, engine: FakeEngine) -> None:
    """With the part that knows them gone, those with keys are kept out too, not everybody let in."""
    async with front_end(hub.admit()) as one:
        hub._guard.stop()
        another = FrontEnd(hub.admit())
        with pytest.raises((EngineFailed, TimeoutError)):
            await another.reach()
        another.client.close()
        await works(one, engine, "a")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", id="http"),
        pytest.param(bytes(range(256)) * 100, id="garbage"),
        pytest.param(b"\x01\x00\x01\x05hello", id="zeromq 2"),
        pytest.param(GREETING[:11], id="half a greeting"),
        pytest.param(GREETING, id="a greeting"),
        pytest.param(GREETING + HELLO, id="a hello"),
        pytest.param(GREETING + HUGE, id="a huge command"),
        pytest.param(b"", id="nothing"),
    ],
)
async def test_noise_disturbs_nobody(hub: Hub, engine: FakeEngine, sent: bytes) -> None:
    """Other protocols, garbage, half handshakes, held open by the hundred, while front ends come and work."""
    async with front_end(hub.admit()) as one:
        with contextlib.ExitStack() as stack:
            for _ in range(MANY):
                stack.enter_context(connected(one.admission, sent))
            async with front_end(hub.admit()) as another:
                await works(one, engine, "a")
                await works(another, engine, "b")
        assert {kind for slot in engine.heard for kind, _ in slot} <= {ADD, b"\x03"}


@pytest.mark.parametrize("sent", [b"", GREETING[:11], GREETING])
def test_half_a_handshake_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    """Its connection ends after a while, and nothing was said on it but the hub's own greeting."""
    monkeypatch.setattr(hub_module, "GREETING_MS", 300)
    hub = Hub("127.0.0.1", tmp_path, 1)
    try:
        with connected(hub.admit(), sent) as one:
            assert len(told_by(one)) <= len(GREETING)
    finally:
        hub.close()


async def test_what_was_sniffed_is_of_no_use(hub: Hub, engine: FakeEngine) -> None:
    """All bytes that a front end has sent, sent once more, add no job."""
    admission = hub.admit()
    async with between(admission) as way, front_end(way.admission) as one:
        await works(one, engine, "a")
        with connected(admission, bytes(way.up)) as again:
            await asyncio.to_thread(told_by, again)
        assert engine.names(0, ADD) == ["a"]
        await works(one, engine, "b")


async def test_nothing_goes_in_clear(hub: Hub, engine: FakeEngine) -> None:
    """Whoever reads along between the machines sees no token of a prompt or a text, and no name."""
    async with between(hub.admit()) as way, front_end(way.admission) as one:
        one.submit(job("name-of-the-job", 1000))
        await until(lambda: engine.names(0, ADD))
        engine.step(0, "name-of-the-job", *[SECRET] * 1000)
        await until(lambda: len(one.tokens("name-of-the-job")) == 1000)
    assert len(way.up) > 5000
    assert len(way.seen) > len(way.up) + 5000
    assert b"name-of-the-job" not in way.seen
    assert encode([SECRET] * 2)[1:] not in way.seen


A_HUB = """
import dataclasses, json, resource, sys
from pathlib import Path
from server.engine.vllm import hub
hub.GREETING_MS = 1000
resource.setrlimit(resource.RLIMIT_NOFILE, (150, 150))
one = hub.Hub("127.0.0.1", Path(sys.argv[1]), 2)
print(json.dumps([dataclasses.asdict(one.admit()) for _ in one.folders]), flush=True)
sys.stdin.read()
one.close()
"""


@contextlib.contextmanager
def process(folder: Path) -> Iterator[list[Admission]]:
    """A hub in a process that may have few files open, and its two admissions."""
    command = [sys.executable, "-c", A_HUB, str(folder)]
    one = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert one.stdout is not None
    assert one.stdin is not None
    try:
        yield [Admission(**admission) for admission in json.loads(one.stdout.readline())]
    finally:
        one.stdin.close()
        code = one.wait(10)
        one.stdout.close()
    assert code == 0


async def test_more_connections_than_it_can_have(tmp_path: Path) -> None:
    """Strangers take all of them: who is in goes on, and who comes gets in when they have been cut off."""
    with process(tmp_path) as (first, second), contextlib.ExitStack() as stack:
        folders = [tmp_path / "0", tmp_path / "1"]
        engine = FakeEngine(folders)
        stack.callback(engine.close)
        async with front_end(first) as one:
            for _ in range(300):
                stack.enter_context(connected(first))
            await works(one, engine, "a")
            another = FrontEnd(second)
            stack.callback(another.client.close)
            async with asyncio.timeout(30):
                while True:
                    with contextlib.suppress(EngineFailed, TimeoutError):
                        await another.reach()
                        break
                    another.client.close()
                    another = FrontEnd(second)
                    stack.callback(another.client.close)
            another.listen()
            await works(another, engine, "b")
            await works(one, engine, "c")
