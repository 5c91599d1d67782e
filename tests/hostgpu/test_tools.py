"""The tools for a GPU, as far as a simulated one shows anything: that they run. No numbers."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = pytest.mark.hostgpu

ROOT = Path(__file__).parents[2]
SAMPLING = """
from benchmarks.sampling import PARAMS
from benchmarks.sampling_cuda import measure

for name, params in PARAMS.items():
    cell = measure(3, 1000, name, params, repeats=2, num_seen=16)
    print(name, *(f"{form}:{len(cell[kind][form])}" for kind in ("ms", "host_ms") for form in cell[kind]))
"""


def there(code: str) -> str:
    """What the code prints in the environment of the simulated GPU."""
    command = [RUN, "python", "-c", code]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def test_the_driver_is_asked() -> None:
    """NVML says how many GPUs there are and what they hold; that one holds nothing."""
    assert there("from tests.gpu import nvml; print(nvml.num_gpus(), nvml.used_bytes())") == "1 0\n"


def test_both_samplers_are_measured() -> None:
    """Our processor and vLLM's V2 classes take the benchmark's state and launch their kernels, for each kind
    of parameters; each form has its times, the device's and the host's."""
    times = " ".join(f"{form}:3" for form in ("ours", "native", "copy"))
    names = ("greedy", "drawn", "top_k", "top_p", "repetition", "all")
    lines = there(SAMPLING).splitlines()[-len(names) :]
    assert lines == [f"{name} {times} {times}" for name in names]
