"""Whether an engine still lives: it is asked between its steps, and its processes are watched from outside.

A step may take long for good reasons, such as a long prompt on a busy machine. So time alone is not enough,
and on the CPU each layer of the model is a sign of life (layers.py).
An engine hangs if it gave no sign of life for hang_timeout_s and used the processor all the time (an endless
loop), or not at all (it waits for something that never comes), or if there was no sign for ten times as long.
An engine whose processes do not run at all, not even the thread in each that touches a file twice a second
(processes.py), is stopped: this is seen within five seconds, and cannot be mistaken for a wait for a GPU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from server.ticks import tick

LOOK_S = 1.0
RELIST_S = 15.0  # seconds between two searches for its processes
# Seconds without an answer, a beat, or any processor time after which it is stopped, for whatever reason.
STOPPED_S = 4.0
NO_CPU_S = 0.015  # the kernel counts in hundredths of a second
# Shares of the time of all its processors that count as all of it, and as none.
BUSY, IDLE = 0.9, 0.02
ENOUGH = 10  # times hang_timeout_s


@dataclass(frozen=True, slots=True)
class Vitals:
    """All processes of an engine together. is_stopped: one of them is, as by SIGSTOP. cpu_s: their processor
    time so far. beat: when one of them last showed that it runs, by any clock; 0: never. layer: when one of
    them last showed that its model gets on; 0: it never does so."""

    is_stopped: bool
    cpu_s: float
    beat: int = 0
    layer: int = 0


class Processes:
    """The processes of one engine, seen from outside. beat, layer: the files that they touch."""

    def __init__(self, beat: Path, layer: Path | None = None) -> None:
        self._beat, self._layer = beat, layer
        self._processes: list[psutil.Process] = []
        self._listed_at = -RELIST_S

    def look(self, pid: int) -> Vitals:
        """The state of the processes. pid: the first of them. Raises psutil.Error if it has ended."""
        if (now := time.monotonic()) >= self._listed_at + RELIST_S:
            self._processes, self._listed_at = family(pid), now
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
        return Vitals(is_stopped, cpu_s, _touched(self._beat), _touched(self._layer))


def family(pid: int) -> list[psutil.Process]:
    """The process, and those that it has started, and they. Raises psutil.Error if it has ended.

    psutil reads about every process of the machine, which on a large one takes a tenth of a second; most
    kernels list the children of each thread.
    """
    found, unseen = [psutil.Process(pid)], [pid]
    if not Path(f"/proc/{pid}/task/{pid}/children").exists():
        return [*found, *found[0].children(recursive=True)]
    while unseen:
        for children in Path(f"/proc/{unseen.pop()}/task").glob("*/children"):
            with contextlib.suppress(OSError):  # the thread has just ended
                for number in map(int, children.read_text().split()):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        found.append(psutil.Process(number))
                        unseen.append(number)
    return found


def _touched(file: Path | None) -> int:
    """When a file was touched; 0: it is not there."""
    try:
        return file.stat().st_mtime_ns if file is not None else 0
    except OSError:
        return 0


@dataclass(slots=True)
class Silence:
    """How long there was no sign of life of one kind, and the processor time before it."""

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
    """look: at the engine's processes. is_answered: whether the last question was answered, or none is open;
    it then asks the next one. has_stepped: whether there was a step, or nothing to do, since it was last
    called. num_threads: that compute at the same time. is_up: whether the engine can answer yet."""

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
        self._beat = self._layer = 0
        self._was_stopped = False
        self.is_up = False

    async def stops(self) -> str:
        """Return only when the engine hangs, with how in words."""
        while not self._hang_timeout_s:  # its state is asked for even so, for the metrics
            await tick(LOOK_S)
            if self.is_up:
                self._is_answered()
        last = time.monotonic()
        while True:
            await tick(LOOK_S)
            now = time.monotonic()
            # While this process itself stood still, it did not hear the engine.
            passed_s, last = min(now - last, 2 * LOOK_S), now
            try:
                vitals = self._look()
            except psutil.Error:
                continue  # it has ended, which is noticed elsewhere
            if word := self.judge(vitals, passed_s):
                return word

    def judge(self, vitals: Vitals, passed_s: float) -> str:
        """How it hangs, in words; empty: it does not."""
        was_stopped, self._was_stopped = self._was_stopped, vitals.is_stopped
        if was_stopped and vitals.is_stopped:
            return "one of its processes is stopped (SIGSTOP)"
        signs = (self._is_answered(), self._has_stepped()) if self.is_up else (True, True)
        got_on, self._layer = vitals.layer != self._layer, vitals.layer
        for silence, sign in zip((self._answer, self._step), signs, strict=True):
            silence.tick(passed_s, vitals.cpu_s, alive=sign or got_on)
        self._run.tick(passed_s, vitals.cpu_s, alive=vitals.beat != self._beat)
        self._beat = vitals.beat
        stood_s = min(self._answer.seconds, self._run.seconds)
        if stood_s >= STOPPED_S and vitals.cpu_s - self._answer.cpu_before_s <= NO_CPU_S:
            return f"it got no CPU time for {stood_s:.0f} s"
        for silence, what in ((self._answer, "did not answer"), (self._step, "had work but made no step")):
            if silence.convicts(vitals.cpu_s, self._hang_timeout_s, self._num_threads):
                return f"it {what} for {silence.seconds:.0f} s"
        return ""
