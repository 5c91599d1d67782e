"""A server with few file descriptors, and clients that hold them, as its users start it."""

from __future__ import annotations

import contextlib
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.helpers import LONG
from tests.server.http.sockets import request
from tests.serving import VERBATIM, Client, Server, serving, wait_for

NUM_CLIENTS = 190  # of 400 descriptors 256 are kept
STREAM = request(LONG | {"ignore_eos": True, "stream": True})
HALF_A_HEAD, HALF_A_BODY = STREAM[:30], STREAM[:-5]


@contextlib.contextmanager
def limited(
    tmp_path: Path, directory: Path, limits: str, *flags: str, receive_timeout_s: float = 60
) -> Iterator[Server]:
    """A server whose shell has set these limits. Its engine computes nothing, 10 ms a token."""
    config = {
        "models": [{"id": "m", "path": str(directory), "engine": "simulated"}],
        "receive_timeout_s": receive_timeout_s,
        "drain_timeout_s": 300,
    }
    command = ("sh", "-c", f'{limits}; exec "$0" "$@"', *VERBATIM)
    with serving(tmp_path, config, *flags, verbatim=command) as server:
        server.wait_ready()
        yield server


@contextlib.contextmanager
def held(server: Server, count: int, sent: bytes = b"") -> Iterator[list[socket.socket]]:
    """Connections on which this was sent, and no more."""
    address = ("127.0.0.1", int(server.url().rpartition(":")[2]))
    with contextlib.ExitStack() as stack:
        connections = list[socket.socket]()
        for _ in range(count):
            connections.append(stack.enter_context(socket.create_connection(address)))
            connections[-1].sendall(sent)  # at once, as clients do
        yield connections


def statuses(server: Server, num_clients: int) -> list[bytes]:
    """Of as many streams at once, each on a connection of its own."""
    with held(server, num_clients, STREAM) as clients:
        return [client.recv(12)[-3:] for client in clients]


def test_soft_limit_is_raised(tmp_path: Path, directory: Path) -> None:
    """A soft limit below the hard one is no limit: each of more streams than it allows is answered."""
    with limited(tmp_path, directory, "ulimit -Sn 100") as server:
        assert statuses(server, NUM_CLIENTS) == [b"200"] * NUM_CLIENTS


def test_hard_limit_is_told(tmp_path: Path, directory: Path) -> None:
    """What is over the hard limit gets a 503 and a line in the log, and is counted; nothing closes unsaid."""
    with limited(tmp_path, directory, "ulimit -n 400") as server:
        found = statuses(server, NUM_CLIENTS)
        refused = found.count(b"503")
        assert found.count(b"200") + refused == NUM_CLIENTS
        assert refused > 0
        wait_for(lambda: "more were refused with a 503" in server.said(), 30)
        with Client(server.url(), "any") as client:
            mine: list[int] = []  # until it has noticed that the others have gone
            wait_for(lambda: mine.append(client.get("/health").status_code) or mine[-1] == 200, 30)
            dropped = client.metric('verbatim_connections_dropped_total{reason="full"}')
            assert dropped == refused + mine.count(503)


def test_silent_clients_lock_nobody_out(tmp_path: Path, directory: Path) -> None:
    """More connections than there may be, on which nothing is asked: others are answered all the same."""
    with limited(tmp_path, directory, "ulimit -n 400") as server, held(server, NUM_CLIENTS):
        assert [httpx.get(server.url() + "/health").status_code for _ in range(3)] == [200] * 3
        assert statuses(server, 10) == [b"200"] * 10


@pytest.mark.parametrize("workers", ["1", "2"])
def test_unfinished_requests_do_not_hold_the_end_up(tmp_path: Path, directory: Path, workers: str) -> None:
    """SIGTERM: silent connections, half heads and half bodies are not waited for; nothing is left over."""
    with (
        limited(tmp_path, directory, "true", "--workers", workers) as server,
        held(server, 20),
        held(server, 20, HALF_A_HEAD),
        held(server, 20, HALF_A_BODY) as bodies,
    ):
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert {body.recv(12) for body in bodies} == {b"HTTP/1.1 503"}
        assert server.process.wait(30) == 0
    assert "Traceback" not in server.said()
