"""The contract's rules (conform/) on the real engine: each holds, and is seen failing where it is broken."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from conform.every import cost, rules
from conform.rules import table
from conform.runner import Outcome, connect, run, try_rule
from conform.subject.client import Client
from conform.subject.rule import Rule
from conform.subject.server import Subject
from tests.conform.mutants import mutant_of
from tests.engine.conftest import KEYS
from tests.serving import ANSWER_S, TINY, VOCAB_SIZE, serving, tiny_model

pytestmark = pytest.mark.engine

RULES = rules()
OTHER_HOUSES = {"stops.left-out", "stream.no-usage-unless-asked"}


@pytest.fixture(scope="module")
def subject(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A server as it is without settings of its own, but for keys."""
    config = {"models": [tiny_model(tiny_path)], "api_keys_file": str(keys_file)}
    with serving(tmp_path_factory.mktemp("plain"), config) as server:
        server.wait_ready()
        key = KEYS["alice"]
        found = connect(server.url(), "hosted", None, key, lambda base: Client(base, key, timeout_s=ANSWER_S))
        yield found
        found.client.close()


def test_what_is_learned(subject: Subject) -> None:
    """The rules know the model, the sizes, and two tokens between which a bias decides: none is skipped."""
    assert (subject.model, subject.context_size, subject.vocab_size) == (TINY, 256, VOCAB_SIZE)
    assert subject.tokens
    assert subject.duel()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_holds(subject: Subject, rule: Rule) -> None:
    """Every rule holds here, but for those of which another house has the opposite."""
    result = try_rule(subject, rule)
    expected = Outcome.DIFFERS if rule.id in OTHER_HOUSES else Outcome.PASSED
    assert (result.outcome, result.seen) == (expected, result.seen)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_rule_is_seen_failing(subject: Subject, rule: Rule) -> None:
    """A server that breaks the rule fails it."""
    if rule.id in OTHER_HOUSES:
        return  # the right server is the one that breaks it
    client = Client(
        subject.client.base, subject.client.key, timeout_s=ANSWER_S, transport=mutant_of(rule.id).transport()
    )
    result = try_rule(replace(subject, client=client), rule)
    client.close()
    assert result.outcome is Outcome.FAILED, result.seen


def test_a_run_keeps_its_budget(subject: Subject) -> None:
    """And takes a part of it, because a request that is refused costs no tokens."""
    chosen = [rule for rule in RULES if not rule.hard]
    client = Client(subject.client.base, subject.client.key, timeout_s=ANSWER_S)
    done = run(replace(subject, client=client), chosen)
    client.close()
    assert done.holds
    assert done.spent.requests <= cost(chosen).requests
    assert done.spent.tokens <= cost(chosen).tokens / 2


def test_words_of_every_refusal(subject: Subject) -> None:
    """The table's words are said for the edges of this model's vocabulary, which the rules have found out."""
    assert any(str(VOCAB_SIZE - 1) in words for _, _, words in table.refused(VOCAB_SIZE))
