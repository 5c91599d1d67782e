"""The rules on the twin, and on servers that break one of them: each is seen to hold, and to fail."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from conform.every import rules, select
from conform.runner import Outcome, try_rule
from conform.subject.client import Client
from conform.subject.rule import Rule
from conform.subject.server import Subject
from tests.conform.canned import listening, subject_of
from tests.conform.mutants import mutant_of
from tests.conform.subjects import OPPOSITE, assert_holds, by_way_of, subject_at
from tests.serving import serving
from twin.language.store import DATA

KEY = "key"
MODEL: dict[str, Any] = {
    "id": "tests/twin",
    "path": str(DATA),
    "engine": "simulated",
    "max_model_len": 256,
    "adapters": [{"id": "tests/adapter", "path": str(DATA)}],  # the twin reads none
}
CODER = MODEL | {"id": "tests/coder", "suffix_template": "<suf>{suffix}<pre>{prefix}", "adapters": []}


RULES = [rule for rule in rules() if rule.id not in OPPOSITE]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The twin with its own language, a small context and a key, ten times as fast as a GPU."""
    folder = tmp_path_factory.mktemp("twin")
    keys = folder / "keys.txt"
    keys.write_text(f"tester {hashlib.sha256(KEY.encode()).hexdigest()}\n")
    config = {"models": [MODEL, CODER], "api_keys_file": str(keys)}
    with serving(folder, config, "--speed", "10", command="simulate") as server:
        yield server.url()


@pytest.fixture(scope="module")
def subject(url: str) -> Iterator[Subject]:
    with subject_at(url, KEY) as subject:
        yield subject


@pytest.fixture(scope="module")
def coder(url: str) -> Iterator[Subject]:
    """A model that fills in."""
    with subject_at(url, KEY, CODER["id"]) as subject:
        yield subject


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_rule_holds(subject: Subject, rule: Rule) -> None:
    """The twin keeps the contract as the real engine's server does."""
    assert_holds(subject, rule)


@pytest.mark.parametrize("rule", select(["*suffix*"], hard=False), ids=lambda rule: rule.id)
def test_rules_of_a_suffix_where_it_acts(coder: Subject, rule: Rule) -> None:
    """A model with a fill-in-the-middle template keeps them as one without does."""
    assert_holds(coder, rule)


def test_a_suffix_that_is_ignored_is_seen(coder: Subject) -> None:
    """Of a model with a template too."""
    (rule,) = select(["prompts.suffix"], hard=False)
    with by_way_of(mutant_of(rule.id).transport(), coder) as broken:
        assert try_rule(broken, rule).outcome is Outcome.FAILED


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.category != "wire"], ids=lambda rule: rule.id
)
def test_rule_is_seen_failing(subject: Subject, rule: Rule) -> None:
    """A server that breaks the rule fails it, and is not taken for one that cannot be read."""
    with by_way_of(mutant_of(rule.id).transport(), subject) as broken:
        result = try_rule(broken, rule)
    assert result.outcome is Outcome.FAILED, result.seen


@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule.category == "wire"], ids=lambda rule: rule.id
)
def test_rule_of_bytes_is_seen_failing(rule: Rule) -> None:
    """On a server that knows neither streams nor the contract's failures, and waits for any body."""
    with listening() as url:
        client = Client(f"{url}/v1", KEY, timeout_s=0.3)
        result = try_rule(replace(subject_of(), client=client), rule)
        client.close()
    assert result.outcome is Outcome.FAILED, result.seen
