"""What a page shows to be typed: its blocks, and the marks that say which test runs one, or why none does.

A mark is an HTML comment on the line before the block:

    <!-- run: tests/twin/test_x.py -->     a test of its own runs it
    <!-- not run: it needs Docker -->      no test does, for this reason

A console block without a mark is run by tests/docs/run/test_pages.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
MARK = re.compile(r"<!-- (run|not run): (.+?) -->\n *\Z")
FILE = re.compile(r"\bin `([\w./-]+)`[^`]*:\s*(?:<!--.*-->\s*)?$", re.IGNORECASE)
PROMPT = re.compile(r"^\$ ", re.MULTILINE)


@dataclass(frozen=True)
class Step:
    """command: to be typed. expected: what is shown after it, where … is anything."""

    command: str
    expected: str


@dataclass(frozen=True)
class Block:
    """kind: the language, console for what is typed. line: where its content begins.

    before: the page up to it. runner, reason: of its mark, or empty.
    """

    kind: str
    content: str
    line: int
    before: str
    runner: str = ""
    reason: str = ""

    @property
    def file(self) -> str:
        """The file whose content it is, by the words before it: "in `ask.py`:"."""
        found = FILE.search(self.before)
        return found[1] if found else ""

    def steps(self) -> Iterator[Step]:
        """The commands of a console block, in order. A line that ends in a backslash goes on in the next."""
        for part in PROMPT.split(self.content)[1:]:
            lines = part.split("\n")
            num = next(k for k, line in enumerate(lines) if not line.endswith("\\")) + 1
            yield Step("\n".join(lines[:num]), "\n".join(lines[num:]).strip("\n"))


def blocks(text: str) -> Iterator[Block]:
    """Of a page, in order."""
    for fence in FENCE.finditer(text):
        indent, kind, content = fence.groups()
        before = text[: fence.start()]
        mark = MARK.search(before)
        words = {"runner" if mark[1] == "run" else "reason": mark[2]} if mark else {}
        content = re.sub(rf"^{indent}", "", content, flags=re.MULTILINE)
        yield Block(kind, content, before.count("\n") + 2, before, **words)


def pages() -> list[str]:
    """Those that people read: by their paths from the repository's root."""
    found = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "tests/README.md"]
    return sorted(str(page.relative_to(ROOT)) for page in found if page.name != "CHANGELOG.md")


def pattern(expected: str) -> re.Pattern[str]:
    """Finds what a page shows: … is anything, and so are ids, times and how lines are broken."""
    words = re.sub(r"\b[0-9a-f]{32}\b|(?<=\"created\":)\d+|\b\d+(?:\.\d+)?(?= s\b)", "…", expected)
    parts = [re.escape(part) for part in re.split(r"\s+|(…)", words) if part]
    return re.compile(r"\s*".join(part if part != "…" else "(?s:.*?)" for part in parts))
