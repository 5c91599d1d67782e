"""The twin's models that come and go, and its adapters: as a client and an operator see them."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from server.access.keys import digest
from tests.server.test_cli import verbatim
from tests.serving import Server, serving, wait_for

KEY = {"authorization": "Bearer boss"}
FLAGS = ("--profile", "none", "--load-s", "0.5")


@pytest.fixture(scope="module")
def twin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Of production's models.yaml, without production's files. a and b share memory for one of them; a has an
    adapter, which one key may use."""
    folder = tmp_path_factory.mktemp("twin")
    (folder / "keys").write_text(f"boss {digest('boss')} roles=infer,admin\nother {digest('other')}\n")
    ones: list[dict[str, Any]] = [
        {"id": name, "path": str(folder / "not-here"), "load": "on_demand", "size_gib": 4} for name in "ab"
    ]
    ones[0]["adapters"] = [{"id": "a-tuned", "path": str(folder / "not-here"), "allowed_keys": ["boss"]}]
    ones.append({"id": "c", "path": str(folder / "not-here")})
    groups = {"g": {"models": ["a", "b"], "memory_gib": 4, "min_loaded_s": 0}}
    config = {"models": ones, "groups": groups, "api_keys_file": str(folder / "keys")}
    with serving(folder, config, *FLAGS, command="simulate") as server:
        server.wait_ready()
        yield server


def ask(twin: Server, model: str, key: str = "boss", **fields: Any) -> httpx.Response:
    body = {"model": model, "prompt": "The capital of France is", "max_tokens": 4, "temperature": 0, **fields}
    headers = {"authorization": f"Bearer {key}"}
    return httpx.post(f"{twin.url()}/v1/completions", json=body, headers=headers, timeout=30)


def put(twin: Server, model: str, state: str) -> httpx.Response:
    return httpx.put(f"{twin.url()}/v1/models/{model}/state", json={"state": state}, headers=KEY)


def states(twin: Server) -> dict[str, str]:
    models = httpx.get(f"{twin.url()}/ready").json()["models"]
    return {name: one["state"] for name, one in models.items()}


def test_one_makes_room_for_the_other(twin: Server) -> None:
    """A request waits for its model, whose load takes the time that is set, and the other one leaves."""
    put(twin, "b", "unloaded")
    wait_for(lambda: states(twin)["b"] == "unloaded", 30)
    first = ask(twin, "a")
    assert states(twin) == {"a": "loaded", "b": "unloaded", "c": "loaded"}
    second = ask(twin, "b")
    assert second.elapsed.total_seconds() > 0.5
    assert second.json()["choices"] == first.json()["choices"]
    assert states(twin) == {"a": "unloaded", "b": "loaded", "c": "loaded"}


def test_an_operator(twin: Server) -> None:
    """Loads one before it is asked for, and unloads it; nothing of the twin's sleeps."""
    assert put(twin, "a", "loaded").status_code == 202
    wait_for(lambda: states(twin)["a"] == "loaded", 30)
    assert put(twin, "a", "loaded").status_code == 200
    asleep = put(twin, "a", "asleep")
    assert (asleep.status_code, 'use "unloaded"' in asleep.json()["message"]) == (400, True)
    assert put(twin, "c", "unloaded").status_code == 202
    wait_for(lambda: states(twin)["c"] == "unloaded", 30)
    assert ask(twin, "c").status_code == 503
    put(twin, "c", "loaded")
    wait_for(lambda: states(twin)["c"] == "loaded", 30)


def test_verbatim_models(twin: Server) -> None:
    """Shows what the twin has loaded, of models whose files are not here."""
    put(twin, "a", "loaded")
    wait_for(lambda: states(twin) == {"a": "loaded", "b": "unloaded", "c": "loaded"}, 30)
    file = twin.log.with_name("models.yaml")
    port = twin.url().rpartition(":")[2]
    file.with_name("here.yaml").write_text(file.read_text().replace("port: 0", f"port: {port}"))
    result = verbatim("models", "--config", str(file.with_name("here.yaml")), COLUMNS="300")
    rows = [" ".join(line.split()) for line in result.stdout.splitlines()[1:]]
    assert rows[0].startswith("a auto ? ? loaded, 4.0 GiB")
    assert rows[1].startswith("b auto ? ? unloaded, 4.0 GiB")
    assert rows[2] == "c auto ? ? loaded"


def test_an_adapter(twin: Server) -> None:
    """Has an id of its own in the list, for the keys that may use it, and says what its model says."""
    listed = httpx.get(f"{twin.url()}/v1/models", headers=KEY).json()["data"]
    assert [(one["id"], one.get("parent")) for one in listed][:2] == [("a", None), ("a-tuned", "a")]
    assert httpx.get(f"{twin.url()}/v1/models/a", headers=KEY).json()["adapters"] == ["a-tuned"]
    reply = ask(twin, "a-tuned")
    assert reply.json()["model"] == "a-tuned"
    assert reply.json()["choices"] == ask(twin, "a").json()["choices"]
    assert ask(twin, "a-tuned", key="other").status_code == 403
    assert ask(twin, "a", key="other").status_code == 200


def test_what_is_not_done_to_an_adapter(twin: Server) -> None:
    """Its state is its model's, and the twin's adapters are those of its start."""
    refused = put(twin, "a-tuned", "loaded")
    assert (refused.status_code, "/v1/models/a/state" in refused.json()["message"]) == (400, True)
    url = f"{twin.url()}/v1/models/a/adapters/new"
    refused = httpx.put(url, json={"path": "/new"}, headers=KEY)
    assert (refused.status_code, "with a restart" in refused.json()["message"]) == (400, True)


def test_a_shutdown_waits_for_a_model_that_is_asked_for(tmp_path: Path) -> None:
    """Its request was there before, and has its answer."""
    config = {"models": [{"id": "a", "path": str(tmp_path / "not-here"), "load": "on_demand"}]}
    flags = ("--profile", "none", "--load-s", "3")
    with serving(tmp_path, config, *flags, command="simulate") as twin, ThreadPoolExecutor(1) as pool:
        twin.wait_ready()
        asked = pool.submit(ask, twin, "a")
        wait_for(lambda: states(twin)["a"] == "loading", 30)
        twin.process.send_signal(signal.SIGTERM)
        assert asked.result().status_code == 200
        assert twin.process.wait(30) == 0
