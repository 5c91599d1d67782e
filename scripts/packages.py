"""Installs pinned packages with pip, shows how far it is, and says in one paragraph what went wrong.

Only the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import csv
import os
import re
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
LOG = VENV / "setup.log"
PIP = "pip==26.3"  # one version, because its output is read; the progress of downloads needs 24.1
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NOT_FOUND = re.compile(r"No matching distribution found for (\S+)")
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Network is unreachable|ConnectTimeout"
    r"|ReadTimeout|timed out|incomplete-download|ProxyError|connection broken"
    r"|Connection (?:refused|aborted|reset)"
)


class SetupError(Exception):
    """One paragraph that says what is wrong and what to do."""


class Progress:
    """One line that changes on a terminal; elsewhere a plain line every few seconds."""

    def __init__(self) -> None:
        self.terminal = sys.stdout.isatty()
        self.printed_at = time.monotonic() - 1

    def show(self, text: str) -> None:
        if self.terminal:
            print("\r\x1b[K" + text[: shutil.get_terminal_size().columns - 1], end="", flush=True)
        elif time.monotonic() - self.printed_at >= 3:
            self.printed_at = time.monotonic()
            print(text, flush=True)

    def clear(self) -> None:
        if self.terminal:
            print("\r\x1b[K", end="", flush=True)


class PipWatch:
    """Turns what pip prints into one line of progress."""

    def __init__(self, what: str, num_packages: int) -> None:
        self.what, self.num_packages = what, num_packages
        self.started_at = time.monotonic()
        self.phase, self.count, self.file, self.bytes = "looking up", 0, "", ""

    def line(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if found := re.match(
            r"(?:Collecting|Processing|Requirement already satisfied:) (?:\S*/)?([\w.-]+)", line
        ):
            self.count, self.file, self.bytes = self.count + 1, found[1], ""
        elif word == "Downloading" and ".metadata" not in rest:
            self.file, self.bytes = rest.split("/")[-1], ""
        elif word == "Progress" and (amount := re.match(r"(\d+) of (\d+)", rest)):
            done, total = (int(number) / 1e6 for number in amount.groups())
            self.bytes = f", {done:.0f} of {total:.0f} MB" if total > 5 else ""
        elif line.startswith("Installing collected packages"):
            self.phase, self.file, self.bytes = "installing", "", ""

    def text(self) -> str:
        if self.phase == "installing":
            self.count = sum(1 for _ in VENV.glob("lib/python3*/site-packages/*.dist-info"))
        count = f": package {min(self.count, self.num_packages)} of {self.num_packages}"
        package = f"{count}  {self.file}" if self.num_packages > 1 else ""
        seconds = time.monotonic() - self.started_at
        return f"{seconds:4.0f} s  {self.phase} {self.what}{package.rstrip()}{self.bytes}"


def pins(requirements: Path) -> list[str]:
    return [line.strip() for line in requirements.read_text().splitlines() if re.match(r"\w", line)]


class Installer:
    """Runs pip inside .venv. `lock` is a locked file that pip inherits: locked until pip has ended too."""

    def __init__(self, lock: int) -> None:
        self.lock = lock

    def upgrade_pip(self) -> None:
        self._install_or_raise([PIP], PIP)

    def install_list(self, requirements: Path) -> None:
        """Everything in the list; torch for the CPU first, which may have to come from PyTorch's index."""
        wanted = pins(requirements)
        for pin in wanted:
            if re.match(r"torch==.*\+cpu$", pin):
                self._install_torch_cpu(pin)
        self._install_or_raise(["-r", str(requirements)], requirements.name, len(wanted))

    def install_project(self) -> None:
        self._install_or_raise(["--no-build-isolation", "--no-index", "--editable", str(ROOT)], "verbatim")

    def _install_torch_cpu(self, pin: str) -> None:
        succeeded, printed = self._run([pin], pin)
        if not succeeded and NOT_FOUND.search(printed) and not NO_NETWORK.search(printed):
            print(f"pip's configured sources have no {pin}: taking it from PyTorch's CPU index", flush=True)
            succeeded, printed = self._run(["--index-url", TORCH_CPU_INDEX, pin], pin)
            if not succeeded:
                why = "neither pip's configured sources nor PyTorch's CPU index gave it"
                raise SetupError(f"{pin} could not be installed: {why}. {explain(printed)}")
        if not succeeded:
            raise SetupError(explain(printed))

    def _install_or_raise(self, arguments: list[str], what: str, num_packages: int = 1) -> None:
        succeeded, printed = self._run(arguments, what, num_packages)
        if not succeeded:
            raise SetupError(explain(printed))

    def _run(self, arguments: list[str], what: str, num_packages: int = 1) -> tuple[bool, str]:
        """(whether it went well, what pip printed)"""
        temporary = VENV / "tmp"  # not /tmp, which is small on many machines
        temporary.mkdir(exist_ok=True)
        command = pip_command(arguments)
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=(self.lock,),
        )
        printed = [f"$ {' '.join(command)}"]
        try:
            follow(process, PipWatch(what, num_packages), printed)
        finally:
            process.terminate()
            process.wait()
            shutil.rmtree(temporary, ignore_errors=True)
            with LOG.open("a") as log:
                log.write("\n".join([*printed, ""]))
        return process.returncode == 0, "\n".join(printed)


def pip_command(arguments: list[str]) -> list[str]:
    options = ["--no-deps", "--no-input", "--disable-pip-version-check", "--retries=2"]
    if arguments != [PIP]:
        options.append("--progress-bar=raw")
    return [str(VENV / "bin/python"), "-m", "pip", "install", *options, *arguments]


def follow(process: subprocess.Popen[bytes], watch: PipWatch, printed: list[str]) -> None:
    """Shows progress until the process ends, and keeps what it printed."""
    progress = Progress()
    for line in output_lines(process):
        watch.line(line)
        if line and not line.startswith("Progress "):
            printed.append(line)
        progress.show(watch.text())
    process.wait()
    progress.clear()


def output_lines(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Lines as they come, and an empty one for every half second of silence."""
    assert process.stdout
    rest, descriptor = b"", process.stdout.fileno()
    while True:
        if not select.select([descriptor], [], [], 0.5)[0]:
            yield ""
            continue
        data = os.read(descriptor, 1 << 16)
        *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
        yield from (line.decode(errors="replace") for line in lines)
        if not data:
            return


def remove_broken_packages() -> None:
    """Forgets packages that a killed pip left incomplete, so that pip installs them again."""
    for site in VENV.glob("lib/python3*/site-packages"):
        for leftover in site.glob("~*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        for info in site.glob("*.dist-info"):
            if not is_complete(site, info):
                shutil.rmtree(info)


def is_complete(site: Path, info: Path) -> bool:
    if not (info / "INSTALLER").is_file() or not (info / "RECORD").is_file():
        return False
    with (info / "RECORD").open(newline="") as file:
        for name, _, size in (
            row for row in csv.reader(file) if len(row) == 3 and not row[0].endswith(".pyc")
        ):
            path = site / name
            if not path.exists() or (size and path.stat().st_size != int(size)):
                return False
    return True


def explain(printed: str) -> str:
    """One paragraph out of all that pip or venv printed."""
    log = f"Everything pip printed is in {LOG}."
    # pip takes a disk that fills up while it downloads for a broken connection
    cut_short = "incomplete-download" in printed and shutil.disk_usage(ROOT).free < 2 << 30
    if cut_short or "No space left on device" in printed:
        return (
            f"The disk filled up during the installation. Free some space on the disk of {VENV} (and of "
            "pip's cache, `pip cache dir`) and run the same command again; it continues where it stopped. "
            f"{log}"
        )
    if NO_NETWORK.search(printed):
        return (
            "The packages could not be downloaded: pip cannot reach the package index. Check the network, "
            "the proxy variables and `pip config list`, then run the same command again; it continues where "
            f"it stopped. {log}"
        )
    if found := NOT_FOUND.search(printed):
        return (
            f"pip's configured sources have no {found[1]} for this Python and machine. If `pip config list` "
            f"names a mirror, it has to carry the pinned versions in requirements/. {log}"
        )
    errors = [line for line in printed.splitlines() if "error" in line.lower()]
    return f"The installation failed: {(errors or printed.splitlines() or ['no output'])[-1].strip()} {log}"
