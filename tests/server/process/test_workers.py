"""Several processes that answer on one port, as their users start them, on engines that are simulated."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from server.config.loading import load_settings
from server.config.settings import Settings
from server.errors import ConfigurationError
from server.process.port import open_port, open_ports
from server.process.workers import settings_text
from server.weights.builtin import is_prepared
from tests.engine.serving import SIMULATED_MODEL, SMOL, Client, Server, serving, wait_for

NUM_WORKERS = 3
LISTEN = "0A"  # of the kernel's states of a socket
NUM_ANSWERS = 'verbatim_requests_total{key="anonymous",model="smollm2-135m-instruct",status="200"}'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    if not is_prepared(SMOL):
        pytest.skip("the built-in model is not prepared: make setup")
    config = {"models": [SIMULATED_MODEL], "attest": True}
    with serving(tmp_path, config, "--workers", str(NUM_WORKERS)) as started:
        started.wait_ready()
        wait_for(lambda: num_listening(started.url()) == NUM_WORKERS, 20)
        yield started


def num_listening(url: str) -> int:
    """Sockets that take connections for the port."""
    port = f":{int(url.rsplit(':', 1)[1]):04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return sum(local.endswith(port) and state == LISTEN for _, local, _, state, *_ in lines)


def connections(pid: int) -> int:
    return sum(one.status == psutil.CONN_ESTABLISHED for one in psutil.Process(pid).net_connections("tcp"))


def ask(url: str, **fields: object) -> dict[str, Any]:
    """A reply, over a connection of its own."""
    with Client(url, "any") as client:
        return client.complete(**fields)


def test_each_answers_and_each_knows_all(server: Server) -> None:
    """Connections are spread over all processes, and whichever is asked for metrics has the sum."""
    url, pids = server.url(), [server.process.pid, *(worker.pid for worker in server.engines())]
    assert len(pids) == NUM_WORKERS
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(url, "any")) for _ in range(40)]
        for client in clients:
            client.complete(max_tokens=3)
        assert all(connections(pid) for pid in pids)
        assert [client.metric(NUM_ANSWERS) for client in clients] == [40] * 40
        assert clients[0].metric("verbatim_requests_in_flight") == 1  # this one
        documents = [client.get("/attestation").json() for client in clients]
        assert all(document == documents[0] for document in documents)
        assert documents[0]["models"][SMOL]


def test_death_of_a_worker(server: Server) -> None:
    """kill -9: another one takes its place, and takes the connections that have come meanwhile."""
    url, workers = server.url(), server.engines()
    workers[0].kill()
    wait_for(lambda: "ended, signal 9; starting another one in 1 s" in server.said(), 5)
    with ThreadPoolExecutor(30) as pool:
        replies = list(pool.map(lambda _: ask(url, max_tokens=3), range(30)))
    assert [reply["usage"]["completion_tokens"] for reply in replies] == [3] * 30
    assert len(server.engines()) == len(workers)


def test_sigterm_drains_all(server: Server) -> None:
    """Running requests finish, whichever process has them; then exit code 0 and nothing is left."""
    url, workers = server.url(), server.engines()
    with ThreadPoolExecutor(30) as pool:
        running = [pool.submit(ask, url, max_tokens=200, ignore_eos=True) for _ in range(30)]
        wait_for(lambda: all(connections(worker.pid) for worker in workers), 10)
        time.sleep(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert [one.result()["usage"]["completion_tokens"] for one in running] == [200] * 30
    assert server.process.wait(10) == 0
    assert not any(worker.is_running() for worker in workers)
    assert "Traceback" not in server.said()


def test_second_signal_ends_all(server: Server) -> None:
    """Requests that still run get an error, at once."""
    url, workers = server.url(), server.engines()
    with ThreadPoolExecutor(30) as pool:
        running = [pool.submit(_status, url) for _ in range(30)]
        wait_for(lambda: all(connections(worker.pid) for worker in workers), 10)
        time.sleep(0.5)
        for _ in range(2):
            server.process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
        assert {one.result() for one in running} == {503}
    assert server.process.wait(15) == 0
    assert not any(worker.is_running() for worker in workers)


def test_kill_of_the_server_takes_its_workers_along(server: Server) -> None:
    """kill -9: no process is left that would hold the port."""
    workers = server.engines()
    server.process.kill()
    psutil.wait_procs(workers, timeout=5)
    assert not any(worker.is_running() for worker in workers)


def test_settings_arrive_whole(tmp_path: Path) -> None:
    """With the keys of the environment, which are in no printed settings."""
    file = tmp_path / "models.yaml"
    file.write_text("host: 0.0.0.0\nworkers: 2\nmodels: [{id: a, path: weights}]\n")
    settings = load_settings(file, {}, {"VERBATIM_API_KEYS": "one,two"})
    arrived = Settings.model_validate_json(settings_text(settings))
    assert (arrived, arrived.api_keys) == (settings, ("one", "two"))


def test_one_that_fails_again_takes_no_connections(server: Server) -> None:
    """The socket of a worker that has ended twice listens no more until the next one does."""
    url, known = server.url(), {worker.pid for worker in server.engines()}
    server.engines()[0].kill()
    (again,) = wait_for(lambda: [one for one in server.engines() if one.pid not in known], 10)
    again.kill()
    wait_for(lambda: num_listening(url) == NUM_WORKERS - 1, 1.5)
    assert all(ask(url, max_tokens=1) for _ in range(10))
    wait_for(lambda: num_listening(url) == NUM_WORKERS, 20)


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


def _status(url: str) -> int:
    with Client(url, "any") as client:
        return client.ask(max_tokens=4000, ignore_eos=True).status_code
