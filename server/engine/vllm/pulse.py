"""Whether an engine still lives: it is asked between its steps, and its processes are looked at from outside.

A step may take long for good reasons: a long prompt on a machine that has other work. So time alone convicts
nobody: an engine hangs that gave no sign of life for hang_timeout_s and has had the processor all the while
(it turns in a circle), or not at all (it waits for something that never comes); or ten times as long. An
engine whose processes do not run at all, not even the thread in each that touches a file twice a second
(processes.py), is stopped: that is seen within five seconds, and is no wait for a GPU, however long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

LOOK_S = 1.0
RELIST_S = 15.0  # which processes it has: all of the machine's are gone through for that
# Without an answer, a beat, or any time on a processor, it is stopped, by whatever means.
STOPPED_S = 4.0
NO_CPU_S = 0.015  # the kernel counts in hundredths
# Shares of the time on all its processors that are as good as all of it, and as none.
BUSY, IDLE = 0.9, 0.02
ENOUGH = 10  # times hang_timeout_s


@dataclass(frozen=True, slots=True)
class Vitals:
    """Of all processes of an engine. is_stopped: one of them is, as by SIGSTOP. cpu_s: their time on
    processors, so far. beat: when one of them last showed that it runs, by whatever clock; 0: never."""

    is_stopped: bool
    cpu_s: float
    beat: int = 0


class Processes:
    """Of one engine, seen from outside. beat: the file that they touch."""

    def __init__(self, beat: Path) -> None:
        self._beat = beat
        self._processes: list[psutil.Process] = []
        self._listed_at = -RELIST_S

    def look(self, pid: int) -> Vitals:
        """pid: of the first of them. Raises psutil.Error where it has ended."""
        if (now := time.monotonic()) >= self._listed_at + RELIST_S:
            first = psutil.Process(pid)
            self._processes, self._listed_at = [first, *first.children(recursive=True)], now
        is_stopped, cpu_s = False, 0.0
        for process in self._processes:
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    is_stopped |= process.status() == psutil.STATUS_STOPPED
                    cpu_s += times.user + times.system
            except psutil.NoSuchProcess:
                self._listed_at = -RELIST_S
                if process.pid == pid:
                    raise
        try:
            beat = self._beat.stat().st_mtime_ns
        except OSError:
            beat = 0
        return Vitals(is_stopped, cpu_s, beat)


@dataclass(slots=True)
class Silence:
    """How long there was no sign of life of one kind, and the time on processors before it."""

    seconds: float = 0.0
    cpu_before_s: float = 0.0

    def tick(self, passed_s: float, cpu_s: float, *, alive: bool) -> None:
        if alive:
            self.seconds, self.cpu_before_s = 0.0, cpu_s
        else:
            self.seconds += passed_s

    def convicts(self, cpu_s: float, hang_timeout_s: float, num_threads: int) -> bool:
        used_s = cpu_s - self.cpu_before_s
        if self.seconds < hang_timeout_s:
            return False
        turns = used_s >= BUSY * hang_timeout_s * num_threads
        waits = used_s <= IDLE * self.seconds
        return turns or waits or self.seconds >= ENOUGH * hang_timeout_s


class Pulse:
    """look: at the engine's processes. is_answered: whether the last question was, or none is open; asks the
    next one if so. has_stepped: whether there was a step, or nothing to do, since the last time it was asked;
    None: cannot be known. num_threads: that compute at the same time. is_up: whether it can answer yet.
    """

    def __init__(
        self,
        look: Callable[[], Vitals],
        is_answered: Callable[[], bool],
        has_stepped: Callable[[], bool],
        *,
        hang_timeout_s: float,
        num_threads: int = 1,
    ) -> None:
        self._look = look
        self._is_answered = is_answered
        self._has_stepped = has_stepped
        self._hang_timeout_s = hang_timeout_s
        self._num_threads = num_threads
        self._answer, self._step, self._run = Silence(), Silence(), Silence()
        self._beat = 0
        self._was_stopped = False
        self.is_up = False

    async def stops(self) -> str:
        """Return only when the engine hangs, with a word on how."""
        if not self._hang_timeout_s:
            await asyncio.Event().wait()
        last = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            now = time.monotonic()
            # While this process itself stood still, it has not heard what the engine said.
            passed_s, last = min(now - last, 2 * LOOK_S), now
            try:
                vitals = self._look()
            except psutil.Error:
                continue  # it has ended, of which others tell
            if word := self.judge(vitals, passed_s):
                return word

    def judge(self, vitals: Vitals, passed_s: float) -> str:
        """A word on how it hangs; empty where it does not."""
        was_stopped, self._was_stopped = self._was_stopped, vitals.is_stopped
        if was_stopped and vitals.is_stopped:
            return "a process of it is stopped"
        signs = (self._is_answered(), self._has_stepped()) if self.is_up else (True, True)
        for silence, sign in zip((self._answer, self._step), signs, strict=True):
            silence.tick(passed_s, vitals.cpu_s, alive=sign)
        self._run.tick(passed_s, vitals.cpu_s, alive=vitals.beat != self._beat)
        self._beat = vitals.beat
        stood_s = min(self._answer.seconds, self._run.seconds)
        if stood_s >= STOPPED_S and vitals.cpu_s - self._answer.cpu_before_s <= NO_CPU_S:
            return f"it got no time on a processor for {stood_s:.0f} s"
        for silence, what in ((self._answer, "did not answer"), (self._step, "had work and made no step")):
            if silence.convicts(vitals.cpu_s, self._hang_timeout_s, self._num_threads):
                return f"it {what} for {silence.seconds:.0f} s"
        return ""
