"""All rules in the order in which they run, and the selection of rules by patterns."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from conform.rules import (
    adapters,
    body,
    choices,
    errors,
    folds,
    http,
    logprobs,
    prompts,
    reply,
    sampling,
    stops,
    stream,
    structured,
    values,
    wire,
)
from conform.subject.budget import NOTHING, Cost
from conform.subject.ends import ConformError
from conform.subject.rule import Rule

MODULES = (
    *(
        values,
        body,
        prompts,
        reply,
        logprobs,
        choices,
        sampling,
        structured,
        stops,
        stream,
        folds,
        errors,
        http,
    ),
    adapters,
    wire,
)


def rules() -> list[Rule]:
    """The rules of each module; rules made from a table come first."""
    every = list(values.RULES)
    for module in MODULES:
        every += [value for value in vars(module).values() if isinstance(value, Rule)]
    return every


def select(patterns: Sequence[str], hard: bool) -> list[Rule]:
    """The rules that the patterns select: a whole id, the part before a dot, or a glob. Without patterns:
    all."""
    every = [rule for rule in rules() if hard or not rule.hard]
    for pattern in patterns:
        if not any(_names(pattern, rule) for rule in rules()):
            raise ConformError(f"--only {pattern} matches no rule; categories are {', '.join(categories())}")
    return [rule for rule in every if not patterns or any(_names(pattern, rule) for pattern in patterns)]


def categories() -> list[str]:
    return list(dict.fromkeys(rule.category for rule in rules()))


def cost(chosen: Sequence[Rule]) -> Cost:
    return sum((rule.cost for rule in chosen), NOTHING)


def _names(pattern: str, rule: Rule) -> bool:
    return rule.id == pattern or rule.id.startswith(f"{pattern}.") or fnmatchcase(rule.id, pattern)
