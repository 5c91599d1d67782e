"""Whose suspect is tried, where several processes have jobs on one engine."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from server.engine.trials import Trials
from server.engine.work import TRIALS_S
from tests.helpers import until
from tests.server.engine.test_work import Hand, Jobs, job


def of_process(folder: Path, name: str) -> Trials:
    """As another process has it."""
    trials = Trials(folder)
    trials._name = name
    return trials


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "trials"


def test_one_after_another(folder: Path) -> None:
    """The first that has suspects, then the second; one that has none waits for both."""
    first, second, third = (of_process(folder, name) for name in "123")
    assert first.is_next()
    assert third.is_next()
    second.note(has_suspects=True)
    first.note(has_suspects=True)
    assert [one.is_next() for one in (first, second, third)] == [True, False, False]
    first.note(has_suspects=False)
    assert [one.is_next() for one in (first, second, third)] == [False, True, False]
    second.note(has_suspects=False)
    assert [one.is_next() for one in (first, second, third)] == [True, True, True]
    assert list(folder.iterdir()) == []


def test_a_process_that_dies_has_no_suspects(folder: Path) -> None:
    """Whatever it has left behind, nobody waits for it."""
    code = f"""
import os, sys
from pathlib import Path
from server.engine.trials import Trials
Trials(Path({str(folder)!r})).note(has_suspects=True)
print(flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as other:
        assert other.stdout is not None
        other.stdout.readline()
        mine = Trials(folder)
        assert not mine.is_next()
        other.kill()
        other.wait()
        assert mine.is_next()
    assert list(folder.iterdir()) == []


async def test_an_innocent_one_is_not_tried_beside_another_processs(folder: Path) -> None:
    """Two processes with suspects: the second sends nothing until the first one's has a token, and what has
    come to it meanwhile neither."""
    first, second = Jobs("a"), Jobs("b")
    for number, jobs in enumerate((first, second)):
        jobs.work.suspects.trials = of_process(folder, str(number))
    for jobs in (first, second):
        jobs.next()
    for jobs in (first, second):
        jobs.work.lose()
    engines = [Hand(), Hand()]
    for jobs, engine in zip((first, second), engines, strict=True):
        jobs.work.begin(engine)
    second.submit(job("c"))
    await asyncio.sleep(2 * TRIALS_S)
    assert [list(engine.jobs) for engine in engines] == [["a.2"], []]
    engines[0].say("a.2", 5)
    await until(lambda: list(engines[1].jobs) == ["b.2"])
    await asyncio.sleep(2 * TRIALS_S)
    engines[1].say("b.2", 5)
    await until(lambda: list(engines[1].jobs) == ["b.2", "c"])
