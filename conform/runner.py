"""Runs the rules one after another, and stops if the server no longer answers."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import httpx

from conform.every import cost
from conform.subject import address, server
from conform.subject.budget import NOTHING, Cost
from conform.subject.client import Client
from conform.subject.ends import ConformError, OverBudget, Skipped, Unmet, shown
from conform.subject.rule import Rule
from conform.subject.server import Subject, learn

MOST_SILENCE = 3  # rules in a row without an answer, after which the run stops


class Outcome(StrEnum):
    PASSED = "passed"
    FAILED = "failed"
    DIFFERS = "differs"  # this profile has another rule here
    SKIPPED = "skipped"
    ERROR = "error"  # no answer, or one that the rule cannot read


@dataclass(frozen=True, slots=True)
class Result:
    """seen: what was seen if the rule does not hold; the reason if it was skipped."""

    rule: Rule
    outcome: Outcome
    seen: str
    spent: Cost
    seconds: float


@dataclass(frozen=True, slots=True)
class Run:
    """base: the URL at which the server answers. planned: the largest possible cost, including
    the first requests."""

    base: str
    model: str
    profile: str
    began: datetime
    planned: Cost
    spent: Cost
    seconds: float
    results: tuple[Result, ...]

    @property
    def counts(self) -> Counter[Outcome]:
        return Counter(result.outcome for result in self.results)

    @property
    def holds(self) -> bool:
        """Whether no rule of the profile failed or could not be read."""
        return not self.counts[Outcome.FAILED] and not self.counts[Outcome.ERROR]


def planned(rules: Sequence[Rule]) -> Cost:
    """The largest cost of a run: its rules, and the requests before them."""
    return cost(rules) + address.COST + server.COST


def connect(
    url: str, profile: str, model: str | None, key: str | None, connecting: Callable[[str], Client]
) -> Subject:
    """Find the server at this URL, and learn about it. Raises ConformError."""
    client, listed = address.find(url, profile, connecting)
    try:
        return learn(client, profile, listed, model, key is not None)
    except ConformError:
        client.close()
        raise


def run(subject: Subject, rules: Sequence[Rule], tell: Callable[[Result], None] = lambda _: None) -> Run:
    """Run every rule on one server. tell: called with each result as it comes."""
    began, start = datetime.now(UTC), time.monotonic()
    results: list[Result] = []
    for rule in rules:
        results.append(try_rule(subject, rule) if not _is_silent(results) else _not_tried(rule))
        tell(results[-1])
    seconds = time.monotonic() - start
    budget = subject.client.budget
    base, model = subject.client.base, subject.model
    return Run(base, model, subject.profile, began, planned(rules), budget.spent, seconds, tuple(results))


def try_rule(subject: Subject, rule: Rule) -> Result:
    """Try one rule, whatever the server does."""
    start = time.monotonic()
    subject.client.budget.open(rule.cost)
    outcome, seen = _look(subject, rule)
    if outcome is Outcome.FAILED and subject.profile in rule.differs:
        outcome, seen = Outcome.DIFFERS, f"{rule.differs[subject.profile]} ({seen})"
    return Result(rule, outcome, seen, subject.client.budget.used, time.monotonic() - start)


def _look(subject: Subject, rule: Rule) -> tuple[Outcome, str]:
    try:
        rule.check(subject)
    except Unmet as failure:
        return Outcome.FAILED, str(failure)
    except Skipped as failure:
        return Outcome.SKIPPED, str(failure)
    except httpx.TimeoutException:
        return Outcome.ERROR, "no answer in time (--timeout)"
    except (httpx.TransportError, OSError) as failure:
        return Outcome.ERROR, f"no answer: {shown(str(failure) or type(failure).__name__)}"
    except OverBudget as failure:
        return Outcome.ERROR, f"the rule's budget is too small: {failure}"
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as failure:
        # The reply has another form than the rule reads: it is not a completions server's.
        return (
            Outcome.ERROR,
            f"the reply has an unexpected form: {type(failure).__name__}: {shown(str(failure))}",
        )
    return Outcome.PASSED, ""


def _is_silent(results: Sequence[Result]) -> bool:
    last = results[-MOST_SILENCE:]
    return len(last) == MOST_SILENCE and all(_no_answer(result) for result in last)


def _no_answer(result: Result) -> bool:
    return result.outcome is Outcome.ERROR and result.seen.startswith("no")


def _not_tried(rule: Rule) -> Result:
    return Result(rule, Outcome.ERROR, "not tried: the server no longer answers", NOTHING, 0.0)


def by_category(results: Iterable[Result]) -> dict[str, Counter[Outcome]]:
    """The number of each outcome in each category."""
    counts: dict[str, Counter[Outcome]] = {}
    for result in results:
        counts.setdefault(result.rule.category, Counter())[result.outcome] += 1
    return counts
