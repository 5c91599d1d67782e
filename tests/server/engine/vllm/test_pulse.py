"""Whether an engine lives: how signs of life are judged, and what is seen of its processes from outside."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

import server.engine.vllm.pulse as pulse_module
from server.engine.vllm.pulse import ENOUGH, Processes, Pulse, Vitals
from tests.helpers import until
from tests.serving import wait_for

TIMEOUT_S = 20.0
NUM_THREADS = 2


class Patient:
    """An engine as a pulse sees it: looked at each second, with what the test makes of it."""

    def __init__(self, *, is_up: bool = True, timeout_s: float = TIMEOUT_S) -> None:
        self.answers, self.steps, self.beats = True, True, True
        self.cpu_s, self.beat, self.layer = 100.0, 1, 0
        self.pulse = Pulse(
            lambda: Vitals(is_stopped=False, cpu_s=self.cpu_s),
            lambda: self.answers,
            lambda: self.steps,
            hang_timeout_s=timeout_s,
            num_threads=NUM_THREADS,
        )
        self.second()  # of its start
        self.pulse.is_up = is_up

    def second(self, share: float = 0.5, *, is_stopped: bool = False) -> str:
        """One more. share: of one processor that it had."""
        self.cpu_s += share
        self.beat += self.beats
        return self.pulse.judge(Vitals(is_stopped, self.cpu_s, self.beat, self.layer), 1.0)

    def seconds(self, count: int, share: float = 0.5) -> tuple[int, str]:
        """Up to that many: which of them was the last, and the verdict after it."""
        for number in range(1, count + 1):
            if verdict := self.second(share):
                return number, verdict
        return count, ""


@pytest.mark.parametrize("share", [0.0, 0.5, NUM_THREADS])
def test_who_gives_signs_of_life_lives(share: float) -> None:
    """However much or little it computes, and for however long."""
    assert Patient().seconds(1000, share) == (1000, "")


def test_a_stopped_process_is_seen_at_the_second_look() -> None:
    """Once may be a moment's, of a process that is being started say."""
    patient = Patient(is_up=False)
    assert patient.second(is_stopped=True) == ""
    assert patient.second() == ""
    assert patient.second(is_stopped=True) == ""
    assert patient.second(is_stopped=True) == "one of its processes is stopped (SIGSTOP)"


def test_one_that_does_not_run_at_all_is_seen_within_five_seconds() -> None:
    """Frozen by a cgroup, or traced: it is not in the state of one that was stopped."""
    patient = Patient()
    patient.second()
    patient.answers = patient.beats = False
    assert patient.seconds(30, share=0.0) == (4, "it got no CPU time for 4 s")


def test_one_that_waits_for_a_device_runs() -> None:
    """A step that takes a while on a GPU: no answer and no time on a processor, but for the beat of it."""
    patient = Patient()
    patient.answers = False
    assert patient.seconds(19, share=0.0) == (19, "")


def test_idle_processors_are_no_death() -> None:
    """An engine that has nothing to do answers, and uses nothing."""
    patient = Patient()
    patient.beats = False
    assert patient.seconds(100, share=0.0) == (100, "")


@pytest.mark.parametrize(("share", "how"), [(0.0, "waits"), (NUM_THREADS, "turns in a circle")])
def test_no_answer_for_too_long(share: float, how: str) -> None:
    """From one that has had the processor all the while, or never wanted it."""
    patient = Patient()
    patient.answers = False
    assert patient.seconds(100, share) == (20, "it did not answer for 20 s")


@pytest.mark.parametrize("share", [0.0, NUM_THREADS])
def test_no_step_for_too_long(share: float) -> None:
    """It answers, has work, and does none of it."""
    patient = Patient()
    patient.steps = False
    assert patient.seconds(100, share) == (20, "it had work but made no step for 20 s")


def test_a_busy_machine_is_no_hang() -> None:
    """A step that gets a tenth of the processors may take ten times as long; not for ever."""
    patient = Patient()
    patient.answers = patient.steps = False
    assert patient.seconds(1000, share=0.1 * NUM_THREADS)[0] == pytest.approx(0.9 * TIMEOUT_S / 0.1, abs=1)
    patient = Patient()
    patient.answers = False
    assert patient.seconds(1000, share=0.03 * NUM_THREADS)[0] == ENOUGH * TIMEOUT_S


def test_a_model_that_gets_on_is_no_hang() -> None:
    """A step on the CPU that computes for minutes, one layer after another; when there is no further layer,
    the silence counts from the last one."""
    patient = Patient()
    patient.answers = patient.steps = False
    for _ in range(30):
        patient.layer += 1
        assert patient.seconds(15, share=NUM_THREADS) == (15, "")
    assert patient.seconds(100, share=NUM_THREADS) == (6, "it did not answer for 20 s")


def test_a_sign_of_life_begins_it_anew() -> None:
    """One answer in time, and the next silence counts from there."""
    patient = Patient()
    for _ in range(5):
        patient.answers = False
        assert patient.seconds(19, share=NUM_THREADS) == (19, "")
        patient.answers = True
        assert patient.second() == ""


def test_one_that_is_starting_is_not_asked() -> None:
    """Loading weights takes as long as it takes, with and without the processor."""
    patient = Patient(is_up=False)
    patient.answers = patient.steps = patient.beats = False
    assert patient.seconds(1000, share=0.0) == (1000, "")
    assert patient.seconds(1000, share=NUM_THREADS) == (1000, "")
    patient.pulse.is_up = True
    assert patient.seconds(100, share=NUM_THREADS)[0] == 20


async def test_while_this_process_stands_still_nobody_is_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has not heard what the engine said meanwhile: a gap counts as two looks at most."""
    monkeypatch.setattr(pulse_module, "LOOK_S", 0.01)
    seen: list[float] = []
    pulse = Pulse(
        lambda: Vitals(is_stopped=False, cpu_s=1.0), lambda: True, lambda: True, hang_timeout_s=TIMEOUT_S
    )
    monkeypatch.setattr(pulse, "judge", lambda vitals, passed_s: seen.append(passed_s) or "")
    task = asyncio.create_task(pulse.stops())
    await until(lambda: seen)
    await asyncio.sleep(0)
    deaf(0.1)
    await until(lambda: len(seen) > 2)
    task.cancel()
    assert max(seen) <= 0.02


def deaf(seconds: float) -> None:
    """The loop stands still."""
    signal.sigtimedwait([], seconds)


async def test_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """With hang_timeout_s 0 an engine may be stopped for as long as somebody likes, in a debugger say."""
    monkeypatch.setattr(pulse_module, "LOOK_S", 0.001)
    pulse = Pulse(
        lambda: Vitals(is_stopped=True, cpu_s=1.0), lambda: False, lambda: False, hang_timeout_s=0.0
    )
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pulse.stops(), 0.05)


# --- what is seen from outside -----------------------------------------------------------------------------

# A process with a child, which both compute for a moment and say so.
FAMILY = """
import subprocess, sys, time
child = 0
if not sys.argv[1:]:
    started = subprocess.Popen([sys.executable, "-c", CODE, "child"], stdout=subprocess.PIPE)
    started.stdout.readline()
    child = started.pid
while time.process_time() < 0.3: pass
print(child, flush=True)
time.sleep(60)
"""


@pytest.fixture
def family() -> Iterator[tuple[int, int]]:
    """The numbers of a process and of its child."""
    code = f"CODE = {FAMILY!r}\n{FAMILY}"
    first = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert first.stdout is not None
    child = int(first.stdout.readline())
    yield first.pid, child
    for pid in (child, first.pid):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    first.stdout.close()


def test_all_of_its_processes_count(family: tuple[int, int], tmp_path: Path) -> None:
    """The time that they have had together; and one that is stopped is enough."""
    first, child = family
    processes = Processes(tmp_path / "beat")
    vitals = processes.look(first)
    assert vitals.cpu_s > 0.55
    assert (vitals.is_stopped, vitals.beat) == (False, 0)
    os.kill(child, signal.SIGSTOP)
    wait_for(lambda: processes.look(first).is_stopped, 30)


def test_the_kernels_lists_name_the_same_as_psutil(family: tuple[int, int]) -> None:
    """psutil goes through all processes of the machine for it."""
    first, child = family
    found = pulse_module.family(first)
    assert found == [psutil.Process(first), psutil.Process(child)]
    above = pulse_module.family(os.getpid())
    assert set(found) < set(above) <= {psutil.Process(), *psutil.Process().children(recursive=True)}


def test_a_child_that_has_ended_counts_no_more(family: tuple[int, int], tmp_path: Path) -> None:
    """The others do, and what the engine has started since is found."""
    processes = Processes(tmp_path / "beat")
    processes.look(family[0])
    ended = subprocess.Popen(["true"])
    processes._processes = [processes._processes[0], psutil.Process(ended.pid)]
    ended.wait()
    assert 0.25 < processes.look(family[0]).cpu_s < 0.55
    assert processes.look(family[0]).cpu_s > 0.55


def test_an_engine_that_has_ended_is_another_matter(tmp_path: Path) -> None:
    """Of which its end tells."""
    with pytest.raises(psutil.Error):
        Processes(tmp_path / "beat").look(0)
    gone = subprocess.Popen(["true"])
    processes = Processes(tmp_path / "beat")
    processes._processes, processes._listed_at = [psutil.Process(gone.pid)], float("inf")
    gone.wait()
    with pytest.raises(psutil.NoSuchProcess):
        processes.look(gone.pid)


def test_a_beat_is_the_files_time(tmp_path: Path) -> None:
    """Any change of it is one, also where the clock was set back."""
    processes = Processes(tmp_path / "beat")
    (tmp_path / "beat").touch()
    before = processes.look(os.getpid()).beat
    os.utime(tmp_path / "beat", (1, 1))
    assert before != processes.look(os.getpid()).beat == 10**9


async def test_without_a_time_limit_it_still_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer is also what the engine's gauges are set by; before it is up, nothing is asked."""
    monkeypatch.setattr(pulse_module, "LOOK_S", 0.01)
    asked: list[bool] = []

    def ask() -> bool:
        asked.append(True)
        return True

    pulse = Pulse(lambda: Vitals(is_stopped=False, cpu_s=1.0), ask, lambda: True, hang_timeout_s=0.0)
    task = asyncio.create_task(pulse.stops())
    await asyncio.sleep(0.1)
    assert not asked
    pulse.is_up = True
    await until(lambda: len(asked) > 2)
    assert not task.done()
    task.cancel()
