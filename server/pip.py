"""Runs pip for set-up, bundles and the built-in model, and reads the lists of packages.

pip's own settings decide about sources, proxies and certificates. Only the standard library is used, because
set-up runs before anything is installed.
"""

from __future__ import annotations

import os
import re
import select
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

OLDEST, NEWEST = (3, 11), (3, 14)  # the Python versions that vLLM 0.32.0 and the pinned wheels support
GLIBC = (2, 31)  # the oldest one that every pinned wheel supports
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
NEEDED_FREE_BYTES = 2 << 30  # with less free, a broken download is taken for a full disk

NOT_FOUND = re.compile(
    r"No matching distribution found for ([^\s(]+)"
    r"|Cannot install (\S+) because"  # also if a constraint names it
)
NO_NETWORK = re.compile(
    r"NewConnectionError|NameResolutionError|name resolution|Network is unreachable|ConnectTimeout"
    r"|ReadTimeout|timed out|incomplete-download|ProxyError|connection broken"
    r"|Connection (?:refused|aborted|reset)"
)
OTHER_FILE = re.compile(r"DO NOT MATCH THE HASHES.*?\n\s*(\S+).*?Got\s+([0-9a-f]{64})", re.DOTALL)

# Called with each line of pip, and with an empty one for every half second of silence
Heard = Callable[[str], None]


class Pin(NamedTuple):
    """One package of a list. requirement: name, == or ===, version. sha256: of each acceptable wheel."""

    requirement: str
    sha256: tuple[str, ...]

    @property
    def line(self) -> str:
        """The line for pip."""
        return " ".join([self.requirement, *(f"--hash=sha256:{digest}" for digest in self.sha256)])


class Answer(NamedTuple):
    """How pip ended. printed: its output, without progress."""

    succeeded: bool
    printed: str


def read_pins(path: Path) -> list[Pin]:
    """The packages of a list in requirements/, in its order."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
    words = [line.split() for line in lines if re.match(r"\w", line)]
    return [Pin(word, tuple(one.rpartition(":")[2] for one in hashes)) for word, *hashes in words]


def run(
    arguments: Sequence[str],
    temporary: Path,
    heard: Heard = lambda line: None,
    *,
    python: str = sys.executable,
    lock: int | None = None,
) -> Answer:
    """Run the pip of that Python. temporary: a folder that is created, and removed. lock: a locked file,
    which pip inherits."""
    temporary.mkdir(parents=True, exist_ok=True)  # not /tmp, which is small on many machines
    command = [python, "-m", "pip", *arguments, "--no-input", "--disable-pip-version-check"]
    environ = {"TMPDIR": str(temporary), "PYTHONUNBUFFERED": "1", "SOURCE_DATE_EPOCH": "315532800"}
    printed = [f"$ {' '.join(command)}"]
    try:
        with subprocess.Popen(
            command,
            env={**os.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=() if lock is None else (lock,),
        ) as process:
            try:
                for line in lines_of(process):
                    heard(line)
                    if line and not line.startswith("Progress "):
                        printed.append(line)
            except BaseException:
                process.terminate()
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return Answer(process.returncode == 0, "\n".join(printed))


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[str]:
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


def missing(printed: str) -> str | None:
    """The requirement that pip did not find. None if it did not get that far."""
    found = NOT_FOUND.search(printed)
    return None if NO_NETWORK.search(printed) or not found else found[1] or found[2]


def explain(printed: str, folder: Path) -> str:
    """A message of one paragraph from pip's output while it filled that folder."""
    # pip reports a disk that fills up during a download as a broken connection
    cut_short = "incomplete-download" in printed and shutil.disk_usage(folder).free < NEEDED_FREE_BYTES
    if cut_short or "No space left on device" in printed:
        return (
            f"The disk filled up. Free some space on the disk of {folder} (and of pip's cache, `pip cache "
            "dir`) and run the same command again; it continues where it stopped."
        )
    if NO_NETWORK.search(printed):
        return (
            "pip cannot reach the package index. Check the network, the proxy variables and `pip config "
            "list`, then run the same command again; it continues where it stopped."
        )
    if other := OTHER_FILE.search(printed):
        return (
            f"{other[1]} is not the expected file: its SHA-256 is {other[2]}, which is not pinned. It was"
            " damaged or replaced on the way; if `pip config list` names a mirror, the mirror has another"
            " file. Run `pip cache purge` and try again."
        )
    if requirement := missing(printed):
        return (
            f"pip's package sources have no wheel of {requirement} for this Python and machine. If `pip"
            " config list` names a mirror, it must have the pinned versions of requirements/."
        )
    errors = [line for line in printed.splitlines() if "error" in line.lower()]
    return f"pip failed: {(errors or printed.splitlines() or ['it printed nothing'])[-1].strip()}"
