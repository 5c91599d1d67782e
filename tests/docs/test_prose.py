"""How documents, docstrings and comments are written."""

from __future__ import annotations

import pytest

from tests.docs.blocks import ROOT
from tests.docs.prose import files, mended, orphans

ROOMS = ("benchmarks", "bundle", "conform", "sampling", "scripts", "sealed", "server", "tests", "twin")


def test_no_word_is_alone_on_its_line() -> None:
    """A line of a docstring or comment is not the last word of a sentence alone."""
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
