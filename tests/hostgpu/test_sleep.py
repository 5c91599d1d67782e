"""vLLM's sleep mode with our processor, CUDA build, simulated GPU: memory that goes and comes back, weights
bit by bit, by calls as the server makes them. No numbers.

What it says of memory is the device's own account: the simulated one knows each byte that is mapped.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = pytest.mark.hostgpu


def driven(work: Path, where: str) -> dict[str, Any]:
    """What drive_sleep.py saw."""
    script = Path(__file__).parent / "drive_sleep.py"
    ended = subprocess.run([RUN, "python", script, work, where], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return driven(tmp_path_factory.mktemp("sleep"), "here")


def test_it_answers_after_each_sleep(seen: dict[str, Any]) -> None:
    """On the V2 runner, with every transform on and with none."""
    assert seen["is_v2"]
    assert seen["tokens"] == 3 * [[4, 4, 4]]


@pytest.mark.parametrize("level", ["level 1", "level 2"])
def test_asleep_it_holds_no_weights_and_no_cache(seen: dict[str, Any], level: str) -> None:
    """Their memory is free, and is taken again when it wakes."""
    found = seen[level]
    assert not found["was_readable"]
    assert found["is_readable"]
    assert found["freed"] > seen["bytes"]
    assert found["used_again"] > seen["bytes"]


def test_level_1_keeps_the_weights(seen: dict[str, Any]) -> None:
    """In the host's memory: awake, every byte is as before."""
    assert seen["level 1"]["same"]


def test_level_2_has_to_read_the_weights_again(seen: dict[str, Any]) -> None:
    """They are lost, and reload_weights has each from the files."""
    assert not seen["level 2"]["same"]
    assert seen["level 2"]["reloaded"]


@pytest.mark.parametrize("level", ["level 1", "level 2"])
def test_our_tables_are_told_again(seen: dict[str, Any], level: str) -> None:
    """They are in the memory of the weights, and at level 2 lost: the next request that needs anything sends
    what the host knows of all slots."""
    assert seen[level]["tables_are_told"]


def test_it_sleeps_by_calls_over_a_socket(tmp_path: Path) -> None:
    """In a process of its own: a request that comes meanwhile has its turn when the engine is awake."""
    assert driven(tmp_path, "process") == {
        "tokens": [4] * 5,
        "asleep": [True, False] * 2,
        "awake": [True, True],
        "same": [True, True],
    }
