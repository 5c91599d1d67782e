"""LoRA adapters on vLLM's CUDA build, simulated GPU: which rows are given to which weights, and what comes
and goes. No product is computed."""

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

PARTS = ("two at once", "three", "none", "afterwards")
RANK = 16  # that there is room for: the largest of the adapters is 12


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What drive_lora.py saw."""
    work = tmp_path_factory.mktemp("lora")
    script = Path(__file__).parent / "drive_lora.py"
    ended = subprocess.run([RUN, "python", script, work], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def test_all_requests_end(seen: dict[str, Any]) -> None:
    """Of adapters and of the model itself, with our transforms, in one batch."""
    assert seen["is_v2"]
    assert seen["lengths"] == [6]
    assert seen["num_finished"] == 6 + 8 + 2 + 4


def test_each_row_has_its_adapter(seen: dict[str, Any]) -> None:
    """On the device, before each product: rows sorted by adapter, those without left out, and in each slot
    the weights of its adapter with the scale in B."""
    assert [seen[part]["wrong"] for part in PARTS] == [[]] * len(PARTS)


def test_two_share_a_step(seen: dict[str, Any]) -> None:
    """And never more than there are slots; of three, two are served at a time."""
    assert max(seen["two at once"]["together"]) == 2
    assert max(seen["three"]["together"]) == 2
    assert seen["none"]["together"] == [0]


def test_the_kernels_are_launched(seen: dict[str, Any]) -> None:
    """One for each product where a row has an adapter, and none where no row has."""
    for part in ("two at once", "three", "afterwards"):
        assert 0 < seen[part]["launches"] <= seen[part]["products"]
    assert seen["none"]["launches"] == 0
    assert f"shrink: 2 dimensions, torch.float32, weights [[2, 1, {RANK}, 128]]" in seen["three"]["sizes"]
    parts = [[2, 1, num_out, RANK] for num_out in (128, 64, 64)]  # of q, k and v
    assert f"expand: 3 dimensions, torch.bfloat16, weights {parts}" in seen["three"]["sizes"]


def test_they_come_and_go(seen: dict[str, Any]) -> None:
    """Read on first use; the longest unused leave and are read again; removed, none is left."""
    assert seen["two at once"]["loads"] == ["one", "two"]
    assert seen["three"]["loads"][0] == "three"
    assert len(seen["three"]["loads"]) > 1  # it took the place of one that is asked for after it
    assert len(seen["kept"]) == 2
    removed, num_left = seen["removed"]
    assert (removed, num_left) == ([True, True], 0)
    assert seen["afterwards"]["loads"] == ["one", "one", "two"]  # the first two in vain


def test_one_that_has_gone_ends_its_requests_alone(seen: dict[str, Any]) -> None:
    """With the reason; the engine goes on."""
    assert len(seen["cannot be loaded"]) == 2
    for reason in seen["cannot be loaded"]:
        assert "the adapter one cannot be loaded" in reason
