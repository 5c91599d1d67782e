"""The table of all log events in docs/events.md."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from conform.report import cell
from server.observe.events import EVENTS, OTHER, REQUEST, REQUEST_FIELDS

ROOT = Path(__file__).parents[1]
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
TITLE = "| event | level | fields | message |"


def tables() -> str:
    levels = defaultdict[str, dict[str, None]](dict)
    for text, level, _ in calls():
        levels[text][level] = None
    about = "; ".join(
        f"`{name}`" + (f" ({words})" if words else "") for name, words in REQUEST_FIELDS.items()
    )
    lines = [TITLE, "|---|---|---|---|"]
    lines.append(f"| `{REQUEST}` | info | {about} | one line for each request, when it has ended |")
    lines.append(f"| `{OTHER}` | | `logger` | a message of a library |")
    for text, (name, *fields) in sorted(EVENTS.items(), key=lambda one: one[1][0]):
        names = ", ".join(f"`{field}`" for field in fields)
        message = cell(text.replace("\n", " "))
        lines.append(f"| `{name}` | {', '.join(levels[text])} | {names} | {message} |")
    return "## All events\n\n" + "\n".join(lines) + "\n"


def calls() -> Iterator[tuple[str, str, int]]:
    """(message, level, number of values) of each log call in the server. Raises ValueError for a message that
    is not a literal."""
    for file in sorted((ROOT / "server").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            of = node.func.value
            if not (isinstance(of, ast.Name) and of.id == "log" and node.func.attr in LEVELS):
                continue
            if any(keyword.arg == "extra" for keyword in node.keywords):
                continue  # the line of a request
            text = node.args[0]
            if not (isinstance(text, ast.Constant) and isinstance(text.value, str)):
                raise ValueError(
                    f"{file}:{node.lineno}: a log message must be one string literal, followed by its values"
                )
            yield text.value, LEVELS[node.func.attr], _count(node.args[1:])


def _count(values: list[ast.expr]) -> int:
    """The number of values; an unpacked tuple counts as many as it has."""
    unpacked = [one.value for one in values if isinstance(one, ast.Starred)]
    counted = [len(one.elts) for one in unpacked if isinstance(one, ast.Tuple)]
    return len(values) - len(unpacked) + sum(counted)
