"""What a real engine logs, in a server whose log is JSON."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.serving import SMOL_MODEL, serving, wait_for

pytestmark = pytest.mark.engine


@pytest.mark.long
def test_an_engines_lines_are_json(tmp_path: Path) -> None:
    """All that vLLM says at the level `info`, from its own processes."""
    environ = {**os.environ, "VLLM_LOGGING_LEVEL": "INFO"}
    with serving(tmp_path, {"models": [SMOL_MODEL], "log_format": "json"}, environ=environ) as server:
        wait_for(lambda: '"event": "server.ready"' in server.said(), 240)
    found, text = [], []
    for line in server.said().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            text.append(line)
    of_vllm = [line for line in found if line["event"] == "other" and line["logger"].startswith("vllm.")]
    assert len(of_vllm) > 10
    assert {"pid", "message", "level"} <= of_vllm[0].keys()
    assert [line for line in text if "INFO" in line or "WARNING" in line] == []
