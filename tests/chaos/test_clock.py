"""What becomes of a server whose clock is set, as all of its processes see it."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks.chaos.faults import FAULTS
from tests.chaos.conftest import at_once, subject
from tests.serving import tiny_model

pytestmark = pytest.mark.engine

DAY_S = 86_400


@pytest.fixture
def clock(tmp_path: Path) -> tuple[dict[str, str], Callable[[int], None]]:
    """An environment whose clock can be moved by seconds, and the way to move it."""
    if shutil.which("cc") is None:
        pytest.skip("there is no C compiler")
    library, moved = tmp_path / "clock.so", tmp_path / "moved"
    source = Path(__file__).with_name("clock.c")
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)

    def move(seconds: int) -> None:
        with moved.open("r+b" if moved.exists() else "wb") as stream:
            stream.write(struct.pack("q", seconds))

    move(0)
    return {"LD_PRELOAD": str(library), "MOVED_CLOCK": str(moved)}, move


@pytest.mark.long
def test_clock_that_is_set(
    tiny_path: Path, short_path: Path, clock: tuple[dict[str, str], Callable[[int], None]]
) -> None:
    """Back by a day, forward by two, while requests run: nothing is taken for late or for hanging, no reply
    differs; and an engine that is killed then is followed by another one."""
    environ, move = clock
    config = {"models": [tiny_model(tiny_path)], "request_timeout_s": 200, "hang_timeout_s": 5}
    with subject(short_path, config, environ=environ) as one:
        one.learn(8, sampled=False)
        for days in (-1, 1):
            exchanges = at_once(one.port, one.bodies, lambda days=days: move(days * DAY_S))
            assert one.differences(exchanges) == []
            time.sleep(1.5)  # for whoever looks each second
        assert "ERROR" not in one.server.said()
        move(-400 * DAY_S)
        exchanges = at_once(
            one.port, one.bodies, lambda: FAULTS["kill -9"](one.pid, one.temporary, random.Random(1))
        )
        assert one.differences(exchanges) == []
        said = one.server.said()
        years = {line[:4] for line in said.splitlines() if " INFO " in line}
        assert len(years) == 2, "the clock was moved"
        assert "hangs" not in said
