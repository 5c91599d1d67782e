"""The nodes of a cluster speak to each other, and to nobody else."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.airgap.namespace import Namespace, why_not

ROOT = Path(__file__).parents[2]


@pytest.mark.long  # beside test_airgap.py, which has one server's silence
@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
def test_a_cluster_sends_nothing_to_others(namespace: Namespace | None, tmp_path: Path) -> None:
    """Not a packet leaves its machines, from the start of Ray's nodes to the end of the last of them."""
    if namespace is None:
        pytest.skip(str(why_not()))
    subprocess.run([sys.executable, ROOT / "tests/tiny_llama.py", tmp_path / "model"], check=True)
    script = namespace.inside(
        sys.executable, "-m", "tests.airgap.cluster", str(tmp_path / "model"), str(tmp_path / "server")
    )
    with namespace.captured(tmp_path / "capture") as capture:
        ran = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert (ran.returncode, ran.stdout) == (0, "length\n"), ran.stderr + ran.stdout
    assert capture.packets() == []
