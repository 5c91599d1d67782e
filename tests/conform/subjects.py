"""A server that is put to the rules, on whatever engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import httpx

from conform.runner import Outcome, connect, try_rule
from conform.subject.client import Client
from conform.subject.rule import Rule
from conform.subject.server import Subject
from tests.serving import ANSWER_S

# Rules of another profile that contradict the contract.
OPPOSITE = frozenset({"stops.left-out", "stream.no-usage-unless-asked"})


@contextmanager
def subject_at(url: str, key: str, model: str | None = None) -> Iterator[Subject]:
    """What is found and learned there, of the first model or this one."""
    subject = connect(url, "hosted", model, key, lambda base: Client(base, key, timeout_s=ANSWER_S))
    try:
        yield subject
    finally:
        subject.client.close()


@contextmanager
def by_way_of(transport: httpx.BaseTransport | None, subject: Subject) -> Iterator[Subject]:
    """The same server, over another transport and with a budget of its own."""
    client = Client(subject.client.base, subject.client.key, timeout_s=ANSWER_S, transport=transport)
    try:
        yield replace(subject, client=client)
    finally:
        client.close()


def assert_holds(subject: Subject, rule: Rule) -> None:
    result = try_rule(subject, rule)
    expected = Outcome.DIFFERS if rule.id in OPPOSITE else Outcome.PASSED
    assert result.outcome is expected, result.seen
