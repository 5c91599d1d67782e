"""Whether this process's event loop runs: while it stands still nobody is answered, and nobody would notice.

The loop shows every second that it runs. A thread beside it says where it stands when it does not; where
even that thread cannot run (a library keeps the interpreter to itself, or the whole process was stopped), the
loop finds out itself when it goes on.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable

from server.ticks import tick

log = logging.getLogger(__name__)

STALL_S = 5.0
BEAT_S = 1.0
# How long after a stall the process counts as unwell, so that probes learn of it. One stall is no reason to
# restart a process that continues: this is less than a prober's patience, mostly three times ten seconds.
UNWELL_S = 15.0


class LoopWatch:
    """on_stall: called once per stall, perhaps from another thread."""

    def __init__(self, on_stall: Callable[[], None] = lambda: None) -> None:
        self.on_stall = on_stall
        self.last_stall_s = 0.0  # duration of the last stall
        self._ended_at = float("-inf")  # its end (time.monotonic)
        self._beat_at = 0.0
        self._is_told = False  # whether the current stall was logged
        self._telling = threading.Lock()

    @property
    def is_well(self) -> bool:
        return time.monotonic() - self._ended_at >= UNWELL_S

    async def watch(self) -> None:
        """Watch the loop on which this runs, until cancelled."""
        over, self._loop_thread = threading.Event(), threading.get_ident()
        self._beat_at = time.monotonic()
        threading.Thread(target=self._look, args=(over,), name="loop-watch", daemon=True).start()
        try:
            while True:
                await tick(BEAT_S)
                self._beat()
        finally:
            over.set()

    def _beat(self) -> None:
        now = time.monotonic()
        silent_s, self._beat_at = now - self._beat_at, now
        if silent_s >= STALL_S:
            self._tell()
            self.last_stall_s, self._ended_at, self._is_told = silent_s, now, False
            log.error("the event loop runs again, after it stood still for %.1f s", silent_s)

    def _look(self, over: threading.Event) -> None:
        while not over.wait(BEAT_S):
            silent_s = time.monotonic() - self._beat_at
            if silent_s >= STALL_S and self._tell():
                frame = sys._current_frames().get(self._loop_thread)
                stack = "".join(traceback.format_stack(frame)) if frame is not None else ""
                log.error("the event loop has stood still for %.1f s, here:\n%s", silent_s, stack)

    def _tell(self) -> bool:
        """Whether the stall was not logged before."""
        with self._telling:
            is_news, self._is_told = not self._is_told, True
        if is_news:
            self.on_stall()
        return is_news
