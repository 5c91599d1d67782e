"""Limits of keys over several processes that answer, as their users start them; engines are simulated."""

from __future__ import annotations

import contextlib
import http
from collections.abc import Iterator

import httpx
import pytest

from server.access.keys import digest
from tests.helpers import byte_level, model_directory
from tests.server.process.test_workers import connections, num_listening
from tests.serving import Client, Server, serving, wait_for

# Each key has terms of its own, and is a test's own.
KEYS = {
    "many": "requests_per_minute=20",
    "dear": "tokens_per_minute=100",
    "long": "concurrent_requests=16 tokens_per_minute=1000000",
}
OK, TOO_MANY = http.HTTPStatus.OK, http.HTTPStatus.TOO_MANY_REQUESTS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("limits")
    path = model_directory(folder / "model", byte_level(), context_size=4096)
    keys = folder / "keys"
    keys.write_text("".join(f"{name} {digest(name)} {terms}\n" for name, terms in KEYS.items()))
    models = [{"id": "m", "path": str(path), "engine": "simulated"}]
    config = {"models": models, "api_keys_file": str(keys)}
    with serving(folder, config, "--workers", "2") as server:
        server.wait_ready()
        wait_for(lambda: num_listening(server.url()) == 2, 30)
        yield server


@contextlib.contextmanager
def clients(server: Server, key: str, count: int) -> Iterator[list[Client]]:
    """As many, each with a connection of its own that it has used, on either process."""
    with contextlib.ExitStack() as stack:
        all_of_them = [stack.enter_context(Client(server.url(), key, "m")) for _ in range(count)]
        for client in all_of_them:
            client.get("/health")
        assert all(connections(pid) for pid in (server.process.pid, server.engines()[0].pid))
        yield all_of_them


def test_requests_of_all_count(server: Server) -> None:
    """As many as may are answered, whichever process has them, and what is left is known to each."""
    with clients(server, "many", 40) as asking:
        replies = [client.ask(max_tokens=1) for client in asking]
    assert [reply.status_code for reply in replies] == [OK] * 20 + [TOO_MANY] * 20
    left = [int(reply.headers["x-ratelimit-remaining-requests"]) for reply in replies]
    assert left == [*reversed(range(20)), *[0] * 20]


def test_tokens_of_all_count(server: Server) -> None:
    """A limit that one process has seen used up holds in the other."""
    with clients(server, "dear", 20) as asking:
        spent = asking[0].complete(max_tokens=100, ignore_eos=True)["usage"]["total_tokens"]
        assert spent >= 100
        assert {client.ask(max_tokens=1).status_code for client in asking} == {TOO_MANY}


def begun(client: Client) -> httpx.Response:
    """A stream that goes on for a while, or was refused."""
    body = {"model": "m", "prompt": "hello", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    return client.send(client.build_request("POST", "/v1/completions", json=body), stream=True)


def port_of(response: httpx.Response) -> int:
    """The client's."""
    port: int = response.extensions["network_stream"].get_extra_info("client_addr")[1]
    return port


def test_death_of_a_worker(server: Server) -> None:
    """kill -9: what it had running counts no more, what the other has does; the tokens of this
    minute stay counted."""
    with clients(server, "long", 33) as asking:
        streams = [begun(client) for client in asking[:16]]
        assert {stream.status_code for stream in streams} == {OK}
        refused = asking[32].ask(max_tokens=1)
        assert (refused.status_code, refused.json()["reason"]) == (TOO_MANY, "RATE_LIMIT_EXCEEDED")
        (worker,) = server.engines()
        ports = {one.raddr.port for one in worker.net_connections("tcp") if one.raddr}
        lost = sum(port_of(stream) in ports for stream in streams)
        assert 0 < lost < 16
        worker.kill()
        wait_for(lambda: "ended (signal 9)" in server.said(), 30)
        with contextlib.ExitStack() as stack:
            fresh = [stack.enter_context(Client(server.url(), "long", "m")) for _ in range(lost + 1)]
            more = [begun(client) for client in fresh]
            assert [one.status_code for one in more] == [OK] * lost + [TOO_MANY]
            left = int(more[-1].headers["x-ratelimit-remaining-tokens"])
            assert 1_000_000 - (16 + lost) * 4010 <= left < 1_000_000 - (16 + lost) * 4000
            for one in (*streams, *more):
                one.close()
    wait_for(lambda: num_listening(server.url()) == 2, 30)
