"""`verbatim models` beside a server that runs, and without."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.server.test_cli import directory, verbatim

__all__ = ["directory"]
READY = {
    "status": "ready",
    "models": {
        "a": {"phase": "ready", "state": "loaded", "size_bytes": 3 * 2**29, "idle_seconds": 12.4},
        "b": {"phase": "waiting", "state": "unloaded", "waits_before": 1},
    },
}


class Answers(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(503)  # as while models are loaded
        self.end_headers()
        self.wfile.write(json.dumps(READY).encode() if self.path == "/ready" else b"no")

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def port() -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def rows(folder: Path, directory: Path, port: int) -> list[str]:
    models = "".join(f" - {{id: {name}, path: {directory}}}\n" for name in "ab")
    file = folder / "two.yaml"
    file.write_text(f"port: {port}\nmodels:\n{models}")
    result = verbatim("models", "--config", str(file), COLUMNS="300")
    assert result.exit_code == 0
    return [" ".join(line.split()) for line in result.stdout.splitlines()[1:]]


def test_of_a_server_that_runs(tmp_path: Path, directory: Path, port: int) -> None:
    """What is loaded, how large it is and when it was used last; what waits, and behind how many."""
    assert rows(tmp_path, directory, port) == [
        "a auto 64 0 MB loaded, 1.5 GiB, last used 12 s ago",
        "b auto 64 0 MB unloaded, waits behind 1 others",
    ]


def test_without_a_server(tmp_path: Path, directory: Path) -> None:
    """What could be served."""
    assert rows(tmp_path, directory, 1) == [f"{name} auto 64 0 MB ready to serve" for name in "ab"]
