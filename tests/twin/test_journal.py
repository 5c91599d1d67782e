"""The twin has the journal of the server that it stands for."""

from __future__ import annotations

from pathlib import Path

from server.journal.reading import Reader
from tests.serving import Client, serving


def test_requests_to_the_twin_are_records(tmp_path: Path) -> None:
    """As of `verbatim serve`, to the last one before its end."""
    config = {
        "models": [{"id": "m", "path": "none", "engine": "simulated"}],
        "journal": {"path": "journal", "texts": True},
    }
    with serving(tmp_path, config, "--profile", "none", command="simulate") as server:
        server.wait_ready()
        with Client(server.url(), "any", "m") as client:
            reply = client.complete(n=2, best_of=3, max_tokens=5)
            client.ask(n=0)
        server.process.terminate()
        server.process.wait(60)
    first, second = Reader(tmp_path / "journal")
    assert first.completion_tokens == reply["usage"]["completion_tokens"]
    assert {c.choice: c.text for c in first.candidates if c.choice is not None} == {
        c["index"]: c["text"] for c in reply["choices"]
    }
    assert (second.status, second.reason) == (400, "INVALID_REQUEST_BODY")
