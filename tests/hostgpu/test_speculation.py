"""Drafts beside our processor on vLLM's V2 runner, CUDA build, simulated GPU: rows and shapes. That texts are
those without drafts is in tests/sampling/torch/test_speculative_v2.py, with numbers."""

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


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What drive_speculation.py saw."""
    work = tmp_path_factory.mktemp("speculation")
    script = Path(__file__).parent / "drive_speculation.py"
    ended = subprocess.run([RUN, "python", script, work], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_the_verification_is_ours(seen: dict[str, Any]) -> None:
    """In vLLM's V2 runner, by a worker of ours."""
    assert seen["is_v2"]
    assert seen["verification"] == "sampling.speculative_v2"


def test_texts_are_as_long_as_asked(seen: dict[str, Any]) -> None:
    """Whatever is accepted in a step; texts with a grammar follow it, and steps bring several tokens."""
    assert seen["lengths"] == [20]
    assert seen["num_finished"] == 18
    for text in seen["grammars"]:
        assert re.fullmatch("([a-d]{2} ){3}end", text)
    assert seen["num_verified"] > 5
    assert seen["num_without"] > 0


def test_every_kernel_sees_every_row(seen: dict[str, Any]) -> None:
    """A row for each draft and one more; slots, places and tokens of as many; log-probabilities too, as wide
    as the widest request's, and NaN by request."""
    assert seen["wrong"] == []
    assert set(seen["launched"]) == {
        *("_penalise_kernel", "_min_p_kernel", "_limit_kernel", "_weigh_kernel", "_draw_kernel"),
        *("_allow_kernel", "_bad_words_kernel"),
    }
    assert seen["widths"] == [2, 4]  # with one that names three tokens in the batch, and when it has ended


def test_drafts_make_nothing_compile_again(seen: dict[str, Any]) -> None:
    """A step with drafts and one without use the same form of each kernel."""
    assert set(seen["compiled"].values()) <= {0, 1}
