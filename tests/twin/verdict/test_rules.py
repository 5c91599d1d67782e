"""Each rule on a client that keeps it, one that breaks it, and one that has not come near it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from twin.verdict.attempt import Attempt
from twin.verdict.rules import RULES, Log, Patience, State, rule

NOW = 1000.0
NUMBERS = itertools.count(1)


def attempt(came: float, status: int = 200, lasts: float | None = 0.1, **fields: Any) -> Attempt:
    """One of the same request on connection 1. lasts: until it is sent whole; None: it is not."""
    made = Attempt(
        number=next(NUMBERS),
        came=came,
        wall_time=0.0,
        client="c",
        connection=fields.pop("connection", 1),
        method="POST",
        path=fields.pop("path", "/v1/completions"),
        query=fields.pop("query", ""),
        headers=fields.pop("headers", {"authorization": "…"}),
        fingerprint=fields.pop("fingerprint", "f"),
    )
    made.status, made.num_body_bytes = status, 10
    if lasts is not None:
        made.first_byte = made.last_byte = came + lasts
        made.is_complete = True
    for name, value in fields.items():
        setattr(made, name, value)
    return made


def begun(came: float, cut: float, **fields: Any) -> Attempt:
    """A stream of which a part has come, until this side cut it."""
    return attempt(came, lasts=None, is_stream=True, cut=cut, first_byte=came, last_byte=came, **fields)


BUSY = {"status": 429, "retry_after_s": 2.0}
LIMITS = Patience(stall_s=5, gives_up_s=10, most_tries=3)
KEPT: dict[str, list[Attempt]] = {
    "retry.final": [attempt(0, 400), attempt(5, 400, fingerprint="another")],
    "retry.busy": [attempt(0, **BUSY), attempt(3)],
    "retry.after": [attempt(0, **BUSY), attempt(2.2)],
    "retry.backoff": [attempt(0, 500), attempt(0.5, 500), attempt(1.6, 500), attempt(4)],
    "retry.storm": [attempt(0, 500), attempt(1, 500), attempt(3)],
    "retry.after-first-byte": [begun(0, 1), attempt(2, says_retry=True)],
    "read.to-done": [attempt(0, is_stream=True, has_finished=True, is_done=True)],
    "read.whole": [attempt(0)],
    "wait.timeout": [attempt(0, lasts=None, left=4.0)],
    "cancel.closes": [attempt(0, lasts=None, left=3.0), attempt(4, connection=2)],
    "connection.reuse": [attempt(k, fingerprint=str(k)) for k in range(6)],
    "request.fields": [attempt(0)],
    "request.key-in-header": [attempt(0)],
}
BROKEN: dict[str, list[Attempt]] = {
    "retry.final": [attempt(0, 404), attempt(5, 404)],
    "retry.busy": [attempt(0, **BUSY)],
    "retry.after": [attempt(0, **BUSY), attempt(1)],
    "retry.backoff": [attempt(0, 500), attempt(0.2, 500), attempt(0.4, 500), attempt(0.6)],
    "retry.storm": [attempt(k, 500) for k in range(5)],
    "retry.after-first-byte": [begun(0, 1), attempt(2)],
    "read.to-done": [attempt(0, lasts=None, is_stream=True, has_finished=True, left=1.0, last_byte=0.9)],
    "read.whole": [attempt(0, is_unread=True)],
    "wait.timeout": [attempt(NOW - 100, lasts=90)],
    "cancel.closes": [attempt(0, lasts=None), attempt(4, connection=2)],
    "connection.reuse": [attempt(k, fingerprint=str(k), connection=k) for k in range(6)],
    "request.fields": [attempt(0, problems=["tempreture is not a field of the contract"])],
    "request.key-in-header": [attempt(0, headers={"x-api-key": "…"}), attempt(0, query="api_key=…")],
}
ALL = [one.id for one in RULES]


def found(name: str, attempts: list[Attempt]) -> State:
    (one,) = (one for one in RULES if one.id == name)
    return one.judge(Log(attempts, NOW, LIMITS)).state


@pytest.mark.parametrize("name", ALL)
def test_rule_that_is_kept(name: str) -> None:
    """It was put to the test, and nothing is against it."""
    for one in KEPT[name]:
        one.longest_pause_s = one.longest_pause_s or 0.1
    assert found(name, KEPT[name]) is State.PASSED


@pytest.mark.parametrize("name", ALL)
def test_rule_that_is_broken(name: str) -> None:
    """By the request that did."""
    if name == "wait.timeout":
        BROKEN[name][0].longest_pause_s = 90
    assert found(name, BROKEN[name]) is State.FAILED


@pytest.mark.parametrize("name", ALL)
def test_rule_that_nothing_was_about(name: str) -> None:
    """It is not said to be kept."""
    assert found(name, []) is State.NOT_TRIED


def test_every_rule_has_a_sentence() -> None:
    """And an id of its own."""
    assert len(set(ALL)) == len(ALL) == len(KEPT) == len(BROKEN)
    assert all(one.statement.endswith((".", ": its tokens are paid for twice.")) for one in RULES)
    assert callable(rule("x"))


def test_same_request_much_later_is_no_retry() -> None:
    """It is another request, which happens to be equal."""
    assert found("retry.final", [attempt(0, 404), attempt(200, 404)]) is State.PASSED


def test_busy_may_still_be_tried_again() -> None:
    """Before its time is up nothing is said."""
    assert found("retry.busy", [attempt(NOW - 5, **BUSY)]) is State.NOT_TRIED


def test_parallel_requests_need_several_connections() -> None:
    """Only those that follow each other could share one."""
    parallel = [attempt(0, connection=k, lasts=5, fingerprint=str(k)) for k in range(10)]
    assert found("connection.reuse", parallel) is State.NOT_TRIED


def test_connections_that_faults_have_ended_are_no_habit() -> None:
    """Nor those that the server has cut."""
    ended = [attempt(k, connection=k, fault="no_done", fingerprint=str(k)) for k in range(8)]
    assert found("connection.reuse", ended) is State.NOT_TRIED


def test_long_wait_for_a_reply_is_no_stall() -> None:
    """A whole reply of many tokens takes that long; unless a fault has made it."""
    assert found("wait.timeout", [attempt(0, lasts=90)]) is State.NOT_TRIED
    assert found("wait.timeout", [attempt(0, lasts=None)]) is State.NOT_TRIED
    assert found("wait.timeout", [attempt(0, lasts=90, fault="stall=90s")]) is State.FAILED
    assert found("wait.timeout", [attempt(0, lasts=None, fault="stall=90s")]) is State.FAILED


def test_chat_has_fields_of_its_own() -> None:
    """The contract is about completions."""
    chat = attempt(0, path="/v1/chat/completions", problems=["messages is not a field of the contract"])
    assert found("request.fields", [chat]) is State.NOT_TRIED
