"""The plugin of pytest's, in runs of pytest of its own: what a client team sees."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BEGINNING = """
import json, time, urllib.error, urllib.request
import pytest

def ask(server, **fields):
    body = {"model": server.model, "prompt": "The capital of France is", "max_tokens": 4, **fields}
    headers = {"authorization": f"Bearer {server.key}", "content-type": "application/json"}
    request = urllib.request.Request(f"{server.url}/completions", json.dumps(body).encode(), headers)
    with urllib.request.urlopen(request) as response:
        return json.load(response)
"""
GOOD = """
def test_answers(verbatim_server):
    assert ask(verbatim_server, temperature=0)["choices"][0]["text"].startswith(" Paris")
    (sent,) = verbatim_server.requests()
    assert (sent["status"], json.loads(sent["body"])["temperature"]) == (200, 0)

def test_waits_as_it_is_told(verbatim_server):
    with verbatim_server.fault("status=429 retry_after=1", first=1):
        with pytest.raises(urllib.error.HTTPError) as caught:
            ask(verbatim_server)
        time.sleep(float(caught.value.headers["retry-after"]))
        ask(verbatim_server)
    assert [one["status"] for one in verbatim_server.requests()] == [429, 200]
    assert verbatim_server.verdict()["retry.after"]["state"] == "passed"

def test_faults_end(verbatim_server):
    with verbatim_server.fault("status=503"):
        with pytest.raises(urllib.error.HTTPError):
            ask(verbatim_server)
    ask(verbatim_server, seed=1)

def test_fault_that_is_none(verbatim_server):
    with pytest.raises(ValueError, match='did you mean "status"'):
        with verbatim_server.fault("statos=503"):
            pass

@pytest.mark.verbatim(allow=["request.fields"])
def test_what_is_allowed(verbatim_server):
    ask(verbatim_server, tempreture=1)
"""
BAD = """
def test_hurries(verbatim_server):
    with verbatim_server.fault("status=429 retry_after=2", first=1):
        with pytest.raises(urllib.error.HTTPError):
            ask(verbatim_server)
        ask(verbatim_server)

def test_misspells(verbatim_server):
    ask(verbatim_server, tempreture=1)
"""


def run(folder: Path, tests: str) -> tuple[int, str]:
    (folder / "test_client.py").write_text(BEGINNING + tests)
    plugin = () if _is_installed() else ("-p", "twin.plugin")
    command = [sys.executable, "-m", "pytest", "-q", *plugin, "-p", "no:cacheprovider", "test_client.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=_environ())
    return done.returncode, done.stdout


def _is_installed() -> bool:
    return any(point.value == "twin.plugin" for point in entry_points(group="pytest11"))


def _environ() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT)}


def test_client_that_behaves(tmp_path: Path) -> None:
    """Its tests pass: replies, faults for a while, what was sent, and rules that it may break."""
    code, said = run(tmp_path, GOOD)
    assert (code, said.splitlines()[-1][:8]) == (0, "5 passed"), said


def test_client_that_misbehaves(tmp_path: Path) -> None:
    """Its tests fail at their ends, with the rule, the request and what was wrong."""
    code, said = run(tmp_path, BAD)
    assert code == 1, said
    assert "retry.after (The next attempt comes no earlier than Retry-After says.):" in said
    assert "POST /v1/completions: tempreture is not a field of the contract" in said
    assert "2 passed, 2 errors" in said


@pytest.mark.parametrize("arguments", ["--profile gpu-9", "--config none.yaml"])
def test_server_that_does_not_start(tmp_path: Path, arguments: str) -> None:
    """The tests say so, with what it said."""
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nverbatim_args = {arguments}\n")
    code, said = run(tmp_path, "def test_one(verbatim_server): pass")
    assert code == 1
    assert "verbatim simulate did not start" in said
