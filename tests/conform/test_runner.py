"""What becomes of a rule, and of a run."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest

from conform.every import cost, rules, select
from conform.runner import Outcome, planned, run, try_rule
from conform.subject.budget import Cost
from conform.subject.ends import ConformError, Skipped, require
from conform.subject.rule import PROFILES, Rule
from conform.subject.server import Subject
from tests.conform.canned import rule_of, subject_of

RULES = rules()


def _fails(_: Subject) -> None:
    require(False, "it is otherwise")


def _skips(_: Subject) -> None:
    raise Skipped("there is no key")


def _breaks(_: Subject) -> None:
    raise KeyError("choices")


def _times_out(_: Subject) -> None:
    raise httpx.ReadTimeout("")


def _asks_twice(subject: Subject) -> None:
    for _ in range(2):
        subject.complete(max_tokens=1)


@pytest.mark.parametrize(
    ("check", "outcome", "seen"),
    [
        (lambda subject: None, Outcome.PASSED, ""),
        (_fails, Outcome.FAILED, "it is otherwise"),
        (_skips, Outcome.SKIPPED, "there is no key"),
        (_breaks, Outcome.ERROR, "an unexpected form: KeyError: 'choices'"),
        (_times_out, Outcome.ERROR, "--timeout"),
        (_asks_twice, Outcome.ERROR, "would have used 2 requests"),
    ],
)
def test_outcomes(check: Callable[[Subject], None], outcome: Outcome, seen: str) -> None:
    """Each way in which a rule can end has its name, and says why."""
    result = try_rule(subject_of(), rule_of(check))
    assert result.outcome is outcome
    assert seen in result.seen


@pytest.mark.parametrize(("profile", "outcome"), [("hosted", Outcome.FAILED), ("vllm", Outcome.DIFFERS)])
def test_a_rule_that_differs_by_profile_is_not_failed(profile: str, outcome: Outcome) -> None:
    """With a profile whose API has another rule; the result says what is so there."""
    rule = rule_of(_fails, differs={"vllm": "it is so and so"})
    result = try_rule(subject_of(profile=profile), rule)
    assert result.outcome is outcome
    assert ("it is so and so" in result.seen) is (outcome is Outcome.DIFFERS)


def test_the_next_rule_begins_with_its_own_allowance() -> None:
    """What a rule has left is not the next one's."""
    results = run(subject_of(), [rule_of(lambda _: None, cost=Cost(9, 999)), rule_of(_asks_twice)]).results
    assert [result.outcome for result in results] == [Outcome.PASSED, Outcome.ERROR]


def test_a_server_that_answers_no_more_is_let_be() -> None:
    """After three rules without an answer no other one is tried."""
    asked = []

    def check(subject: Subject) -> None:
        asked.append(1)
        raise httpx.ConnectError("refused")

    done = run(subject_of(), [rule_of(check)] * 9)
    assert len(asked) == 3
    assert done.results[-1].seen == "not tried: the server no longer answers"
    assert not done.holds


def test_results_are_told_as_they_come() -> None:
    """For progress."""
    told: list[Outcome] = []
    run(subject_of(), [rule_of(lambda _: None), rule_of(_skips)], lambda result: told.append(result.outcome))
    assert told == [Outcome.PASSED, Outcome.SKIPPED]


def test_ids_are_unique() -> None:
    """An id names one rule."""
    assert len({rule.id for rule in RULES}) == len(RULES)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_a_rule_says_what_it_is(rule: Rule) -> None:
    """A stable id, one sentence, a cost, and known profiles."""
    assert re.fullmatch(r"[a-z]+(\.[a-z0-9-]+){1,2}", rule.id)
    assert rule.statement.endswith(".")
    assert rule.cost.requests > 0
    assert set(rule.differs) <= set(PROFILES)


def test_patterns() -> None:
    """A category, a whole id, or a glob; what is hard only when it is asked for."""
    assert {rule.category for rule in select(["stream"], hard=False)} == {"stream"}
    assert [rule.id for rule in select(["stream.done-is-last"], hard=False)] == ["stream.done-is-last"]
    assert len(select(["*.range"], hard=False)) > 10
    assert select(["body.malformed"], hard=False) == []
    assert [rule.id for rule in select(["body.malformed"], hard=True)] == ["body.malformed"]
    with pytest.raises(ConformError, match="streams matches no rule; categories are values, body, "):
        select(["streams"], hard=False)


def test_what_is_planned() -> None:
    """The rules' costs, and what has to be known before."""
    chosen = select(["errors"], hard=False)
    assert planned(chosen).requests > cost(chosen).requests == sum(rule.cost.requests for rule in chosen)
