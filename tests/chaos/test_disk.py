"""What becomes of a server whose log cannot be written any more."""

from __future__ import annotations

import errno
import random
from pathlib import Path

import pytest

from benchmarks.chaos.faults import FAULTS
from tests.chaos.conftest import Subject, at_once

pytestmark = pytest.mark.engine


def fill(file: Path) -> None:
    """Until there is no room in it for a byte more."""
    with file.open("ab", buffering=0) as stream:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    stream.write(b"\n" * size)
            except OSError as error:
                assert error.errno == errno.ENOSPC  # noqa: PT017  # the one that is wanted


@pytest.mark.long
def test_full_disk_for_the_log_costs_the_log_alone(two: Subject, disk: Path) -> None:
    """Requests are answered, and resumed in an engine that starts without a log; when there is room again,
    the log goes on."""
    filler, before = disk / "filler", two.footprint()
    try:
        fill(filler)
        fill(two.server.log)  # its last page, which has room
        size = len(two.server.said())
        exchanges = at_once(
            two.port, two.bodies, lambda: FAULTS["kill -9"](two.pid, two.temporary, random.Random(1))
        )
        assert two.differences(exchanges) == []
        assert len(two.server.said()) - size < 8192  # what the files of the engine that is gone had taken
    finally:
        filler.unlink()
    at_once(two.port, two.bodies, lambda: FAULTS["kill -9"](two.pid, two.temporary, random.Random(1)))
    assert two.footprint().num_temporary == before.num_temporary  # the next engine has its files there again
    assert two.server.said()[size:].count("status=200") >= 1
