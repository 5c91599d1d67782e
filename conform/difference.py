"""Compares the runs on two servers: what changes for a client that moves from the first to the second."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.table import Table

from conform.report import STYLES, cell
from conform.runner import Result, Run
from conform.subject.ends import shown


@dataclass(frozen=True, slots=True)
class Difference:
    """A rule with different outcomes, or with the same outcome for different reasons."""

    first: Result
    second: Result


def differences(first: Run, second: Run) -> list[Difference]:
    """The rules of both runs whose results differ."""
    others = {result.rule.id: result for result in second.results}
    pairs = [(result, others[result.rule.id]) for result in first.results if result.rule.id in others]
    return [Difference(one, other) for one, other in pairs if one.outcome is not other.outcome]


def table(first: Run, second: Run) -> Table:
    shown_table = Table(box=None, padding=(0, 2, 0, 0))
    shown_table.add_column("rule", no_wrap=True)
    for name in (first.base, second.base):
        shown_table.add_column(name, overflow="fold")
    for difference in differences(first, second):
        one, other = difference.first, difference.second
        shown_table.add_row(one.rule.id, *(_styled(result) for result in (one, other)))
    return shown_table


def _styled(result: Result) -> str:
    style = STYLES[result.outcome]
    seen = shown(result.seen, 120).replace("[", "\\[")
    return f"[{style}]{result.outcome.value}[/{style}]" + (f" {seen}" if seen else "")


def as_markdown(first: Run, second: Run) -> Iterator[str]:
    """The section that follows the two runs in the Markdown."""
    yield f"## From {first.base} to {second.base}"
    yield ""
    found = differences(first, second)
    if not found:
        yield "All rules have the same result."
        return
    yield f"| rule | {first.base} | {second.base} |"
    yield "|---|---|---|"
    for difference in found:
        ends = (_said(result) for result in (difference.first, difference.second))
        yield (
            f"| `{difference.first.rule.id}`: {cell(difference.first.rule.statement)} | "
            + " | ".join(ends)
            + " |"
        )


def _said(result: Result) -> str:
    return result.outcome.value + (f": {cell(shown(result.seen, 200))}" if result.seen else "")
