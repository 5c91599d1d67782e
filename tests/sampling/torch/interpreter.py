"""Kernels on the CPU: a test module runs in a process of its own, in which Triton interprets its kernels.

Triton decides that when it is imported, and other tests import it too; so the module's tests run in a child,
all at once, and each test here reports what became of its counterpart there.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest

IS_CHILD = os.environ.get("TRITON_INTERPRET") == "1"


@pytest.fixture(autouse=True)
def interpreted(request: pytest.FixtureRequest) -> None:
    """To be imported by a test module: runs its tests in the child."""
    if not IS_CHILD:
        config = request.config
        outcomes = _run(Path(request.path), config.getoption("--long"), config.getoption("-m"))
        said = outcomes.get(request.node.name, outcomes.get("", "it did not run in the child process"))
        request.node.obj = lambda **_: pytest.fail(said, pytrace=False) if said else None


def interpret_vllms_kernels() -> None:
    """Before the first import of vLLM's, in the child: vLLM's CPU build takes Triton for missing, and its
    buffers for both sides would want a device."""
    from triton.backends import backends

    backends.setdefault("cpu", SimpleNamespace(driver=None))
    import vllm.triton_utils
    from vllm.v1.worker.gpu import buffer_utils

    assert vllm.triton_utils.HAS_TRITON, "imported before"
    buffer_utils.is_uva_available = lambda: False


@functools.cache
def _run(file: Path, long: bool, marked: str) -> dict[str, str]:
    """What went wrong in each test of the file, '' if nothing; of a child that crashed, what it said last.
    The child has the tests that this run has: the long ones only if they are asked for (tests/tiers.py)."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory, "report.xml")
        options = ["-q", "-p", "no:cacheprovider", f"--junitxml={report}", "--timeout=0", "-m", marked]
        options += ["--long"] if long else []
        command = [sys.executable, "-m", "pytest", *options, str(file)]
        environment = os.environ | {"TRITON_INTERPRET": "1"}
        root = Path(__file__).parents[3]
        ended = subprocess.run(
            command, cwd=root, env=environment, check=False, capture_output=True, text=True
        )
        if not report.is_file():
            return {"": ended.stdout + ended.stderr}
        cases = ElementTree.parse(report).iter("testcase")  # noqa: S314  # pytest's own report
        return {case.attrib["name"]: "".join(_text(part) for part in case) for case in cases}


def _text(part: ElementTree.Element) -> str:
    """A failure, an error or the reason of a skip; not what a test has printed."""
    return "" if part.tag.startswith("system-") else f"{part.text or part.attrib.get('message')}"
