"""The wheels of a plan, fetched: what is there already and whole is left alone."""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from bundle.pip import explain, run_pip, target_options
from bundle.plan import Wheel
from server.errors import ConfigurationError

# pip puts files down when all of one call are there, so that calls should not be long; nor one for each file,
# because each takes a second to begin.
BATCH_BYTES = 60_000_000
OUR_SOURCES = ("bundle", "sampling", "server")
OUR_FILES = ("LICENSE", "README.md", "pyproject.toml")

Heard = Callable[[int], None]  # bytes of the wheels that were not there, so far


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_whole(folder: Path, wheel: Wheel) -> bool:
    path = folder / wheel.file
    return path.is_file() and sha256_of(path) == wheel.sha256


def fetch(wheels: Iterable[Wheel], folder: Path, python: str, work: Path, heard: Heard) -> None:
    """Download wheels into the folder, each under its digest. Raises ConfigurationError with what to do."""
    done = 0
    for batch in batches(wheels):
        pins = work / "batch.txt"
        pins.write_text("".join(f"{wheel.pin}\n" for wheel in batch))
        arrived = work / "arrived"  # a file in `folder` is a whole one
        shutil.rmtree(arrived, ignore_errors=True)
        arguments = [
            "download",
            "--no-deps",
            "--require-hashes",
            "--progress-bar=raw",
            "--dest",
            str(arrived),
        ]
        arguments += ["-r", str(pins), *target_options(python)]
        arguments += ["--index-url", batch[0].index] if batch[0].index else []
        progress = BatchProgress(lambda so_far, before=done: heard(before + so_far))  # type: ignore[misc]
        succeeded, printed = run_pip(arguments, work / "tmp", progress.line)
        if not succeeded:
            raise explain(printed, python, folder)
        for wheel in batch:
            (arrived / wheel.file).replace(folder / wheel.file)
        shutil.rmtree(arrived)
        done += sum(wheel.size for wheel in batch)
        heard(done)


def batches(wheels: Iterable[Wheel]) -> Iterator[list[Wheel]]:
    """Small files together, from one index."""
    batch: list[Wheel] = []
    for wheel in sorted(wheels, key=lambda one: (one.index, one.size)):
        full = sum(one.size for one in batch) + wheel.size > BATCH_BYTES
        if batch and (full or wheel.index != batch[0].index):
            yield batch
            batch = []
        batch.append(wheel)
    if batch:
        yield batch


class BatchProgress:
    """Bytes that a `pip download` has fetched, out of what it prints."""

    def __init__(self, heard: Heard) -> None:
        self.heard, self.before, self.current = heard, 0, 0

    def line(self, line: str) -> None:
        word, _, rest = line.strip().partition(" ")
        if word == "Progress" and (amount := re.match(r"(\d+) of \d+", rest)):
            self.current = int(amount[1])
            self.heard(self.before + self.current)
        elif word == "Downloading":
            self.before, self.current = self.before + self.current, 0


def build_ours(root: Path, folder: Path, work: Path) -> Path:
    """Our own wheel, by the setuptools that is installed here; the same bytes every time."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        source, built = Path(name) / "source", Path(name) / "built"
        source.mkdir()  # a copy: what an earlier build left in the checkout would get into the wheel
        for package in OUR_SOURCES:
            shutil.copytree(root / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
        for file in OUR_FILES:
            shutil.copyfile(root / file, source / file)
        arguments = [
            "wheel",
            "--no-deps",
            "--no-index",
            "--no-build-isolation",
            "-w",
            str(built),
            str(source),
        ]
        succeeded, printed = run_pip(arguments, work / "tmp")
        if not succeeded:
            last = [line.strip() for line in printed.splitlines() if "rror" in line] or [printed[-200:]]
            raise ConfigurationError(
                f"our own wheel could not be built: {last[-1]} Is setuptools installed (make setup)?"
            )
        wheel = next(built.glob("*.whl"))
        return wheel.replace(folder / wheel.name)
