"""The verdict as JSON, as JUnit XML for a build server, and as a page."""

from __future__ import annotations

import html
import time
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree as ET

from twin.verdict.eyes import Eyes
from twin.verdict.rules import RULES, USUAL, Log, Patience, Rule, Seen, State

MOST_SHOWN = 20  # violations of a rule that are listed


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict on one client."""

    client: str
    num_requests: int
    found: list[tuple[Rule, Seen]]

    def count(self, state: State) -> int:
        return sum(seen.state is state for _, seen in self.found)


def verdicts(eyes: Eyes, client: str = "", patience: Patience = USUAL) -> list[Verdict]:
    """The verdict on one client, or on each."""
    now = time.monotonic()
    made = []
    for name in [client] if client else eyes.clients():
        attempts = eyes.attempts(name)
        log = Log(attempts, now, patience)
        made.append(Verdict(name, len(attempts), [(rule, rule.judge(log)) for rule in RULES]))
    return made


def as_json(made: list[Verdict]) -> dict[str, Any]:
    return {
        "holds": all(not verdict.count(State.FAILED) for verdict in made),
        "clients": [
            {
                "client": verdict.client,
                "requests": verdict.num_requests,
                **{state.replace(" ", "_"): verdict.count(state) for state in State},
                "rules": [
                    {
                        "id": rule.id,
                        "rule": rule.statement,
                        "state": seen.state,
                        "tried": seen.tried,
                        "against": [
                            {"what": words, "request": attempt.shown()}
                            for attempt, words in seen.against[:MOST_SHOWN]
                        ],
                    }
                    for rule, seen in verdict.found
                ],
            }
            for verdict in made
        ],
    }


def as_junit(made: list[Verdict]) -> bytes:
    """A test suite for each client, a test case for each rule; a rule that was not tested is skipped."""
    root = ET.Element("testsuites")
    for verdict in made:
        suite = ET.SubElement(
            root,
            "testsuite",
            name=f"verdict on {verdict.client}",
            tests=str(len(verdict.found)),
            failures=str(verdict.count(State.FAILED)),
            skipped=str(verdict.count(State.NOT_TRIED)),
            errors="0",
        )
        for rule, seen in verdict.found:
            case = ET.SubElement(suite, "testcase", classname=f"verdict.{verdict.client}", name=rule.id)
            if seen.state is State.FAILED:
                failure = ET.SubElement(case, "failure", message=rule.statement)
                failure.text = "\n".join(_line(one) for one in seen.against[:MOST_SHOWN])
            elif seen.state is State.NOT_TRIED:
                ET.SubElement(case, "skipped", message="no request has tested this rule yet")
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))


def as_page(made: list[Verdict]) -> str:
    """A page without scripts."""
    parts = [PAGE_HEAD]
    for verdict in made:
        counts = ", ".join(f"{verdict.count(state)} {state}" for state in State)
        parts.append(
            f"<h2>{html.escape(verdict.client)}</h2><p>{verdict.num_requests} requests: {counts}</p>"
        )
        parts.append("<table><tr><th>rule</th><th></th><th>what was seen</th></tr>")
        for rule, seen in verdict.found:
            lines = "<br>".join(html.escape(_line(one)) for one in seen.against[:MOST_SHOWN])
            name = f"<code>{rule.id}</code><br>{html.escape(rule.statement)}"
            mark = seen.state.replace(" ", "-")
            parts.append(f'<tr class="{mark}"><td>{name}</td><td>{seen.state}</td><td>{lines}</td></tr>')
        parts.append("</table>")
    if not made:
        parts.append("<p>No client has sent a request yet.</p>")
    return "\n".join([*parts, "</body></html>"])


def _line(one: tuple[Any, str]) -> str:
    attempt, words = one
    asked = f"request {attempt.number}, {attempt.method} {attempt.path}"
    return f"{asked}: {words}" + (f" ({attempt.body})" if attempt.body else "")


PAGE_HEAD = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>Verdict</title><style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
td, th { border: 1px solid #999; padding: .4rem; text-align: left; vertical-align: top; }
.failed { background: #fdd; color: #000; } .passed { background: #dfd; color: #000; }
</style></head><body><h1>Verdict</h1>"""
