"""Clients that misbehave by design, and one that does not, before a served application."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from xml.etree import ElementTree as ET

import httpx
import pytest
import uvicorn

from server.engine.served import ServedModel
from server.http.border import Border
from server.http.connections import Connections
from server.process.port import open_port
from tests.helpers import app_of, running, until
from twin.faults.app import FaultyApp
from twin.faults.listener import FaultyServer
from twin.faults.rules import Faults
from twin.serve import TwinConnection
from twin.verdict.app import WatchedApp
from twin.verdict.eyes import MOST_ATTEMPTS, Eyes, client_of

ASK = {"model": "m", "prompt": "hello", "max_tokens": 8}
PATH = "/v1/completions"


@asynccontextmanager
async def watched(model: ServedModel) -> AsyncIterator[tuple[str, Eyes]]:
    """As the simulator serves, on a free port."""
    app, faults, eyes = app_of(model), Faults(), Eyes()
    state = app.state.server
    connections = Connections(state.settings, state.metrics, 1000)
    config = uvicorn.Config(
        WatchedApp(FaultyApp(app, faults, state), eyes, partial(Border, state=state)),
        http=partial(TwinConnection, connections=connections, faults=faults, eyes=eyes),  # type: ignore[arg-type]
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=5,
    )
    server = FaultyServer(config, faults=faults)
    with open_port("127.0.0.1", 0, 0) as listener:
        async with running(app):
            serving = asyncio.create_task(server.serve([listener]))
            await until(lambda: server.started)
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}", eyes
            finally:
                server.end()
                await serving


def client(url: str, case: str) -> httpx.AsyncClient:
    headers = {"authorization": "Bearer k", "x-verbatim-case": case}
    return httpx.AsyncClient(base_url=url, headers=headers, timeout=10)


async def verdict(url: str, case: str, **query: Any) -> dict[str, tuple[str, list[str]]]:
    async with httpx.AsyncClient(base_url=url) as asking:
        answer = (await asking.get("/simulator/verdict", params={"client": case, **query})).json()
    (found,) = answer["clients"]
    return {one["id"]: (one["state"], [a["what"] for a in one["against"]]) for one in found["rules"]}


async def test_client_that_hurries(model: ServedModel) -> None:
    """It tries what is final again, comes back before it is told to, and again and again."""
    async with watched(model) as (url, _), client(url, "hurries") as asking:
        for fault in ("status=404", "status=429 retry_after=2", *["status=500"] * 7):
            body = ASK | {"user": fault}
            for _ in range(2 if "500" not in fault else 1):
                await asking.post(PATH, json=body, headers={"x-verbatim-fault": fault})
        found = await verdict(url, "hurries")
    broken = {name for name, (state, _) in found.items() if state == "failed"}
    assert broken == {"retry.final", "retry.after", "retry.backoff", "retry.storm"}
    assert found["retry.after"][1][0].endswith("after a 429 that said 2 s")
    assert found["retry.busy"][0] == "passed"


async def test_client_that_is_careless(model: ServedModel) -> None:
    """Its key is in the query, its fields are misspelt, it connects anew for each request, and sends one
    again of which a part has come."""
    async with watched(model) as (url, _):
        for number in range(6):
            async with client(url, "careless") as asking:
                await asking.post(PATH, json=ASK | {"tempreture": number}, params={"api_key": "secret"})
        begun = ASK | {"stream": True}
        async with client(url, "careless") as asking:
            with pytest.raises(httpx.RemoteProtocolError):
                await asking.post(PATH, json=begun, headers={"x-verbatim-fault": "cut_after_tokens=2"})
            await asking.post(PATH, json=begun)
        found = await verdict(url, "careless")
        async with httpx.AsyncClient(base_url=url) as asking:
            requests = (await asking.get("/simulator/requests")).text
    broken = {name for name, (state, _) in found.items() if state == "failed"}
    assert broken == {"request.key-in-header", "request.fields", "connection.reuse", "retry.after-first-byte"}
    assert found["request.fields"][1][0] == "tempreture is not a field of the contract"
    assert "secret" not in requests


async def test_client_that_does_not_read(model: ServedModel) -> None:
    """It closes the connection with a reply in its hands, and waits without end over a stall."""
    async with watched(model) as (url, eyes):
        port = int(url.rsplit(":", 1)[1])
        body = json.dumps(ASK).encode()
        head = f"POST {PATH} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer k\r\nx-verbatim-case: deaf\r\n"
        sent = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(sent)
            await until(lambda: bool(eyes.attempts("deaf")) and eyes.attempts("deaf")[0].is_complete)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await until(lambda: eyes.attempts("deaf")[0].is_unread)
        async with client(url, "deaf") as asking:
            await asking.post(PATH, json=ASK, headers={"x-verbatim-fault": "stall=1s"})
        found = await verdict(url, "deaf", stall_s=0.8)
    broken = {name for name, (state, _) in found.items() if state == "failed"}
    assert broken == {"read.whole", "wait.timeout"}


async def test_client_that_behaves(model: ServedModel) -> None:
    """Nothing is against it, and what was not tried is not said to be kept."""
    async with watched(model) as (url, _), client(url, "behaves") as asking:
        answer = await asking.post(PATH, json=ASK, headers={"x-verbatim-fault": "status=429 retry_after=1"})
        await asyncio.sleep(float(answer.headers["retry-after"]))
        for k in range(5):
            assert (await asking.post(PATH, json=ASK | {"seed": k, "stream": k % 2 == 0})).status_code == 200
        assert (await asking.post(PATH, json=ASK)).status_code == 200
        found = await verdict(url, "behaves")
        states = {name: state for name, (state, _) in found.items()}
    assert "failed" not in states.values()
    kept = {name for name, state in states.items() if state == "passed"}
    assert kept >= {"retry.busy", "retry.after", "read.to-done", "read.whole", "connection.reuse"}
    assert states["wait.timeout"] == "not tried"


async def test_forms(model: ServedModel) -> None:
    """JSON, JUnit and a page; what is not known is a 400; and what was seen can be forgotten."""
    async with watched(model) as (url, _), client(url, "<c>") as asking:
        await asking.post(PATH, json=ASK | {"x": 1})
        junit = await asking.get("/simulator/verdict", params={"format": "junit"})
        (suite,) = ET.fromstring(junit.text)  # noqa: S314  # our own
        assert (suite.get("failures"), junit.headers["content-type"]) == ("1", "application/xml")
        page = await asking.get("/simulator/verdict", headers={"accept": "text/html"})
        assert "&lt;c&gt;" in page.text
        for path in ("verdict?format=pdf", "verdict?stall_s=x", "requests?case=x"):
            refused = await asking.get(f"/simulator/{path}")
            assert (refused.status_code, refused.json()["reason"]) == (400, "INVALID_REQUEST_BODY")
        assert (await asking.post("/simulator/verdict")).status_code == 405
        assert not (await asking.get("/simulator/verdict")).json()["holds"]
        assert (await asking.delete("/simulator/verdict")).json() == {"holds": True, "clients": []}


def test_what_is_kept_is_bounded() -> None:
    """The oldest requests are forgotten."""
    eyes = Eyes()
    for _ in range(MOST_ATTEMPTS + 5):
        eyes.came(1, "GET", "/", "", {})
    assert [one.number for one in eyes.attempts()][:1] == [6]
    assert len(eyes.attempts()) == MOST_ATTEMPTS


def test_client_is_a_case_or_a_key() -> None:
    """A key is shown by a digest alone."""
    assert client_of({"x-verbatim-case": "login", "authorization": "Bearer a"}) == "login"
    name = client_of({"authorization": "Bearer a"})
    assert name.startswith("key-")
    assert name != client_of({"authorization": "Bearer b"})
    assert client_of({}) == "anonymous"


async def test_client_that_asks_before_it_sends(model: ServedModel) -> None:
    """And one that wants the head alone: the replies are what they are."""
    async with watched(model) as (url, eyes), client(url, "asks") as asking:
        await asking.post(PATH, json=ASK, headers={"expect": "100-continue"})
        await asking.head("/v1/models")
        await until(lambda: all(one.is_complete for one in eyes.attempts("asks")))
    assert [one.status for one in eyes.attempts("asks")] == [200, 200]
