"""A twin and a real engine for all clients, a witness before each, and the findings, which the page tells."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from tests.clients.findings import Findings, Seen
from tests.clients.matrix import KEY, Client
from tests.clients.proxy import nginx
from tests.clients.scenarios import STALL_S, Scenario
from tests.clients.witness import witnessing
from tests.engine.conftest import smol_path, tiny_path
from tests.serving import TINY, serving, tiny_model
from twin.language.store import DATA

__all__ = ["smol_path", "tiny_path"]

MODEL = "a-model"
Meet = Callable[[Client, Scenario], Seen]


@pytest.fixture(scope="session")
def findings() -> Iterator[Findings]:
    found = Findings()
    yield found
    found.write()


@pytest.fixture(scope="session")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("twin")
    config = {"models": [{"id": MODEL, "path": str(DATA), "engine": "simulated"}]}
    with serving(folder, config, "--profile", "none", command="simulate") as server:
        server.wait_ready()
        yield server.url()


@pytest.fixture(scope="session")
def engine(tiny_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("engine"), {"models": [tiny_model(tiny_path)]}) as server:
        server.wait_ready()
        yield server.url()


def meeting(url: str, model: str, folder: Path, client: Client, scenario: Scenario) -> Seen:
    """The client asks there, through a witness."""
    parts = urlsplit(url)
    with witnessing((str(parts.hostname), int(parts.port or 0))) as witness, contextlib.ExitStack() as stack:
        base = (
            stack.enter_context(nginx(folder, witness.url, client.behind)) if client.behind else witness.url
        )
        told = client.run(scenario.ask(f"{base}/v1", KEY, model))
        return Seen.of(told, witness)


def broken_rules(twin: str) -> list[str]:
    """What the twin's verdict holds against the only client that has asked since it forgot."""
    # The program has ended, so that no try can come any more, Retry-After or not.
    patience = {"stall_s": STALL_S / 2, "gives_up_s": -STALL_S}
    verdict = httpx.get(f"{twin}/simulator/verdict", params=patience).json()
    rules = (rule for client in verdict["clients"] for rule in client["rules"])
    return [rule["id"] for rule in rules if rule["state"] == "failed"]


def expected_of(url: str, model: str) -> str:
    """The text that each client is to get."""
    ask = Scenario("", "").ask(url, KEY, model)
    body: dict[str, Any] = {name: ask[name] for name in ("model", "prompt", "max_tokens")} | {
        "temperature": 0
    }
    reply = httpx.post(
        f"{url}/v1/completions", json=body, headers={"authorization": f"Bearer {KEY}"}, timeout=60
    )
    assert reply.status_code == 200, reply.text
    text: str = reply.json()["choices"][0]["text"]
    return text


@pytest.fixture(scope="session")
def twin_text(twin: str) -> str:
    return expected_of(twin, MODEL)


@pytest.fixture(scope="session")
def engine_text(engine: str) -> str:
    return expected_of(engine, TINY)


@pytest.fixture
def meet_twin(twin: str, findings: Findings, tmp_path: Path) -> Meet:
    def meet(client: Client, scenario: Scenario) -> Seen:
        httpx.put(f"{twin}/simulator/faults", json=scenario.faults()).raise_for_status()
        httpx.delete(f"{twin}/simulator/verdict").raise_for_status()
        seen = meeting(twin, MODEL, tmp_path, client, scenario)
        findings.add(client, scenario.name, seen, broken_rules(twin))
        return seen

    return meet


@pytest.fixture
def meet_engine(engine: str, findings: Findings, tmp_path: Path) -> Meet:
    def meet(client: Client, scenario: Scenario) -> Seen:
        seen = meeting(engine, TINY, tmp_path, client, scenario)
        findings.add(client, f"engine-{scenario.name}", seen)
        return seen

    return meet
