"""What a process writes when its log cannot be written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WRITES = """
import sys
{before}
print("to the log" * 1000, flush=True)
print("to the log" * 1000, file=sys.stderr, flush=True)
"""
OUTLASTS = "from server.observe.logs import outlast_a_full_disk; outlast_a_full_disk(); outlast_a_full_disk()"


@pytest.mark.parametrize(("before", "ends_well"), [(OUTLASTS, True), ("", False)])
def test_process_outlasts_a_full_disk(before: str, ends_well: bool) -> None:
    with Path("/dev/full").open("wb") as full:  # each write to it finds the disk full
        done = subprocess.run(
            [sys.executable, "-c", WRITES.format(before=before)], stdout=full, stderr=full, check=False
        )
    assert (done.returncode == 0) == ends_well


def test_what_can_be_written_is() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WRITES.format(before=OUTLASTS)], capture_output=True, check=True, text=True
    )
    assert done.stdout == done.stderr == "to the log" * 1000 + "\n"
