"""The installer's output: a line for each step, and progress for long ones."""

from __future__ import annotations

import shutil
import sys
import time


class Console:
    """One changing line on a terminal; elsewhere a plain line every few seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.started_at = time.monotonic()
        self._printed_at = self.started_at

    def say(self, text: str = "") -> None:
        self._clear()
        print(text, flush=True)

    def step(self, text: str) -> None:
        """A step begins, or has made progress."""
        line = f"{time.monotonic() - self.started_at:4.0f} s  {text}"
        if self.terminal:
            print("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif time.monotonic() - self._printed_at >= 3:
            self._printed_at = time.monotonic()
            print(line, flush=True)

    def bytes(self, text: str, done: int, total: int) -> None:
        self.step(f"{text}: {done / 1e6:.0f} of {total / 1e6:.0f} MB")

    def _clear(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)
