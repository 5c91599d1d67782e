"""docs/calling says the same as the rules that a server is held to."""

from __future__ import annotations

import re

import pytest

from conform.every import rules
from server.errors import RequestFailure
from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/calling/moving.md").read_text("utf-8")
TITLES = {"openai": "From OpenAI", "vllm": "From vLLM"}
RULES = {rule.id: rule for rule in rules()}


def rows(house: str) -> list[list[str]]:
    """The cells of the house's table."""
    section = PAGE.partition(f"## {TITLES[house]}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.mark.parametrize("house", TITLES)
def test_each_row_names_rules_that_differ_there(house: str) -> None:
    """A rule of the last column is one of `verbatim conform`, and another house has it otherwise."""
    named = [name for *_, last in rows(house) for name in re.findall(r"`([\w.-]+)`", last)]
    assert len(named) > 15
    assert [name for name in named if name not in RULES or house not in RULES[name].differs] == []


@pytest.mark.parametrize("house", TITLES)
def test_no_difference_is_left_out(house: str) -> None:
    """Whatever the rules know of a house is in a row: by that rule, or by another one that says the same."""
    named = {name for *_, last in rows(house) for name in re.findall(r"`([\w.-]+)`", last)}
    said = {RULES[name].differs[house] for name in named} | {"not documented"}
    assert {rule.differs[house] for rule in RULES.values() if house in rule.differs} - said == set()


def failures(root: type[RequestFailure] = RequestFailure) -> set[tuple[str, str]]:
    """Status and reason of every class of server/errors.py in the tree."""
    found = {(str(root.status), root.reason)} if root.__module__ == RequestFailure.__module__ else set()
    return found.union(*(failures(child) for child in root.__subclasses__()))


def test_every_failure_has_a_row() -> None:
    """docs/calling/errors.md says of each status and reason whether to retry, and of no other."""
    page = (ROOT / "docs/calling/errors.md").read_text("utf-8")
    found = set()
    for line in re.findall(r"^\| (\d.*)$", page, re.MULTILINE):
        statuses, reasons, *_ = line.split("|")
        names = re.findall(r"`(\w+)`", reasons)
        numbers = re.findall(r"\d+", statuses)
        found |= set(zip(numbers * (len(names) if len(numbers) == 1 else 1), names, strict=True))
    assert found == failures()
