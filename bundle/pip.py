"""pip, asked on behalf of another machine: where files come from, proxies and certificates are pip's own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scripts.packages import NO_NETWORK, NOT_FOUND, output_lines
from server.errors import ConfigurationError

MACHINE = "x86_64"
GLIBC = (2, 31)  # the oldest that every pinned wheel supports: PLATFORM of scripts/requirements.py
CONFLICT = re.compile(
    r"Cannot install (\S+) because"
)  # said in place of `not found` where a constraint also names it
OLD_TAGS = ("linux", "manylinux1", "manylinux2010", "manylinux2014")


def target_options(python: str) -> list[str]:
    """Wheels for that Python on the oldest supported system, whatever this machine is."""
    tags = [*OLD_TAGS, *(f"manylinux_{GLIBC[0]}_{minor}" for minor in range(5, GLIBC[1] + 1))]
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    return options + [part for tag in tags for part in ("--platform", f"{tag}_{MACHINE}")]


@contextmanager
def pip(arguments: list[str], temporary: Path) -> Iterator[subprocess.Popen[bytes]]:
    temporary.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check"]
    environ = {
        **os.environ,
        "TMPDIR": str(temporary),
        "PYTHONUNBUFFERED": "1",
        "SOURCE_DATE_EPOCH": "315532800",
    }
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def run_pip(
    arguments: list[str], temporary: Path, heard: Callable[[str], None] = lambda _: None
) -> tuple[bool, str]:
    """(whether it went well, what it printed)"""
    printed = []
    with pip(arguments, temporary) as process:
        for line in output_lines(process):
            heard(line)
            if line and not line.startswith("Progress "):
                printed.append(line)
        process.wait()
    return process.returncode == 0, "\n".join(printed)


def missing_package(printed: str) -> str | None:
    """The requirement that pip found nowhere. None when it did not get as far as to know."""
    if NO_NETWORK.search(printed):
        return None
    found = NOT_FOUND.search(printed) or CONFLICT.search(printed)
    return found[1] if found else None


def explain(printed: str, python: str, folder: Path) -> ConfigurationError:
    """One paragraph out of all that pip printed."""
    if "No space left on device" in printed:
        return ConfigurationError(
            f"the disk of {folder} is full. Free some space and run the same command again."
        )
    if NO_NETWORK.search(printed):
        return ConfigurationError(
            "pip cannot reach the package index. A bundle is made where there is a network: check it, the"
            " proxy"
            " variables and `pip config list`, then run the same command again; it continues where it"
            " stopped."
        )
    if missing := missing_package(printed):
        return ConfigurationError(
            f"pip's configured sources have no wheel of {missing} for Python {python} on Linux, {MACHINE}"
            " and glibc"
            f" {GLIBC[0]}.{GLIBC[1]}. A bundle holds nothing that would have to be compiled at the site:"
            " choose"
            f" another --python, or build the wheel (`pip wheel --no-deps {missing}` on such a machine) and"
            " name its"
            " folder in PIP_FIND_LINKS."
        )
    errors = [line for line in printed.splitlines() if "error" in line.lower()]
    said = (errors or printed.splitlines() or ["nothing"])[-1].strip()
    return ConfigurationError(f"pip failed, and said: {said}")
