"""A run as a table, Markdown, JSON and JUnit's XML, and the difference of two."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from xml.etree import ElementTree

from rich.console import Console

from conform import difference, report
from conform.runner import Outcome, Result, Run
from conform.subject.budget import Cost
from tests.conform.canned import rule_of


def _run(base: str = "http://x/v1", **outcomes: Outcome) -> Run:
    results = tuple(
        Result(
            rule_of(lambda _: None, name.replace("_", ".")),
            outcome,
            "" if outcome is Outcome.PASSED else 'a "|" <b> \x00 \u2028 [/red]',
            Cost(1, 2),
            0.25,
        )
        for name, outcome in outcomes.items()
    )
    began = datetime(2026, 11, 26, 12, 0, tzinfo=UTC)
    return Run(base, "m", "hosted", began, Cost(10, 100), Cost(5, 10), 1.25, results)


ALL = {f"a_{outcome.value}": outcome for outcome in Outcome}
RUN = _run(**ALL, b_more=Outcome.PASSED)


def _printed(value: object) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: PTH123, SIM115
    console.print(value)
    console.file.close()
    return console.export_text()


def test_json() -> None:
    """It has each rule with its statement and what it cost, the budget, and the totals."""
    value = json.loads(report.as_json(RUN))
    assert value["budget"] == {"requests": 10, "tokens": 100}
    assert value["spent"] == {"requests": 5, "tokens": 10}
    assert value["totals"] == {"passed": 2, "failed": 1, "differs": 1, "skipped": 1, "error": 1}
    assert value["rules"][0] == {
        "id": "a.passed",
        "statement": "It is so.",
        "outcome": "passed",
        "seen": "",
        "requests": 1,
        "tokens": 2,
        "seconds": 0.25,
    }


def test_junit() -> None:
    """It is XML whatever was seen: a suite for each category, and a rule that differs passes."""
    root = ElementTree.fromstring(report.as_junit(RUN))  # noqa: S314
    suite = root[0]
    assert [suite.get(name) for name in ("name", "tests", "failures", "errors", "skipped")] == [
        "a", "5", "1", "1", "1",
    ]  # fmt: skip
    found = {case.get("name"): [child.tag for child in case] for case in suite}
    assert found == {
        "passed": [],
        "failed": ["failure"],
        "differs": ["system-out"],
        "skipped": ["skipped"],
        "error": ["error"],
    }


def test_markdown() -> None:
    """What was seen stays in its cell."""
    text = report.as_markdown(RUN)
    rows = [line for line in text.splitlines() if line.startswith("| `a.")]
    assert len(rows) == 4
    assert all(row.replace("\\|", "").count("|") == 4 for row in rows)
    assert "- `a.passed`: It is so." in text
    assert "2 of 6 rules hold" in text


def test_table() -> None:
    """Totals by category and in all."""
    lines = [line.split() for line in _printed(report.totals(RUN)).splitlines()]
    assert ["a", "1", "1", "1", "1", "1"] in lines
    assert ["in", "all", "2", "1", "1", "1", "1"] in lines


def test_difference() -> None:
    """Only the rules that come to another end, with both ends."""
    other = _run("http://y/v1", **ALL | {"a_passed": Outcome.FAILED})
    (found,) = difference.differences(RUN, other)
    assert (found.first.outcome, found.second.outcome) == (Outcome.PASSED, Outcome.FAILED)
    printed = _printed(difference.table(RUN, other))
    assert "a.passed" in printed
    assert "a.failed" not in printed
    assert "| `a.passed`: It is so. | passed | failed: " in "\n".join(difference.as_markdown(RUN, other))
    assert "All rules have the same result." in "\n".join(difference.as_markdown(RUN, replace(RUN)))
