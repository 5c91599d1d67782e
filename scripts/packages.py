"""Installs a list of requirements/ with pip, checks every file against its digest, and shows the progress.

It uses the standard library alone, because it runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from server.pip import TORCH_CPU_INDEX, Answer, Pin, explain, missing, read_pins, run

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / os.environ.get("VERBATIM_VENV", ".venv")
LOG = VENV / "setup.log"
PROGRESS = "--progress-bar=raw"  # since pip 24.1
CHECKED = ["install", "--no-deps", "--only-binary=:all:", "--require-hashes", "--retries=2"]


class SetupError(Exception):
    """A failed set-up; the message says what is wrong and what to do."""


class Progress:
    """pip's progress, as one changing line on a terminal; elsewhere as a plain line every few seconds."""

    def __init__(self, what: str, num_packages: int, phase: str = "fetching") -> None:
        self.what, self.num_packages = what, num_packages
        self.terminal = sys.stdout.isatty()
        self.started_at = time.monotonic()
        self.printed_at = self.started_at - 1
        self.phase, self.count, self.file, self.bytes = phase, 0, "", ""
        self.order: list[str] = []  # in which pip installs

    def hear(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if found := re.match(
            r"(?:Collecting|Processing|Requirement already satisfied:) (?:\S*/)?([\w.-]+)", line
        ):
            self.count, self.file, self.bytes = self.count + 1, found[1], ""
        elif word == "Progress" and (amount := re.match(r"(\d+) of (\d+)", rest)):
            done, total = (int(number) / 1e6 for number in amount.groups())
            self.bytes = f", {done:.0f} of {total:.0f} MB" if total > 5 else ""
        elif line.startswith("Installing collected packages"):
            self.phase, self.file, self.bytes = "installing", "", ""
            self.order = [plain(name) for name in line.partition(":")[2].split(",")]
        self.show()

    def text(self) -> str:
        if self.phase == "installing":
            done = {plain(path.name) for path in VENV.glob("lib/python3*/site-packages/*.dist-info")}
            self.count = len(done)
            self.file = next((name for name in self.order if name not in done), "")
        count = f": package {min(self.count, self.num_packages)} of {self.num_packages}"
        package = f"{count}  {self.file}" if self.num_packages > 1 else ""
        seconds = time.monotonic() - self.started_at
        return f"{seconds:4.0f} s  {self.phase} {self.what}{package.rstrip()}{self.bytes}"

    def show(self) -> None:
        if self.terminal:
            print("\r\x1b[K" + self.text()[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif time.monotonic() - self.printed_at >= 3:
            self.printed_at = time.monotonic()
            print(self.text(), flush=True)

    def clear(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)


def plain(name: str) -> str:
    """A package's name, or that of its folder NAME-VERSION.dist-info, as all of them can be compared."""
    return re.sub(
        r"[-_.]+", "-", name.strip().partition("-" if name.endswith(".dist-info") else " ")[0]
    ).lower()


class Installer:
    """Runs pip in .venv.

    lock: a locked file, which pip inherits. changing: called with True before packages are changed, and with
    False after success.
    """

    def __init__(self, lock: int, changing: Callable[[bool], None]) -> None:
        self.lock, self.changing = lock, changing

    def install_list(self, path: Path) -> None:
        """Install every package of the list; its pip first, whose progress can be read."""
        pins = read_pins(path)
        raise_for(self._install([pin for pin in pins if pin.requirement.startswith("pip==")], "pip"))
        answer = self._install(pins, path.name, PROGRESS)
        torch = pins[0].requirement
        if torch.endswith("+cpu") and missing(answer.printed) == torch:
            print(f"pip's package sources have no {torch}: taking it from PyTorch's CPU index", flush=True)
            raise_for(self._install(pins[:1], "torch", PROGRESS, "--index-url", TORCH_CPU_INDEX))
            answer = self._install(pins, path.name, PROGRESS)
        raise_for(answer)

    def install_project(self) -> None:
        """Install this checkout in place, so that changes in it need no new installation."""
        arguments = ["install", "--no-deps", "--no-build-isolation", "--no-index", "--editable", str(ROOT)]
        raise_for(self._run(arguments, Progress("verbatim", 1, "installing")))

    def _install(self, pins: list[Pin], what: str, *options: str) -> Answer:
        listing = VENV / "wanted.txt"
        listing.write_text("".join(f"{pin.line}\n" for pin in pins))
        return self._run([*CHECKED, *options, "-r", str(listing)], Progress(what, len(pins)))

    def _run(self, arguments: list[str], progress: Progress) -> Answer:
        def hear(line: str) -> None:
            if line.startswith("Installing collected packages"):
                self.changing(True)
            progress.hear(line)

        answer = run(arguments, VENV / "tmp", hear, python=str(VENV / "bin/python"), lock=self.lock)
        progress.clear()
        with LOG.open("a") as log:
            log.write(f"{answer.printed}\n")
        if answer.succeeded:
            self.changing(False)
        return answer


def raise_for(answer: Answer) -> None:
    if not answer.succeeded:
        raise SetupError(f"{explain(answer.printed, VENV)} pip's whole output is in {LOG}.")
