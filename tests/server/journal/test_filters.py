"""Which records a filter takes, and what usage adds up."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from server.errors import ConfigurationError
from server.journal.entry import Candidate, Entry, Fault
from server.journal.filters import Filter, time_of
from server.journal.usage import Place, usage_of

NOW = datetime(2026, 11, 27, 13, 0, tzinfo=UTC)


def entry(**fields: Any) -> Entry:
    defaults = {"id": "abc", "time": "2026-11-27T10:00:00.000Z", "key": "anna", "model": "m", "status": 200}
    return Entry(**{**defaults, "total_s": 0.1, **fields})


@pytest.mark.parametrize(
    ("wanted", "fields", "takes"),
    [
        ({}, {}, True),
        ({"since": "2026-11-27T10:00:00.000Z"}, {}, True),
        ({"since": "2026-11-27T10:00:00.001Z"}, {}, False),
        ({"until": "2026-11-27T10:00:00.000Z"}, {}, False),
        ({"until": "2026-11-27T10:00:00.001Z"}, {}, True),
        ({"key": "anna"}, {}, True),
        ({"key": "ann"}, {}, False),
        ({"model": "m"}, {"adapter": "a"}, True),
        ({"model": "a"}, {"adapter": "a"}, True),
        ({"model": "a"}, {}, False),
        ({"id": "ab"}, {}, True),
        ({"id": "bc"}, {}, False),
        ({"status": "429"}, {"status": 429, "reason": "R"}, True),
        ({"status": "4xx"}, {"status": 429, "reason": "R"}, True),
        ({"status": "5xx"}, {"status": 429, "reason": "R"}, False),
        ({"status": "error"}, {"status": 200, "reason": "R"}, True),
        ({"status": "error"}, {"status": 499, "reason": "CLIENT_LEFT", "gone": True}, False),
        ({"status": "ok"}, {"status": 499, "reason": "CLIENT_LEFT", "gone": True}, False),
        ({"status": "ok"}, {}, True),
        ({"finish": "stop"}, {"candidates": [Candidate(1, "length"), Candidate(1, "stop")]}, True),
        ({"finish": "cut_off"}, {"candidates": [Candidate(1)]}, True),
        ({"finish": "stop"}, {}, False),
        ({"faults": True}, {"faults": [Fault(0, 0, "dead", 1.0)]}, True),
        ({"faults": True}, {}, False),
        ({"trace": "4bf9"}, {"trace": "4bf92f35"}, True),
        ({"trace": "4BF9"}, {"trace": "4bf92f35"}, True),
        ({"trace": "2f35"}, {"trace": "4bf92f35"}, False),
        ({"trace": "4bf9"}, {}, False),
    ],
)
def test_a_filter(wanted: dict[str, Any], fields: dict[str, Any], takes: bool) -> None:
    assert Filter(**wanted).takes(entry(**fields)) == takes


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (None, ""),
        ("2026-11-27", "2026-11-27T00:00:00.000Z"),
        ("2026-11-27T13:05", "2026-11-27T13:05:00.000Z"),
        ("2026-11-27T13:05:01.5+02:00", "2026-11-27T11:05:01.500Z"),
        ("90s", "2026-11-27T12:58:30.000Z"),
        ("2h", "2026-11-27T11:00:00.000Z"),
        ("7d", "2026-11-20T13:00:00.000Z"),
    ],
)
def test_a_time(text: str | None, time: str) -> None:
    assert time_of(text, "--since", NOW) == time


@pytest.mark.parametrize("wanted", [{"status": "6xx"}, {"status": "good"}, {"finish": "end"}])
def test_what_is_no_filter(wanted: dict[str, str]) -> None:
    """Is refused with what there is."""
    with pytest.raises(ConfigurationError, match=next(iter(wanted))):
        Filter(**wanted)  # type: ignore[arg-type]


def test_what_is_no_time() -> None:
    with pytest.raises(ConfigurationError, match=r"--until is yesterday; write a day"):
        time_of("yesterday", "--until")


def test_usage() -> None:
    """By day, key and model or adapter; whatever was generated counts, also for a request that failed."""
    tokens = {"prompt_tokens": 10, "completion_tokens": 5}
    found = usage_of(
        [
            entry(**tokens, cached_tokens=4),
            entry(**tokens, status=200, reason="INTERNAL_ERROR"),
            entry(**tokens, status=499, reason="CLIENT_LEFT", gone=True),
            entry(status=429, reason="RATE_LIMIT_EXCEEDED"),
            entry(**tokens, adapter="a"),
            entry(**tokens, time="2026-11-26T23:59:59.999Z"),
            entry(**tokens, key="berta"),
        ]
    )
    assert {place: tuple(total) for place, total in found.items()} == {
        Place("2026-11-26", "anna", "m"): (1, 0, 10, 0, 5),
        Place("2026-11-27", "anna", "a"): (1, 0, 10, 0, 5),
        Place("2026-11-27", "anna", "m"): (4, 2, 30, 4, 15),
        Place("2026-11-27", "berta", "m"): (1, 0, 10, 0, 5),
    }
    assert list(found) == sorted(found)
