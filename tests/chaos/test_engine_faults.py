"""What becomes of running requests when something happens to their engine."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import pytest

from benchmarks.chaos.faults import FAULTS, engines
from tests.chaos.conftest import Subject, assert_gone, at_once
from tests.serving import TINY

pytestmark = pytest.mark.engine

DEATHS = f'verbatim_engine_deaths_total{{engine="0",model="{TINY}"}}'
HANGS = f'verbatim_engine_hangs_total{{engine="0",model="{TINY}"}}'
RESUMED = f'verbatim_resumed_total{{engine="0",model="{TINY}"}}'


@dataclass(frozen=True)
class Case:
    """said: what the log says of it. num_deaths, num_hangs: as they are counted. pauses: whether clients
    notice, by a comment."""

    fault: str
    said: str
    num_deaths: int = 1
    num_hangs: int = 0
    pauses: bool = True


CASES = (
    Case("kill -9", r"the engine process ended, by signal 9; restarting it"),
    Case("SIGSEGV", r"the engine process ended, by signal 11; restarting it"),
    Case(
        "SIGSTOP",
        r"the engine hangs: one of its processes is stopped \(SIGSTOP\); restarting it",
        num_hangs=1,
    ),
    Case("garbage", r"a message of the engine cannot be decoded"),
    Case("cut message to a worker", r"a message of the engine cannot be decoded", num_deaths=0, pauses=False),
)
MANY = ("SIGSEGV", "garbage")  # to the server they are much like others


@pytest.mark.parametrize(
    "case",
    [pytest.param(case, marks=[pytest.mark.long] * (case.fault in MANY), id=case.fault) for case in CASES],
)
def test_every_reply_is_as_without_the_fault(two: Subject, case: Case) -> None:
    """Streamed and whole, none is lost or wrong; the log says what was, and nothing of it is left."""
    before, log = two.footprint(), len(two.server.said())
    with two.client() as client:
        counted = [client.metric(name) for name in (DEATHS, HANGS, RESUMED)]
    lost = [process for engine in engines(two.pid) for process in (engine, *engine.children())]
    exchanges = at_once(
        two.port, two.bodies, lambda: FAULTS[case.fault](two.pid, two.temporary, random.Random(1))
    )
    assert two.differences(exchanges) == []
    assert any(one.num_comments for one in exchanges) is case.pauses
    assert re.search(case.said, two.server.said()[log:])
    resumed = re.search(r"model tests/tiny-llama: \d+ candidates continue after ", two.server.said()[log:])
    assert (resumed is not None) is bool(case.num_deaths)
    with two.client() as client:
        assert client.metric(DEATHS) == counted[0] + case.num_deaths
        assert client.metric(HANGS) == counted[1] + case.num_hangs
        assert client.metric(RESUMED) > counted[2]
    assert_gone(lost if case.num_deaths else [])
    two.settle(before.num_files)
    assert two.footprint().num_processes == before.num_processes
    assert two.footprint().num_temporary == before.num_temporary
