"""docs/changing names files that are there, and functions of the code keep their places."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT
from tests.test_layering import ROOMS

PAGES = sorted((ROOT / "docs/changing").glob("*.md"))
PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+|[\w-]+\.(?:yaml|md|toml))`")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_is_there(page: Path) -> None:
    """What a page names by its path in the repository."""
    named = set(PATH.findall(page.read_text("utf-8"))) - {"/openapi.json"}
    assert len(named) > 15
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_room_is_in_the_table() -> None:
    """docs/changing/architecture.md has each room of the layering test."""
    page = (ROOT / "docs/changing/architecture.md").read_text("utf-8")
    named = set(re.findall(r"`([\w/]+?)/?`", page))
    rooms = [room.replace(".", "/") for room in ROOMS if room.count(".") < 2]
    folders = [room for room in rooms if (ROOT / room).is_dir() and room != "server"]
    tops = [room for room in folders if "/" not in room or room.startswith(("server/", "bundle/"))]
    assert [room for room in tops if room not in named] == []


def test_the_picture_has_an_alternative() -> None:
    """In the file itself, for whoever opens it alone; the page has one in words."""
    picture = (ROOT / "docs/images/architecture.svg").read_text("utf-8")
    assert "<title" in picture
    assert "<desc" in picture
    named = set(re.findall(r"\b(?:server|sampling|twin)/[\w/.]*\w", picture))
    assert len(named) > 8
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []
