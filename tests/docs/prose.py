"""Lines of docstrings and comments that hold a single word, the rest of a sentence.

`python -m tests.docs.prose` gives each of them two more.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROOMS = ("benchmarks", "bundle", "conform", "sampling", "scripts", "sealed", "server", "tests", "twin")
WORD = re.compile(r"(\s*)(?:# )?([^\s#]+?)(\"\"\")?\s*")
STARTS = re.compile(r"\s*(?:# )?(?:[-*•]|\d+\.|>>>|\$|\||[A-Za-z_]+:$)")


def orphans(text: str) -> Iterator[tuple[int, str]]:
    """Line numbers, from 1, and the words: of the docstrings and comments of a Python file."""
    lines = text.split("\n")
    for first, last in [*_docstrings(text), *_comments(text)]:
        for number in range(first + 1, last + 1):
            before, line = lines[number - 2], lines[number - 1]
            found = WORD.fullmatch(line)
            if found and _is_one_paragraph(before, line):
                yield number, found[2]


def _is_one_paragraph(before: str, line: str) -> bool:
    """Whether both are prose at the same indentation."""
    same = len(before) - len(before.lstrip()) == len(line) - len(line.lstrip())
    is_prose = bool(re.search(r"\w \w", before)) and not re.search(r"[:=]$|  ", before.strip())
    return same and is_prose and not STARTS.match(line) and line.strip(' #"') not in ("", ")", "}", "]")


def _docstrings(text: str) -> Iterator[tuple[int, int]]:
    """Of each, its first and last line."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            if ast.get_docstring(node) is not None and first.end_lineno is not None:
                yield first.lineno, first.end_lineno


def _comments(text: str) -> Iterator[tuple[int, int]]:
    """Of each run of whole-line comments, its first and last line."""
    alone = [
        token.start[0]
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
    ]
    start = previous = None
    for line in alone:
        if previous is None or line != previous + 1:
            if start is not None and previous is not None:
                yield start, previous
            start = line
        previous = line
    if start is not None and previous is not None:
        yield start, previous


def mended(text: str) -> str:
    """With two more words on these lines, from the line before."""
    lines = text.split("\n")
    for number, _ in sorted(set(orphans(text))):
        before, *moved = lines[number - 2].rsplit(" ", 2)
        line = lines[number - 1]
        start = len(line) - len(line.lstrip(" #"))
        lines[number - 2 : number] = [before, f"{line[:start]}{' '.join(moved)} {line[start:]}"]
    return "\n".join(lines)


def files(root: Path, rooms: Iterable[str]) -> Iterator[Path]:
    """Every Python file of these folders."""
    for room in rooms:
        yield from sorted((root / room).rglob("*.py"))


if __name__ == "__main__":
    for path in files(ROOT, ROOMS):
        before = path.read_text("utf-8")
        if (after := mended(before)) != before:
            path.write_text(after, "utf-8")
            print(path.relative_to(ROOT))
