"""Fixed replies from a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from server.errors import ConfigurationError
from twin.scripted import read_script

FILE = r"""
- exact: "ping"
  reply: "pong"
- prefix: "Translate: "
  reply: "Übersetzt."
- regex: 'add (\d+) and (?P<b>\d+)'
  reply: '\1 + \g<b>'
- regex: "ping"
  reply: "later"
"""


@pytest.mark.parametrize(
    ("prompt", "reply"),
    [
        ("ping", "pong"),
        ("Translate: Haus", "Übersetzt."),
        ("please add 2 and 3 now", "2 + 3"),
        ("a ping", "later"),
        ("anything", None),
        ("", None),
    ],
)
def test_first_that_matches_answers(tmp_path: Path, prompt: str, reply: str | None) -> None:
    """Exactly, by its beginning, or by a regular expression, whose groups the reply may name."""
    file = tmp_path / "script.yaml"
    file.write_text(FILE)
    assert read_script(file)(prompt) == reply


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("exact: a", "must be a list of replies"),
        ("- a", "reply 1 must be `- exact"),
        ("- exact: a", "reply 1 must be `- exact"),
        ("- {exact: a, prefix: b, reply: c}", "reply 1 must be"),
        (
            "- {exact: a, reply: b}\n- {exakt: a, reply: b}",
            'reply 2: unknown key "exakt"; did you mean "exact"',
        ),
        ("- {exact: 1, reply: b}", "must be text; put it in quotes"),
        ("- {regex: '(', reply: b}", "regex or reply: missing \\)"),
        ("- {regex: a, reply: '\\2'}", "regex or reply: invalid group reference"),
        ("- [", "is not valid YAML"),
    ],
)
def test_bad_file_is_refused(tmp_path: Path, content: str, words: str) -> None:
    """With what is wrong in which reply."""
    file = tmp_path / "script.yaml"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match=words):
        read_script(file)
