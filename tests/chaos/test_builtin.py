"""The built-in model loses its engine."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks.chaos.faults import FAULTS
from tests.chaos.conftest import at_once, subject
from tests.serving import CAPITAL, SMOL, SMOL_MODEL

pytestmark = pytest.mark.engine


@pytest.mark.long
def test_text_makes_the_same_sense(tiny_path: Path, short_path: Path) -> None:
    """kill -9 in the middle of a sentence of the built-in model, in float32: it is ended as it would be."""
    body: dict[str, Any] = {"model": SMOL, "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    prompts = [CAPITAL, "Water boils at", "The first president of the United States was", "Two plus two is"]
    bodies = [{**body, "prompt": prompt, "stream": True} for prompt in prompts]
    with subject(short_path, {"models": [SMOL_MODEL | {"dtype": "float32"}]}) as one:
        expected = [exchange.reply() for exchange in at_once(one.port, bodies)]
        exchanges = at_once(
            one.port, bodies, lambda: FAULTS["kill -9"](one.pid, one.temporary, random.Random(1))
        )
        for exchange, other in zip(exchanges, expected, strict=True):
            assert exchange.reply().difference(other) == ""
            assert exchange.num_comments
        assert expected[0].choices[0]["text"].startswith(" Paris.")
        assert "4 candidates continue after" in one.server.said()
