"""The engine that computes nothing, which most benchmarks of a front end need."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.servers import STEP_FILE, set_step
from benchmarks.wire import engine_in

pytestmark = pytest.mark.engine


def test_the_idle_engine_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all that this server does to vLLM's engine, it answers the requests of its warm-up."""
    set_step(tmp_path / "step", 0.0)
    monkeypatch.setenv(STEP_FILE, str(tmp_path / "step"))
    with engine_in(tmp_path, ["front"]):
        assert (tmp_path / "front").is_dir()
