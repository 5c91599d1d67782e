"""The results of a run as a table, Markdown, JSON and JUnit XML."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from rich.table import Table
from rich.text import Text

from conform.runner import Outcome, Result, Run, by_category
from conform.subject.ends import shown

STYLES = {
    Outcome.PASSED: "green",
    Outcome.FAILED: "bold red",
    Outcome.DIFFERS: "yellow",
    Outcome.SKIPPED: "dim",
    Outcome.ERROR: "bold magenta",
}


def line(result: Result) -> Text:
    """One line for a result that did not simply pass."""
    text = Text()
    text.append(f"{result.outcome.value:8}", STYLES[result.outcome])
    text.append(f"{result.rule.id}: {result.seen}")
    return text


def totals(run: Run) -> Table:
    """A table of outcomes by category."""
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for outcome in Outcome:
        table.add_column(outcome.value, justify="right", style=STYLES[outcome])
    for category, counts in (*by_category(run.results).items(), ("in all", run.counts)):
        table.add_row(category, *(str(counts[outcome] or "") for outcome in Outcome))
    return table


def summary(run: Run) -> str:
    return (
        f"{run.counts[Outcome.PASSED]} of {len(run.results)} rules hold for the profile {run.profile};"
        f" {run.spent} in {run.seconds:.1f} s"
    )


def as_json(run: Run) -> str:
    value = {
        "url": run.base,
        "model": run.model,
        "profile": run.profile,
        "began": run.began.isoformat(timespec="seconds"),
        "seconds": round(run.seconds, 1),
        "budget": {"requests": run.planned.requests, "tokens": run.planned.tokens},
        "spent": {"requests": run.spent.requests, "tokens": run.spent.tokens},
        "totals": {outcome.value: run.counts[outcome] for outcome in Outcome},
        "rules": [_row(result) for result in run.results],
    }
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def _row(result: Result) -> dict[str, Any]:
    return {
        "id": result.rule.id,
        "statement": result.rule.statement,
        "outcome": result.outcome.value,
        "seen": result.seen,
        "requests": result.spent.requests,
        "tokens": result.spent.tokens,
        "seconds": round(result.seconds, 3),
    }


def as_junit(run: Run) -> str:
    """A test suite for each category. A rule that differs passes; its output says how it differs."""
    root = ElementTree.Element("testsuites", name=f"verbatim conform, profile {run.profile}")
    for category, counts in by_category(run.results).items():
        results = [result for result in run.results if result.rule.category == category]
        suite = ElementTree.SubElement(
            root,
            "testsuite",
            name=category,
            tests=str(len(results)),
            failures=str(counts[Outcome.FAILED]),
            errors=str(counts[Outcome.ERROR]),
            skipped=str(counts[Outcome.SKIPPED]),
            time=f"{sum(result.seconds for result in results):.3f}",
        )
        for result in results:
            _case(suite, result)
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, result: Result) -> None:
    category, _, name = result.rule.id.partition(".")
    case = ElementTree.SubElement(
        suite, "testcase", classname=f"conform.{category}", name=name, time=f"{result.seconds:.3f}"
    )
    seen = _printable(result.seen)
    match result.outcome:
        case Outcome.FAILED:
            ElementTree.SubElement(case, "failure", message=seen).text = result.rule.statement
        case Outcome.ERROR:
            ElementTree.SubElement(case, "error", message=seen).text = result.rule.statement
        case Outcome.SKIPPED:
            ElementTree.SubElement(case, "skipped", message=seen)
        case Outcome.DIFFERS:
            ElementTree.SubElement(case, "system-out").text = f"differs: {seen}"


def _printable(text: str) -> str:
    """The text without characters that XML does not allow."""
    return "".join(char if char.isprintable() else "\ufffd" for char in text)


def as_markdown(run: Run) -> str:
    return "\n".join(
        [
            f"# {run.model} at {run.base}, by the rules of {run.profile}",
            "",
            f"{summary(run)}. {run.began.date().isoformat()}.",
            "",
            *_totals(run),
            "",
            "## Rules that do not hold, differ, or were skipped",
            "",
            *_findings(run.results),
            "",
            "## Rules that hold",
            "",
            *(
                f"- `{result.rule.id}`: {result.rule.statement}"
                for result in run.results
                if result.outcome is Outcome.PASSED
            ),
            "",
        ]
    )


def _totals(run: Run) -> Iterator[str]:
    yield "| | " + " | ".join(outcome.value for outcome in Outcome) + " |"
    yield "|---" * (1 + len(Outcome)) + "|"
    for category, counts in (*by_category(run.results).items(), ("**in total**", run.counts)):
        yield f"| {category} | " + " | ".join(str(counts[outcome] or "") for outcome in Outcome) + " |"


def _findings(results: Sequence[Result]) -> Iterator[str]:
    findings = [result for result in results if result.outcome is not Outcome.PASSED]
    if not findings:
        yield "Nothing."
        return
    yield "| rule | | what was seen |"
    yield "|---|---|---|"
    for result in findings:
        seen = cell(shown(result.seen, 300))
        yield f"| `{result.rule.id}`: {cell(result.rule.statement)} | {result.outcome.value} | {seen} |"


def cell(text: str) -> str:
    """Text for a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
