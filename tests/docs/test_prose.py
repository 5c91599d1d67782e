"""How documents, docstrings and comments are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, pages
from tests.docs.prose import ROOMS, files, mended, orphans


def test_no_word_is_alone_on_its_line() -> None:
    """No line of a docstring or comment is one last word: `python -m tests.docs.prose` mends."""
    found = {
        f"{file.relative_to(ROOT)}:{line}": word
        for file in files(ROOT, ROOMS)
        for line, word in orphans(file.read_text("utf-8"))
    }
    assert found == {}


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ('"""One two three four five\nsix."""\n', '"""One two three\nfour five six."""\n'),
        ("x = 1\n# one two three four\n# five\n", "x = 1\n# one two\n# three four five\n"),
        ('"""Title.\n\n- one two three\n- four\n"""\n', None),
        ('"""One two three:\n\n    code\n"""\n', None),
    ],
)
def test_what_is_found(text: str, better: str | None) -> None:
    """The last word of a paragraph; no item of a list, no code. Mended, nothing is found."""
    assert bool(list(orphans(text))) is (better is not None)
    assert mended(text) == (better or text)
    assert list(orphans(mended(text))) == []


# Words of our own, or used in a way of our own, and what they are called elsewhere.
INSTEAD = {
    r"\bcarriers?\b": "disk, part",
    r"\bmakers?\b": "whoever made it; the key",
    r"\bpretended\b": "simulated, fake",
    r"\bmore senses\b": "multimodal",
    r"Again: forth": "a whole sentence",
    r"whoever does not think of it": "a whole sentence",
    r"missed there\s+as they must be": "a whole sentence",
    r"\banew\b": "again",
    r"\bof itself\b": "by itself",
    r"\bsuch a one\b": "name the thing",
    r", say[,.)]": "for example",
    r"\b[Ww]hat is no\b": "bytes that are not HTTP, a body that is not JSON",
    r"\bhouses differ\b": "servers, APIs",
}
READ = [ROOT / page for page in (*pages(), "Makefile", "Dockerfile.cuda")]


@pytest.mark.parametrize("file", READ, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_vocabulary_of_our_own(file: Path) -> None:
    """Words that only we use in that sense are not in what people read."""
    text = file.read_text("utf-8")
    assert {word: better for word, better in INSTEAD.items() if re.search(word, text)} == {}
