"""A server whose log is JSON, as it is started, and as its log is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.serving import Client, Server, serving, wait_for


def lines(server: Server) -> list[dict[str, Any]]:
    """Each line that is complete; fails for one that is no JSON."""
    return [json.loads(line) for line in server.said().splitlines(keepends=True) if line.endswith("\n")]


def named(server: Server, name: str, num: int = 1) -> list[dict[str, Any]]:
    """The events of that name, once there are so many."""
    wait_for(lambda: sum(line["event"] == name for line in lines(server)) >= num, 30)
    return [line for line in lines(server) if line["event"] == name]


@pytest.mark.parametrize("workers", [1, 2])
def test_every_line_is_an_event(directory: Path, tmp_path: Path, workers: int) -> None:
    """Standard output and standard error together are lines of JSON, from the start to the end: where it
    listens, each request, and that it has stopped."""
    models = [{"id": "m", "path": str(directory), "engine": "simulated"}]
    config = {"models": models, "workers": workers, "log_format": "text"}
    with serving(tmp_path, config, "--log-format", "json") as server:
        url = named(server, "server.listens")[0]["url"]
        named(server, "server.ready")
        with Client(url, "key", "m") as client:
            client.complete(max_tokens=2, prompt="hello")
            client.ask(max_tokens=-1)
        first, second = sorted(named(server, "request", 2), key=lambda line: line["status"])
    assert (first["status"], first["model"], first["completion_tokens"]) == (200, "m", 2)
    assert (second["status"], second["reason"]) == (400, "INVALID_REQUEST_BODY")
    assert all({"time", "level", "event", "message", "pid"} <= line.keys() for line in lines(server))
    names = [line["event"] for line in lines(server)]
    assert {"engine.phase", "server.drains", "server.stopped"} <= {*names}
    assert "other" not in names


def test_a_reload_changes_it(directory: Path, tmp_path: Path) -> None:
    """From the next line on."""
    config = {"models": [{"id": "m", "path": str(directory), "engine": "simulated"}]}
    with serving(tmp_path, config) as server:
        server.wait_ready()
        text = (tmp_path / "models.yaml").read_text()
        (tmp_path / "models.yaml").write_text(text + "log_format: json\n")
        server.process.send_signal(1)
        wait_for(lambda: '"event": "configuration.asked"' in server.said(), 30)
