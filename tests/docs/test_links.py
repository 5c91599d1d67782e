"""Every page can be found, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("*.md", "docs/**/*.md", "tests/**/*.md", "benchmarks/**/*.md")
    for path in ROOT.glob(pattern)
)
FENCE = re.compile(r"^ *(```+)[^\n]*\n.*?^ *\1 *$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^()\s]+)\)")
HEADING = re.compile(r"^#{1,6} +(.*?) *#* *$", re.MULTILINE)


def anchors(text: str) -> set[str]:
    """The names of a page's headings, as GitHub makes them: a name that comes again gets a number."""
    found: dict[str, int] = {}
    names = set()
    for heading in HEADING.findall(FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        name = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        names.add(f"{name}-{found[name]}" if name in found else name)
        found[name] = found.get(name, 0) + 1
    return names


def links(text: str) -> list[str]:
    """Of a page, to files of ours and to its own headings."""
    prose = re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))
    return [link for link in LINK.findall(prose) if not re.match(r"[a-z]+:", link)]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_links_lead_somewhere(page: Path) -> None:
    """A relative link names a file that is there; what stands after its #, a heading of that page."""
    wrong = []
    for link in links((ROOT / page).read_text("utf-8")):
        name, _, anchor = unquote(link).partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        if not target.exists() or (anchor and anchor not in anchors(target.read_text("utf-8"))):
            wrong.append(link)
    assert wrong == []


def test_each_page_is_in_the_index() -> None:
    """docs/README.md leads to every page of docs/, and README.md to docs/README.md."""
    index = (DOCS / "README.md").read_text("utf-8")
    named = {(DOCS / link.partition("#")[0]).resolve() for link in links(index)}
    missing = {page for page in DOCS.rglob("*.md") if page.resolve() not in named}
    assert missing == {DOCS / "README.md"}
    first = links((ROOT / "README.md").read_text("utf-8"))
    assert "docs/README.md" in {link.partition("#")[0] for link in first}
