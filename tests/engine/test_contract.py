"""The contract's rules (conform/) on the real engine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from conform.every import cost, rules
from conform.runner import run
from conform.subject.rule import Rule
from conform.subject.server import Subject
from tests.conform.subjects import assert_holds, by_way_of, subject_at
from tests.engine.conftest import KEYS
from tests.serving import CONTEXT_SIZE, TINY, VOCAB_SIZE, serving, tiny_model

pytestmark = pytest.mark.engine


@pytest.fixture(scope="module")
def subject(tiny_path: Path, keys_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    """A server as it is without settings of its own, but for keys."""
    config = {"models": [tiny_model(tiny_path)], "api_keys_file": str(keys_file)}
    with serving(tmp_path_factory.mktemp("plain"), config) as server:
        server.wait_ready()
        with subject_at(server.url(), KEYS["alice"]) as subject:
            yield subject


def test_what_is_learned(subject: Subject) -> None:
    """The rules know the model, the sizes, and two tokens between which a bias decides: none is skipped."""
    assert (subject.model, subject.context_size, subject.vocab_size) == (TINY, CONTEXT_SIZE, VOCAB_SIZE)
    assert subject.tokens
    assert subject.duel()


@pytest.mark.parametrize(
    "rule", [rule for rule in rules() if rule.category != "adapters"], ids=lambda rule: rule.id
)
def test_rule_holds(subject: Subject, rule: Rule) -> None:
    """Every rule holds here, but for those of which another house has the opposite.
    Those of adapters: test_adapters.py."""
    assert_holds(subject, rule)


def test_a_run_keeps_its_budget(subject: Subject) -> None:
    """And takes a part of it, because a request that is refused costs no tokens."""
    chosen = [rule for rule in rules() if not rule.hard]
    with by_way_of(None, subject) as fresh:
        done = run(fresh, chosen)
    assert done.holds
    assert done.spent.requests <= cost(chosen).requests
    assert done.spent.tokens <= cost(chosen).tokens / 2
