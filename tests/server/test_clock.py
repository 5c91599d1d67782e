"""The time of day, which people set back and forward, measures nothing here."""

from __future__ import annotations

import ast
import time

import pytest

from server.contract.params import GenerationParams
from server.engine.base import Job
from server.engine.vllm.translate import core_request
from tests.test_layering import ORDER, tree_of

# Whoever asks for it, and for what.
ASKS = {
    "server.access.keys": "the day on which a key expires",
    "server.commands.check": "whether a certificate has expired",
    "server.engine.losses": "when a fault was, on the status page",
    "server.engine.served": "`created` of a model",
    "server.http.expiry": "the day on which a certificate expires",
    "server.http.records": "when a request came, in the journal",
    "server.http.routes": "`created` of a reply",
    "server.journal.filters": "since when records are wanted",
    "server.observe.attestation": "when weights were verified",
    "server.observe.tracing": "when spans were, for a collector",
}
JOB = Job("a", "a", [5], GenerationParams(), (2,), max_tokens=7, seed=9, num_logprobs=None)
WALL_CLOCKS = {("time", "time"), ("time", "time_ns"), ("datetime", "now"), ("date", "today")}


def asks(module: str) -> bool:
    names = {
        (node.value.id, node.attr)
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    imported = {
        alias.name
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and node.module == "time"
        for alias in node.names
    }
    return bool(names & WALL_CLOCKS or imported & {"time", "time_ns"})


def test_durations_are_of_the_monotonic_clock() -> None:
    """Only what shows a date to somebody asks for it."""
    assert {module for module in ORDER if module.startswith("server.") and asks(module)} == set(ASKS)


def test_order_of_arrival_outlives_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM's queue serves the earlier one first, also when the clock was set back between the two."""
    first = core_request(JOB).arrival_time
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert core_request(JOB).arrival_time >= first
