"""A rule: a statement with an id, its largest cost, and a function that checks it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from conform.subject.budget import Cost
from conform.subject.server import Subject

Check = Callable[[Subject], None]
PROFILES = ("hosted", "openai", "vllm")


@dataclass(frozen=True, slots=True)
class Rule:
    """check: returns if the rule holds; otherwise raises Unmet or Skipped.

    differs: profile -> what is so with that API instead. hard: only tried with --hard.
    """

    id: str
    statement: str
    cost: Cost
    check: Check
    differs: Mapping[str, str] = field(default_factory=dict)
    hard: bool = False

    @property
    def category(self) -> str:
        return self.id.partition(".")[0]


def rule(
    id: str,  # noqa: A002
    *,
    requests: int,
    tokens: int = 0,
    differs: Mapping[str, str] | None = None,
    hard: bool = False,
) -> Callable[[Check], Rule]:
    """Make a rule of a function; its docstring is the statement."""

    def make(check: Check) -> Rule:
        statement = " ".join((check.__doc__ or "").split())
        return Rule(id, statement, Cost(requests, tokens), check, differs or {}, hard)

    return make
