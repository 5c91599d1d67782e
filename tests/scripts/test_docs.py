from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from scripts import docs
from server import __version__
from server.cli import cli
from server.http.metrics import Metrics

# Set by the server, for the processes it starts.
INTERNAL = {"VERBATIM_SERVER_PID", "VERBATIM_SERVER_PLACE", "VERBATIM_FAILURES"}
ROOT = Path(__file__).parents[2]
PAGE = ROOT / docs.PAGE


@pytest.mark.parametrize("page", docs.PAGES, ids=str)
def test_page_is_current(page: Path) -> None:
    """It says what the code says; `python -m scripts.docs` makes it anew."""
    text = (ROOT / page).read_text(encoding="utf-8")
    assert docs.render(text, docs.PAGES[page]) == text


def test_every_key_has_a_meaning() -> None:
    """No key of models.yaml is without a description."""
    for model in docs.TABLES.values():
        assert all(field.description for field in model.model_fields.values() if not field.exclude)


def test_every_variable_that_is_read_is_listed() -> None:
    """Each VERBATIM_ variable that a source file names stands on the page."""
    page = PAGE.read_text(encoding="utf-8")
    sources = [file for name in ("server", "bundle", "sealed") for file in (ROOT / name).rglob("*.py")]
    for file in sources:
        for name in re.findall(r"VERBATIM_[A-Z_]*[A-Z]", file.read_text(encoding="utf-8")):
            assert name in INTERNAL or f"`{name}`" in page, (file.name, name)


def test_the_page_for_sites_names_options_that_exist() -> None:
    """Each option in docs/airgap.md is one of the commands that it is about."""
    runner, known = CliRunner(env={"COLUMNS": "200"}), ""
    for words in (["bundle"], ["bundle", "keygen"], ["verify"], ["serve"]):
        known += runner.invoke(cli, [*words, "--help"]).output
    known += (ROOT / "bundle/site/cli.py").read_text(encoding="utf-8")
    named = set(re.findall(r"--[a-z][a-z-]+", (PAGE.parent / "airgap.md").read_text(encoding="utf-8")))
    assert len(named) > 10
    assert {option for option in named if option not in known} == set()


def test_the_newest_release_of_the_changelog_is_this_version() -> None:
    """Dated, below what is not released yet."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    first, second, *_ = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert first == "Unreleased"
    assert re.fullmatch(rf"{re.escape(__version__)} \(\d{{4}}-\d\d-\d\d\)", second)


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/installation.md",
        "docs/development-gpu.md",
        "docs/operations.md",
        "docs/metrics.md",
        "docs/conform.md",
    ],
)
def test_a_page_names_make_targets_and_files_that_exist(page: str) -> None:
    """`make X` is a target, and a link to a file of ours leads to one."""
    root = ROOT
    text, rules = (root / page).read_text(encoding="utf-8"), (root / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", rules, re.MULTILINE))
    assert set(re.findall(r"(?:`|\$ )make ([a-z-]+)", text)) <= targets
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert [link for link in links if not (root / page).parent.joinpath(link).exists()] == []


PACKAGES = ("benchmarks", "bundle", "conform", "sampling", "scripts", "sealed", "server", "twin")
# Files of vLLM's, and one inside an archive; docs/tried.md speaks of files that are gone.
ELSEWHERE = {
    "__main__.py",
    "ask.py",  # of docs/testing-clients.md, as the next three
    "ask_httpx.py",
    "ask_watched.py",
    "test_my_client.py",
    "again.py",  # of docs/calling/python.md
    "errors.py",
    "v1/metrics/buckets.py",
    "vllm/config/model.py",
    "model_executor/models/registry.py",
}


def test_every_file_that_is_named_is_there() -> None:
    """A `.py` that a page, a comment or a docstring names is a file of ours, by the end of its path."""
    root = ROOT
    sources = [file for name in (*PACKAGES, "tests") for file in (root / name).rglob("*.py")]
    ends = [f"/{file.relative_to(root)}" for file in sources]
    pages = [root / "README.md", root / "CONTRIBUTING.md", *(root / "docs").rglob("*.md")]
    pages += [file for file in sources if file.relative_to(root).parts[0] in PACKAGES]
    missing = {
        (page.name, name)
        for page in pages
        if page.name != "tried.md"
        for name in re.findall(r"(?<![\w/.-])((?:\w+/)*\w+\.py)\b", page.read_text(encoding="utf-8"))
        if name not in ELSEWHERE and not any(end.endswith(f"/{name}") for end in ends)
    }
    assert missing == set()


def test_writing_twice_changes_nothing() -> None:
    """Making the page anew from itself gives itself."""
    page = f"intro\n{docs.BEGIN}\nold\n{docs.END}\nmore\n"
    once = docs.render(page, docs.reference)
    assert docs.render(once, docs.reference) == once
    assert once.startswith("intro\n")
    assert once.endswith("\nmore\n")


@pytest.mark.parametrize("name", ["operations.md", "metrics.md"])
def test_alarms_are_for_metrics_that_there_are(name: str) -> None:
    """Each that the page names is in /metrics."""
    page = PAGE.with_name(name).read_text(encoding="utf-8")
    there = set(re.findall(r"^# HELP (\w+)", Metrics().render().decode(), re.MULTILINE))
    assert (named := set(re.findall(r"`(verbatim_\w+)`", page))) <= there
    assert named


def test_every_metric_is_on_its_page() -> None:
    """Each family that /metrics writes has a row, those of engines too."""
    page = (ROOT / docs.METRICS_PAGE).read_text(encoding="utf-8")
    families = re.findall(r"^# TYPE (\S+) (\w+)", Metrics().render().decode(), re.MULTILINE)
    assert len(families) > 40
    rows = re.findall(r"^\| `(\S+)` \| (counter|gauge|histogram) \|", page, re.MULTILINE)
    assert {family for family in families if not family[0].endswith("_created")} == set(rows)
