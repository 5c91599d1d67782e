"""Small disks for tests: file systems of their own, which are soon full."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """An empty disk of `size` (as mount(8) has it: `64k`, `8m`). Skips the test where none can be mounted.

    It is not below pytest's temporary directory: what a killed run leaves mounted there makes the next run
    fail when it tidies up. The end does not wait for a process that still has the disk open.
    """
    path = Path(tempfile.mkdtemp(prefix="verbatim-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    try:
        if subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("no file system can be mounted here")
        try:
            yield path
        finally:
            subprocess.run(["umount", "--lazy", path], check=True)
    finally:
        path.rmdir()
