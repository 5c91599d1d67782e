"""`verbatim conform`, on a server that gives the same reply to everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from conform.cli import conform
from tests.conform.canned import listening

app = typer.Typer()
app.command()(conform)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with listening() as found:
        yield found


def call(*words: str | Path, **environ: str) -> Result:
    names = ("URL", "API_KEY", "MODEL", "AGAINST_KEY", "CA", "CLIENT_CERT", "CLIENT_KEY")
    clean = {"COLUMNS": "200", **{f"VERBATIM_{name}": None for name in names}}
    return CliRunner(env=clean | environ).invoke(app, [str(word) for word in words])


def test_what_holds(url: str) -> None:
    """Exit code 0; the budget comes first, then where and what, then the totals."""
    result = call(url, "--only", "reply.no-error-key")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("1 rules, at most ")
    assert lines[1] == f"m at {url}/v1, by the rules of hosted"
    assert lines[-1].startswith("1 of 1 rules hold for the profile hosted; ")


def test_what_the_environment_says() -> None:
    """Address, key and model; each server gets its own key, and no other. An option comes before it."""
    here: set[str] = set()
    there: set[str] = set()
    with listening(here) as url, listening(there) as other:
        environ = {
            "VERBATIM_URL": url,
            "VERBATIM_API_KEY": "first",
            "VERBATIM_AGAINST_KEY": "second",
            "VERBATIM_MODEL": "named",
        }
        result = call("--only", "reply.no-error-key", "--against", other, **environ)
        assert result.exit_code == 0, result.output
        assert f"named at {url}/v1" in result.output
        assert f"m at {other}/v1" in result.output
        assert (here, there) == ({"first"}, {"second"})
        call(other, "--key", "third", "--only", "reply.no-error-key", **environ)
        assert (here, there) == ({"first"}, {"second", "third"})


def test_what_does_not(url: str) -> None:
    """Exit code 1, and what was seen."""
    result = call(url, "--only", "reply.id-form")
    assert result.exit_code == 1
    assert "failed  reply.id-form: id is 'cmpl-1'" in result.output


def test_what_differs(url: str) -> None:
    """Exit code 0: it is no failure with this profile."""
    result = call(url, "--only", "reply.id-form", "--profile", "vllm")
    assert result.exit_code == 0
    assert "differs reply.id-form: ids begin with cmpl- (id is 'cmpl-1')" in result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["http://127.0.0.1:9"], "no server answers at http://127.0.0.1:9/"),
        (["ftp://x"], "ftp://x is not an http or https URL"),
        (["URL", "--only", "nothing"], "--only nothing matches no rule"),
        (["URL", "--only", "reply.head", "--json", "/no/such/folder/a.json"], "cannot write /no/such/folder"),
    ],
)
def test_what_cannot_be_run(url: str, words: list[str], said: str) -> None:
    """Exit code 2, and one line that says why."""
    result = call(*(word.replace("URL", url) for word in words))
    assert result.exit_code == 2
    assert said in result.stderr


def test_files(url: str, tmp_path: Path) -> None:
    """Of both servers, and the difference after the first one's Markdown."""
    files = [tmp_path / name for name in ("a.json", "a.xml", "a.md")]
    flags = [word for pair in zip(("--json", "--junit", "--markdown"), files, strict=True) for word in pair]
    result = call(url, "--only", "reply", "--against", url, *flags)
    assert "Rules with another result there: 0" in result.output
    assert all(file.read_text() for file in files)
    assert json.loads((tmp_path / "a-against.json").read_text())["totals"]
    assert "All rules have the same result." in (tmp_path / "a.md").read_text()
