"""Grammars beside our processor on vLLM's V2 runner, CUDA build, simulated GPU: which row is masked with
what, before what. The tokens are chosen on the host, of what the masks let through (tests/hostgpu/engine.py).
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = pytest.mark.hostgpu

PATTERNS = {
    "json": r'\{"a":"(x|yes)"\}',
    "regex": "([a-d]{2} ){3}end",
    "choice": "Paris|Rome|a small town",
    "none": "(?s).+",
}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What drive_structured.py saw."""
    work = tmp_path_factory.mktemp("structured")
    script = Path(__file__).parent / "drive_structured.py"
    ended = subprocess.run([RUN, "python", script, work], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_texts_follow_their_grammars(seen: dict[str, Any]) -> None:
    """A JSON schema, a regular expression and a choice, each with every transform of ours, in batches that
    also have requests without one; all end."""
    assert seen["is_v2"]
    assert len(seen["texts"]) == 20
    for name, text in seen["texts"].items():
        form, _, _ = name.partition(" ")
        assert re.fullmatch(PATTERNS[form], text), name
    assert set(seen["finished"]) == set(seen["texts"])


def test_each_row_has_its_own_mask(seen: dict[str, Any]) -> None:
    """On the device, each step: the mask of the request whose row it is, after what that one has said, and no
    row without a grammar; our kernels know each row's request too."""
    assert seen["wrong"] == []
    assert seen["checked"] > 60
    assert seen["mixed"] > 10


def test_the_mask_comes_first(seen: dict[str, Any]) -> None:
    """Then vLLM's sampler takes the same logits, and of those our kernels."""
    assert set(seen["orders"]) <= {"mask sampler ours", "mask sampler"}
    assert "mask sampler ours" in seen["orders"]
