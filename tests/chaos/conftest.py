"""Servers that things happen to: two processes that answer for a tiny model, with a disk for their log."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from benchmarks.chaos.exchange import Exchange, ask
from benchmarks.chaos.footprint import Footprint, footprint
from benchmarks.chaos.kinds import can_stream, drawn, with_stop
from benchmarks.chaos.replies import Reply
from tests.disks import small_disk
from tests.serving import ANSWER_S, TINY, Client, Server, serving, tiny_model, wait_for

NUM_REQUESTS = 20
BEGUN = 0.6  # of the streams, when the fault comes
WITHIN_S = 150
DISK = "8m"
CACHE = (
    f"torchinductor_{getpass.getuser()}"  # torch makes it when it is imported, under the same name each time
)
# `verbatim` that hardly waits before it starts an engine again, so that many deaths take no minutes.
IMPATIENT: Sequence[str] = (
    sys.executable,
    "-c",
    """
from server.cli import main
from server.engine.supervisor import Patience
Patience.__init__.__defaults__ = ((0.0, 0.1), True)
main()
""",
)


@dataclass
class Subject:
    """A server that things happen to. temporary: its TMPDIR. bodies: requests, and expected: their replies
    when nothing happens."""

    server: Server
    temporary: Path
    bodies: list[dict[str, Any]] = field(default_factory=list)
    expected: list[Reply] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.server.process.pid

    @property
    def port(self) -> int:
        return int(self.server.url().rsplit(":", 1)[1])

    def footprint(self) -> Footprint:
        return footprint(self.pid, self.temporary)

    def client(self) -> Client:
        return Client(self.server.url(), "any", TINY)

    def ready(self) -> dict[str, Any]:
        """The body of /ready."""
        answer: dict[str, Any] = httpx.get(self.server.url() + "/ready", timeout=ANSWER_S).json()
        return answer

    def settle(self, num_files: list[int]) -> None:
        """Until it has no connection left, and no work."""
        wait_for(lambda: all(map(int.__le__, self.footprint().num_files, num_files)), 30)
        with self.client() as client:
            client.complete(
                max_tokens=1
            )  # until an engine's next step, its gauges may be of its last but one
            wait_for(lambda: client.running(TINY) == 0, 30)

    def learn(self, num: int, *, sampled: bool) -> None:
        """Draw requests, some with a stop sequence in the middle of their text; and what is answered."""
        draw = random.Random(10)
        bodies = [{"model": TINY} | drawn(draw, k, sampled=sampled) for k in range(num)]
        texts = [reply.choices[0]["text"] for reply in replies(self.port, bodies)]
        for k in range(0, num, 3):
            if not bodies[k].get("echo"):
                bodies[k] = with_stop(draw, bodies[k], texts[k])
        self.expected = replies(self.port, bodies)
        self.bodies = [body | {"stream": k % 4 != 0 and can_stream(body)} for k, body in enumerate(bodies)]

    def differences(self, exchanges: list[Exchange]) -> list[str]:
        """Of their replies to what is expected."""
        found = []
        for exchange, expected in zip(exchanges, self.expected, strict=True):
            ranked = not can_stream(exchange.body)
            found.append(exchange.reply().difference(expected, usage=not ranked))
        return [one for one in found if one]


def replies(port: int, bodies: list[dict[str, Any]]) -> list[Reply]:
    """Of requests at once, when nothing happens."""
    return [exchange.reply() for exchange in at_once(port, bodies)]


def at_once(
    port: int, bodies: list[dict[str, Any]], meanwhile: Callable[[], object] = lambda: None
) -> list[Exchange]:
    """Send all requests, do something when most of them are answered but for their ends, and read on."""
    exchanges = [Exchange(body) for body in bodies]
    num_streams = sum(bool(body.get("stream")) for body in bodies)

    async def run() -> None:
        asking = [asyncio.create_task(ask(port, exchange)) for exchange in exchanges]
        async with asyncio.timeout(WITHIN_S):
            while sum(b"data: " in one.received for one in exchanges) < BEGUN * num_streams:
                assert not all(one.done() for one in asking), [bytes(one.received) for one in exchanges]
                await asyncio.sleep(0.01)
            await asyncio.to_thread(meanwhile)
            await asyncio.gather(*asking)

    asyncio.run(run())
    return exchanges


def num_listening(port: int) -> int:
    """Sockets that take connections for the port."""
    return sum(
        one.laddr.port == port and one.status == psutil.CONN_LISTEN for one in psutil.net_connections("tcp")
    )


@pytest.fixture
def short_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in whose temporary folder there is room for the names of sockets."""
    return tmp_path_factory.mktemp("x")


@contextlib.contextmanager
def subject(
    folder: Path,
    config: dict[str, Any],
    *,
    verbatim: Sequence[str] = IMPATIENT,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Subject]:
    """A server that is ready. After it, nothing of it is left: no process, no file."""
    temporary = folder / "tmp"
    temporary.mkdir(parents=True)
    everything = {**os.environ, "TMPDIR": str(temporary), **(environ or {})}
    with serving(folder, config, verbatim=verbatim, environ=everything) as server:
        server.wait_ready()
        yield Subject(server, temporary)
        processes = server.engines()
        server.process.terminate()
        assert server.process.wait(60) == 0
        assert_gone(processes)
        assert {path.name for path in temporary.iterdir()} <= {CACHE}


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, made in a process of its own: it imports torch."""
    path = tmp_path_factory.mktemp("tiny-llama")
    script = Path(__file__).parents[1] / "tiny_llama.py"
    subprocess.run([sys.executable, script, path], check=True, stdout=subprocess.DEVNULL)
    return path


@pytest.fixture(scope="session")
def disk() -> Iterator[Path]:
    """A disk that is soon full."""
    with small_disk(DISK) as path:
        yield path


@pytest.fixture(scope="session")
def two(tiny_path: Path, disk: Path) -> Iterator[Subject]:
    """Two processes that answer, one of which runs the engine."""
    config = {
        "models": [tiny_model(tiny_path)],
        "workers": 2,
        "receive_timeout_s": 4,
        "slow_reader_timeout_s": 8,
    }
    with subject(disk / "server", config) as two:
        wait_for(lambda: num_listening(two.port) == 2, 30)
        two.learn(NUM_REQUESTS, sampled=False)
        for _ in range(20):  # each process makes a file, when it is asked for the first time
            with two.client() as client:
                client.get("/metrics")
        yield two
