"""One server for all tests of this directory: the built-in model and a tiny one, each on a real engine."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.weights.builtin import builtin_path
from tests.engine.reference import Reference
from tests.serving import (
    ANSWER_S,
    BROKEN_ID,
    CAPITAL,
    ON_GPU,
    SMOL,
    SMOL_MODEL,
    TINY,
    Client,
    Server,
    serving,
    tiny_model,
)

KEYS = {
    "alice": "key-of-alice",
    "bob": "key-of-bob",  # may not use the tiny model
    "carol": "key-of-carol",  # expired
}


@dataclass
class Started:
    """The server, and what was seen while it started. first_s, second_s: the first with logprobs."""

    server: Server
    url: str
    health_status: int
    while_loading: httpx.Response
    answers: list[dict[str, Any]]
    first_s: float
    second_s: float


@pytest.fixture(scope="session")
def smol_path() -> Path:
    """The built-in model, prepared by `make setup` or now, in a process of its own: it imports torch."""
    subprocess.run([sys.executable, "-m", "server.weights.builtin"], check=True)
    return builtin_path(SMOL)


@pytest.fixture(scope="session")
def tiny_path(smol_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _tiny(tmp_path_factory.mktemp("tiny-llama"), smol_path)


@pytest.fixture(scope="session")
def broken_path(smol_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model of which one token makes NaN."""
    return _tiny(tmp_path_factory.mktemp("broken-llama"), smol_path, broken_id=BROKEN_ID)


def _tiny(path: Path, tokenizer_from: Path, **options: int) -> Path:
    """In a process of its own: it imports torch."""
    call = f"make_tiny_llama(Path({str(path)!r}), Path({str(tokenizer_from)!r}), **{options!r})"
    code = f"from tests.tiny_llama import *; {call}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    return path


@pytest.fixture(scope="session")
def keys_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("keys") / "api-keys.txt"
    lines = [f"{name} {hashlib.sha256(key.encode()).hexdigest()}" for name, key in KEYS.items()]
    file.write_text("\n".join(lines) + " expires=2020-01-01\n")  # the last one's
    return file


def configuration(tiny_path: Path, keys_file: Path) -> dict[str, Any]:
    tiny = tiny_model(
        tiny_path,
        title="Tiny",
        description="Random weights.",
        strict_fields=True,
        include_stop_text=False,
        suffix_template="<suf>{suffix}<pre>{prefix}",
        limits={"n": 4, "best_of": 8, "stop": 6, "prompts": 3, "candidates": 16},
        defaults={"max_tokens": 5, "temperature": 0},
        best_of={"give_up": False},
        allowed_keys=["alice"],
    )
    return {
        "models": [SMOL_MODEL, tiny],
        "api_keys_file": str(keys_file),
        "max_body_bytes": 1_000_000,
    }


def watched(server: Server) -> Started:
    """Asked while it starts and when it is ready."""
    url = server.url()
    health = httpx.get(url + "/health", timeout=ANSWER_S)
    with Client(url, KEYS["alice"]) as client:
        while_loading = client.ask()
        answers = server.wait_ready()
        times = [time.monotonic()]
        for _ in range(2):
            client.choice(prompt=CAPITAL, max_tokens=4, logprobs=5)
            times.append(time.monotonic())
    return Started(
        server,
        url,
        health.status_code,
        while_loading,
        answers,
        times[1] - times[0],
        times[2] - times[1],
    )


@pytest.fixture(scope="session")
def started(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    with serving(tmp_path_factory.mktemp("server"), configuration(tiny_path, keys_file)) as server:
        yield watched(server)
        if server.process.poll() is not None or " ERROR " in server.said():
            print(f"--- the server's log:\n{server.said()}")


@pytest.fixture(scope="session")
def client(started: Started) -> Iterator[Client]:
    with Client(started.url, KEYS["alice"]) as client:
        yield client


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """With a GPU, the tests of this directory are tests of the CUDA engine: `pytest -m gpu` runs them too."""
    if ON_GPU:
        for item in items:
            if item.path.parent == Path(__file__).parent:
                item.add_marker(pytest.mark.gpu)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """A test that failed shows what the server said last."""
    report = yield
    started = getattr(item, "funcargs", {}).get("started")
    if report.when == "call" and report.failed and started is not None:
        report.sections.append(("the server's log, its end", started.server.said()[-4000:]))
    return report


@pytest.fixture(scope="session")
def references(smol_path: Path, tiny_path: Path) -> dict[str, Reference]:
    return {SMOL: Reference(smol_path), TINY: Reference(tiny_path)}
