"""What pages show to be typed is run by a test, or says why it is not."""

from __future__ import annotations

import pytest

from tests.docs.blocks import ROOT, Block, blocks, pages, pattern
from tests.docs.run.test_pages import PAGES

# Languages of blocks in which nothing is typed. Commands are console, each after a $.
CONTENT = {"", "caddyfile", "js", "json", "nginx", "python", "yaml"}


@pytest.mark.parametrize("page", pages())
def test_each_console_block_is_run(page: str) -> None:
    """By tests/docs/run, by the test that its mark names, or it has a mark that says why not."""
    for block in blocks((ROOT / page).read_text("utf-8")):
        where = f"{page}, line {block.line}"
        assert block.kind in {"console", *CONTENT}, f"{where}: {block.kind}"
        if block.runner:
            assert page.rpartition("/")[2] in (ROOT / block.runner).read_text("utf-8"), where
        elif block.kind == "console" and not block.reason:
            assert page in PAGES, f"{where}: no test runs it, and no mark says why"
            assert list(block.steps()), f"{where}: no line begins with $"


def test_marks() -> None:
    """A comment on the line before a block; a block without one is run."""
    text = """
<!-- run: tests/x.py -->
```console
$ one \\
  more
said
$ two
```
<!-- not run: because -->

```console
$ three
```

1. in `file.py`:

   ```python
   four
   ```
"""
    first, second, third = blocks(text)
    assert (first.runner, first.reason, first.line) == ("tests/x.py", "", 4)
    assert [(step.command, step.expected) for step in first.steps()] == [
        ("one \\\n  more", "said"),
        ("two", ""),
    ]
    assert (second.runner, second.reason) == ("", "")
    assert (third.file, third.content) == ("file.py", "four\n")
    assert isinstance(third, Block)


@pytest.mark.parametrize(
    ("shown", "said", "same"),
    [
        ("a … c", "noise a b c", True),
        ("Ready after 12.3 s.", "Ready after 0.4 s.", True),
        ('{"a":1,\n"b":2}', '{"a":1,"b":2}', True),
        ("a … c", "a b", False),
        ("128 tokens", "127 tokens", False),
    ],
)
def test_what_is_shown_is_what_is_said(shown: str, said: str, same: bool) -> None:
    """But for times, ids, how lines are broken, and what … stands for."""
    assert bool(pattern(shown).search(said)) is same
