"""Our processor on vLLM's V1 runner, CUDA build, simulated GPU: devices and ends, no numbers."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.hostgpu.kinds import KINDS

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = pytest.mark.hostgpu


def test_every_kind_runs_on_the_device(tmp_path: Path) -> None:
    """Where V2 is switched off, requests of every kind end, and what they need is on the device."""
    script = Path(__file__).parent / "drive_runner_v1.py"
    ended = subprocess.run([RUN, "python", script, tmp_path], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert seen == {"is_v2": False, "devices": ["cuda:0"], "tokens": [4] * len(KINDS)}
