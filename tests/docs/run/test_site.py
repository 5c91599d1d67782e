"""The documents as a site: made without a warning, read from a disk, and loading nothing from elsewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.site import beside, in_repository, in_site, on_page_markdown
from tests.docs.blocks import ROOT

LOADED = re.compile(r"<(?:script|link|img|iframe|source|use)\b[^>]*?(?:src|href)=\"?([^\s\">]+)")
IN_STYLES = re.compile(r"url\(\s*[\"']?(?!data:)([^\"')]+)|@import\s+[\"']([^\"']+)")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "scripts.site", "--site-dir", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")
    return folder


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    """Whatever a page or a style sheet loads is a file of the site."""
    loaded = [
        (file, re.split("[?#]", "".join(found))[0])
        for ending, pattern in {"html": LOADED, "css": IN_STYLES}.items()
        for file in site.rglob(f"*.{ending}")
        for found in pattern.findall(file.read_text("utf-8"))
        if file.name != "404.html"  # whose addresses begin at the root
    ]
    assert len(loaded) > 100
    missing = [(file.name, name) for file, name in loaded if not (file.parent / name).is_file()]
    assert missing == []


def test_nothing_is_inline(site: Path) -> None:
    """No script, style or handler between a page's lines: the server's policy allows none."""
    for page in site.rglob("*.html"):
        text = page.read_text("utf-8")
        assert not re.search(r"<script>|<style|<[a-z]+ [^>]*\b(style|on\w+)=\"", text), page.name


def test_every_page_is_there(site: Path) -> None:
    """Those of docs/, and those beside it that they link to."""
    pages = [str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")]
    names = [in_site(page).removesuffix(".md") + ".html" for page in pages]
    assert len(names) > 20
    assert [name for name in names if not (site / name.replace("README", "index")).is_file()] == []
    assert (site / "repository/SECURITY.html").is_file()


def test_links_out_of_docs() -> None:
    """They lead below repository/; one to a folder is its words alone."""

    class Page:
        class file:  # noqa: N801  # mkdocs's name
            src_uri = "calling/curl.md"

    text = "[a](../../SECURITY.md#x) [b](../contract.md) [c](https://d.example) [e](../../deploy) `[f](g.md)`"
    assert on_page_markdown(text, Page, None, None) == (
        "[a](../repository/SECURITY.md#x) [b](../contract.md) [c](https://d.example) e `[f](g.md)`"
    )
    assert {in_repository(name) for name in beside()} >= {"SECURITY.md", "CONTRIBUTING.md"}
