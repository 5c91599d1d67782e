"""Regular expressions of `journal.redact`: those that take for ever are refused at the start."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from server.config.loading import load_settings
from server.config.settings import Settings
from server.errors import ConfigurationError


def settings(folder: Path, pattern: str) -> Settings:
    file = folder / "models.yaml"
    quoted = pattern.replace("'", "''")
    file.write_text(f"models: [{{id: m, path: .}}]\njournal:\n  path: journal\n  redact:\n    - '{quoted}'\n")
    return load_settings(file, {}, {})


@pytest.mark.parametrize(
    "pattern",
    [
        r"[\w.+-]+@[\w-]+\.[\w.-]+",
        r"\b\d{3}-\d{2}-\d{4}\b",
        r"\b(?:\d[ -]?){13,16}\b",
        r"(?i)bearer\s+[a-z0-9._~+/-]+=*",
        r"\+?\d[\d ()/-]{6,}\d",
        r"-----BEGIN [A-Z ]+-----[^-]*-----END [A-Z ]+-----",
        r"vb-[\w-]{43}",
        r"(?:[a-z]+\.)+example\.com",
        r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}\b",
    ],
)
def test_what_people_redact_is_taken(tmp_path: Path, pattern: str) -> None:
    """Addresses, numbers of cards and accounts, keys."""
    found = settings(tmp_path, pattern).journal
    assert found is not None
    assert found.redact == (pattern,)
    assert found.path == tmp_path / "journal"


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"([a-z]+)*\d",
        r"(x|xx)+y$",
        r"(\w|\w\w)+@",
        r"(\s*,?\s*)+;",
        r"^(([a-z])+.)+[A-Z]([a-z])+$",
        r"(.*secret.*)+!",
        r"(\d+\d+)+-",
    ],
)
def test_what_takes_for_ever_is_refused(tmp_path: Path, pattern: str) -> None:
    """In a moment, with the line, and a text that shows it."""
    began = time.thread_time()
    with pytest.raises(ConfigurationError, match=r"models.yaml, line 5: .*takes too long on texts like"):
        settings(tmp_path, pattern)
    assert time.thread_time() - began < 5


def test_what_does_not_compile_is_refused(tmp_path: Path) -> None:
    """With its line and the reason."""
    with pytest.raises(
        ConfigurationError, match=r"line 5: journal.redact is \"\(a\"; it is not a valid regular .*unterm"
    ):
        settings(tmp_path, "(a")


def test_what_fits_nothing_is_refused(tmp_path: Path) -> None:
    """It would stand between all characters of a text."""
    with pytest.raises(ConfigurationError, match="must not match the empty text"):
        settings(tmp_path, "a*")
