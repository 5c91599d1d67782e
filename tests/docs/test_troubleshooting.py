"""docs/running/troubleshooting.md quotes messages that the code has."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.docs.blocks import ROOT

PAGE = (ROOT / "docs/running/troubleshooting.md").read_text("utf-8")
ROOMS = ("server", "bundle", "sealed", "scripts")
# Tables whose first column is a message.
TABLES = PAGE.partition("## Installing")[2].partition("## No message")[0]


def text_of(node: ast.AST) -> str:
    """A string of the code, where … is what it puts in; empty where it is none."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return re.sub(r"%(?:\.\d+)?[a-z]", "…", node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "…" for part in node.values)
    return ""


def strings() -> Iterator[str]:
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        yield from filter(None, map(text_of, ast.walk(ast.parse(file.read_text("utf-8")))))


SAID = "\n".join(text.replace("`", "") for text in strings())


def quoted() -> list[str]:
    return re.findall(r"^\| `([^`]+)` \|", TABLES, re.MULTILINE)


@pytest.mark.parametrize("message", quoted())
def test_the_code_says_it(message: str) -> None:
    """Word for word, in one string, but for what … stands for."""
    words = r"[^\n]*".join(map(re.escape, message.split("…")))
    assert re.search(words, SAID)


def test_each_row_quotes_a_message() -> None:
    """So that it is found by the words that somebody sees."""
    rows = [
        line for line in TABLES.splitlines() if line.startswith("| ") and not line.startswith("| message")
    ]
    assert len(rows) == len(quoted()) > 40
