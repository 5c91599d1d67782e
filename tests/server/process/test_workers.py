"""Several processes that answer on one port, as their users start them, on engines that are simulated."""

from __future__ import annotations

import contextlib
import hashlib
import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.config.loading import load_settings
from server.config.settings import Settings
from server.errors import ConfigurationError
from server.process.port import open_port, open_ports, stop_listening
from server.process.workers import settings_text
from tests.helpers import byte_level, model_directory
from tests.serving import Client, Server, serving, wait_for

NUM_WORKERS = 3  # of the server that is shared; of one that is ended at once, which costs its start, 2
LISTEN = "0A"  # of the kernel's states of a socket
NUM_ANSWERS = 'verbatim_requests_total{key="anonymous",model="m",status="200"}'
IN_FLIGHT = "verbatim_requests_in_flight"


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A model whose engine invents a token each 10 ms, with the digests that attesting asks for."""
    path = model_directory(tmp_path_factory.mktemp("model"), byte_level(), context_size=4096)
    sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in path.iterdir()}
    (path / "checksums.json").write_text(json.dumps(sums))
    return {"models": [{"id": "m", "path": str(path), "engine": "simulated"}], "attest": True}


@pytest.fixture(scope="module")
def shared(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with _started(tmp_path_factory.mktemp("shared"), config, NUM_WORKERS) as server:
        yield server


@pytest.fixture
def lasting(shared: Server) -> Server:
    """A server for tests after which it has all its workers again."""
    wait_for(lambda: num_listening(shared.url()) == NUM_WORKERS, 30)
    return shared


@pytest.fixture
def server(config: dict[str, Any], tmp_path: Path) -> Iterator[Server]:
    """A server for a test that ends it."""
    with _started(tmp_path, config, 2) as server:
        yield server


@contextlib.contextmanager
def _started(folder: Path, config: dict[str, Any], num_workers: int) -> Iterator[Server]:
    with serving(folder, config, "--workers", str(num_workers)) as server:
        server.wait_ready()
        wait_for(lambda: num_listening(server.url()) == num_workers, 30)
        yield server


def num_listening(url: str) -> int:
    """Sockets that take connections for the port."""
    port = f":{int(url.rsplit(':', 1)[1]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(port) and state == LISTEN for _, local, _, state, *_ in lines)


def connections(pid: int) -> int:
    return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(pid).net_connections("tcp"))


def connect(url: str) -> Client:
    return Client(url, "any", "m")


def ask(url: str, **fields: object) -> dict[str, Any]:
    """A reply, over a connection of its own."""
    with connect(url) as client:
        return client.complete(**fields)


@contextlib.contextmanager
def working(server: Server, num_tokens: int) -> Iterator[list[Future[int]]]:
    """Requests that run in every process of the server: the status of each, in time."""

    def status() -> int:
        with connect(server.url()) as client:
            return client.ask(max_tokens=num_tokens, ignore_eos=True).status_code

    with connect(server.url()) as client, ThreadPoolExecutor(30) as pool:
        running = [pool.submit(status) for _ in range(30)]
        wait_for(lambda: client.num_begun() == 30, 60)
        assert all(connections(worker.pid) for worker in server.engines())
        yield running


def test_each_answers_and_each_knows_all(lasting: Server) -> None:
    """Connections are spread over all processes, and whichever is asked for metrics has the sum."""
    url, pids = lasting.url(), [lasting.process.pid, *(worker.pid for worker in lasting.engines())]
    assert len(pids) == NUM_WORKERS
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(url)) for _ in range(40)]
        before = clients[0].metric(NUM_ANSWERS)
        for client in clients:
            client.complete(max_tokens=3, ignore_eos=True)
        assert all(connections(pid) for pid in pids)
        assert [client.metric(NUM_ANSWERS) for client in clients] == [before + 40] * 40
        wait_for(lambda: clients[0].metric(IN_FLIGHT) == 1, 30)  # this one
        documents = [client.get("/attestation").json() for client in clients]
        assert all(document == documents[0] for document in documents)
        assert documents[0]["models"]["m"]


def test_death_of_a_worker(lasting: Server) -> None:
    """kill -9: another one takes its place, and takes the connections that have come meanwhile."""
    url, workers = lasting.url(), lasting.engines()
    workers[0].kill()
    wait_for(lambda: "ended (signal 9); starting another one in 1 s" in lasting.said(), 30)
    with ThreadPoolExecutor(30) as pool:
        replies = list(pool.map(lambda _: ask(url, max_tokens=3, ignore_eos=True), range(30)))
    assert [reply["usage"]["completion_tokens"] for reply in replies] == [3] * 30
    assert len(lasting.engines()) == len(workers)


def test_one_that_fails_again_takes_no_connections(lasting: Server) -> None:
    """The socket of a worker that has ended twice listens no more until the next one does."""
    url, again = lasting.url(), "ended (signal 9); starting another one in 2 s"
    while again not in lasting.said():
        newest = max(lasting.engines(), key=psutil.Process.create_time)
        newest.kill()
        newest.wait(30)
        wait_for(lambda: again in lasting.said() or len(lasting.engines()) == NUM_WORKERS - 1, 30)
    wait_for(lambda: num_listening(url) == NUM_WORKERS - 1, 30)
    assert all(ask(url, max_tokens=1) for _ in range(10))


def test_sigterm_drains_all(server: Server) -> None:
    """Running requests finish, whichever process has them; then exit code 0 and nothing is left."""
    workers = server.engines()
    with working(server, num_tokens=300) as running:
        server.process.send_signal(signal.SIGTERM)
        assert [one.result() for one in running] == [200] * 30
    assert server.process.wait(30) == 0
    assert not any(worker.is_running() for worker in workers)
    assert "Traceback" not in server.said()


def test_second_signal_ends_all(server: Server) -> None:
    """Requests that still run get an error, at once."""
    workers = server.engines()
    with working(server, num_tokens=4000) as running:
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: server.said().count("SIGTERM: no new requests") == 1, 30)
        server.process.send_signal(signal.SIGTERM)
        assert {one.result() for one in running} == {503}
    assert server.process.wait(30) == 0
    assert not any(worker.is_running() for worker in workers)


def test_settings_arrive_whole(tmp_path: Path) -> None:
    """With the keys of the environment, which are in no printed settings."""
    file = tmp_path / "models.yaml"
    file.write_text("host: 0.0.0.0\nworkers: 2\nmodels: [{id: a, path: weights}]\n")
    settings = load_settings(file, {}, {"VERBATIM_API_KEYS": "one,two"})
    arrived = Settings.model_validate_json(settings_text(settings))
    assert (arrived, arrived.api_keys) == (settings, ("one", "two"))


def test_only_the_first_listens_at_first() -> None:
    """Others listen when their process does; until then the kernel gives them nothing."""
    first, *others = open_ports("127.0.0.1", 0, 0, 3)
    with first, others[0], others[1]:
        port = first.getsockname()[1]
        assert {other.getsockname()[1] for other in others} == {port}
        assert num_listening(f"http://127.0.0.1:{port}") == 1


def test_port_is_not_shared_with_other_servers() -> None:
    """Although several sockets may have it, a port that is taken is refused."""
    with open_port("127.0.0.1", 0, 0) as other, pytest.raises(ConfigurationError, match="is taken"):
        open_ports("127.0.0.1", other.getsockname()[1], 0, 2)
    first, second = open_ports("127.0.0.1", 0, 0, 2)
    with first, second, pytest.raises(ConfigurationError, match="is taken"):
        open_ports("127.0.0.1", first.getsockname()[1], 0, 2)


def test_socket_may_listen_again() -> None:
    """Although it was told twice to listen no more: what is sent over its connections arrives."""
    with open_port("127.0.0.1", 0, 0) as listener:
        stop_listening(listener)
        stop_listening(listener)
        listener.listen()
        with socket.create_connection(listener.getsockname()) as client, listener.accept()[0] as accepted:
            accepted.sendall(b"x")
            assert client.recv(1) == b"x"


def test_kill_of_the_server_takes_its_workers_along(lasting: Server) -> None:
    """kill -9: no process is left that would hold the port. The last test here, as it leaves no server."""
    workers = lasting.engines()
    lasting.process.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []
