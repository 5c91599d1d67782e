"""contract.md's errors: envelope, keys, routes and sizes; and limits, on a server without an engine."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.conftest import KEYS, Started
from tests.serving import CAPITAL, SIMULATED_MODEL, SMOL, TINY, Client, serving, wait_for

pytestmark = pytest.mark.engine

BODY = {"model": SMOL, "prompt": CAPITAL, "max_tokens": 1}


@pytest.fixture(scope="module")
def small(smol_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with low limits, whose engine invents its tokens, 10 ms each."""
    config = {
        "models": [SIMULATED_MODEL],
        "api_keys_file": str(keys_file),
        "error_format": "flat",
        "request_timeout_s": 1.5,
        "max_pending": 4,
        "rate_limits": {"requests_per_minute": 0, "tokens_per_minute": 2000},
    }
    with serving(tmp_path_factory.mktemp("small"), config) as server:
        server.wait_ready()
        with Client(server.url(), KEYS["alice"]) as client:
            yield client


@pytest.mark.parametrize(
    ("authorization", "reason"),
    [
        (None, "INVALID_API_KEY"),
        ("", "INVALID_API_KEY"),
        ("Bearer", "INVALID_API_KEY"),
        (KEYS["alice"], "INVALID_API_KEY"),
        ("Basic a2V5", "INVALID_API_KEY"),
        (f"Bearer {KEYS['alice']} x", "INVALID_API_KEY"),
        ("Bearer wrong", "FAILED_TO_AUTH"),
        (f"Bearer {KEYS['alice']}x", "FAILED_TO_AUTH"),
        (f"Bearer {KEYS['carol']}", "FAILED_TO_AUTH"),
    ],
)
@pytest.mark.parametrize("path", ["/v3/openai/completions", "/v1/models"])
def test_request_without_a_valid_key_is_a_401(
    started: Started, path: str, authorization: str | None, reason: str
) -> None:
    """A header that is missing or malformed is told from a key that is wrong or expired."""
    headers = {} if authorization is None else {"authorization": authorization}
    method = "GET" if path.endswith("models") else "POST"
    response = httpx.request(method, started.url + path, headers=headers, json=BODY)
    body = response.json()
    assert (response.status_code, body["code"], body["reason"]) == (401, 401, reason)
    assert KEYS["carol"] not in response.text


@pytest.mark.parametrize("path", ["/health", "/ready", "/metrics", "/openapi.json", "/docs"])
def test_operations_need_no_key(started: Started, path: str) -> None:
    """Probes, scrapers and readers of the documentation have none."""
    assert httpx.get(started.url + path).status_code == 200


def test_key_that_may_not_use_the_model_is_a_403(started: Started) -> None:
    """allowed_keys of the model decides, and other models are not concerned."""
    with Client(started.url, KEYS["bob"]) as bob:
        response = bob.ask(model=TINY)
        assert (response.status_code, response.json()["reason"]) == (403, "ACCESS_DENY")
        assert bob.complete(max_tokens=1)


def test_large_body_is_a_413(client: Client) -> None:
    """Over the configured size; below it the contract decides."""
    response = client.ask(prompt="x" * 1_000_000)
    assert (response.status_code, response.json()["reason"]) == (413, "REQUEST_TOO_LARGE")
    assert client.ask(prompt="x" * 900_000, max_tokens=0).status_code == 400


@pytest.mark.parametrize("how", ["content-length: 5000000000", "transfer-encoding: chunked"])
def test_large_body_is_refused_before_it_is_read_whole(started: Started, how: str) -> None:
    """By its announced length, or as soon as it is over the limit."""
    head = (
        f"POST /v1/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEYS['alice']}\r\n{how}\r\n\r\n"
    )
    with _connect(started.url) as connection:
        connection.sendall(head.encode())
        if "chunked" in how:
            # Hardly over the limit: bytes that the server has not read would reset the connection.
            connection.sendall((b"10000\r\n" + b"x" * 0x10000 + b"\r\n") * 15)
            connection.sendall(b"5000\r\n" + b"x" * 0x5000 + b"\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode()  # up to its end: it closes
    assert answer.startswith("HTTP/1.1 413 ")
    assert "REQUEST_TOO_LARGE" in answer


def test_loading_model_is_a_503_with_retry_after(started: Started) -> None:
    """The port is open before the engine can answer; the client is told to come back."""
    response = started.while_loading
    assert (response.status_code, response.json()["reason"]) == (503, "SERVICE_NOT_AVAILABLE")
    assert 0 < int(response.headers["retry-after"]) <= 60


def test_flat_error_format_leaves_the_object_out(small: Client) -> None:
    """For clients that compare whole bodies."""
    assert set(small.ask(temperature=9).json()) == {"code", "reason", "message", "metadata"}


def test_full_queue_is_a_503_with_retry_after(small: Client) -> None:
    """More candidates than max_pending are refused, not queued."""

    def fill() -> None:
        """Until its deadline; it is refused itself while the other one runs."""
        while small.ask(n=4, max_tokens=300, ignore_eos=True).status_code == 503:
            pass

    def refused() -> httpx.Response | None:
        response = small.ask(max_tokens=1)
        return response if response.status_code == 503 else None

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fill)
        response = wait_for(refused, 30)
        assert response.json()["reason"] == "SERVICE_NOT_AVAILABLE"
        assert 0 < int(response.headers["retry-after"]) <= 60


def test_deadline_is_a_504(small: Client) -> None:
    """request_timeout_s ends a request that takes longer."""
    response = small.ask(max_tokens=1000, ignore_eos=True)
    assert (response.status_code, response.json()["reason"]) == (504, "TIMEOUT")


def test_deadline_in_a_stream_is_one_error_frame(small: Client) -> None:
    """The status has been sent: the flat error with an error object, then [DONE]."""
    *chunks, failure, done = small.ask(max_tokens=1000, ignore_eos=True, stream=True).text.split("\n\n")[:-1]
    assert chunks
    assert failure.startswith('data: {"code":504,"reason":"TIMEOUT"')
    assert '"error":{' in failure
    assert done == "data: [DONE]"


def test_tokens_per_minute_are_limited_by_key(small: Client) -> None:
    """The request that crosses the limit is answered, the next one is a 429; other keys go on."""
    with Client(str(small.base_url), KEYS["bob"]) as bob:
        answers = [bob.ask(prompt=[5] * 1500, max_tokens=1) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        response = answers[2]
        assert (response.status_code, response.json()["reason"]) == (429, "TOKEN_LIMIT_EXCEEDED")
        assert 0 < int(response.headers["retry-after"]) <= 60
    small.complete(max_tokens=1)


def test_requests_per_minute_are_limited_by_key(smol_path: Path, tmp_path: Path) -> None:
    """Three are answered, the fourth is a 429."""
    limits: dict[str, Any] = {"rate_limits": {"requests_per_minute": 3}}
    with serving(tmp_path, {"models": [SIMULATED_MODEL], **limits}) as server:
        server.wait_ready()
        with Client(server.url(), "any") as client:
            answers = [client.ask(max_tokens=1) for _ in range(4)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[3].json()["reason"] == "RATE_LIMIT_EXCEEDED"
    assert 0 < int(answers[3].headers["retry-after"]) <= 60


def _connect(url: str) -> socket.socket:
    parts = httpx.URL(url)
    assert parts.port is not None
    return socket.create_connection((parts.host, parts.port), timeout=30)
