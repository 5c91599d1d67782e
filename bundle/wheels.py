"""Wheels for another machine, through pip: which there are, their sizes, their files, and our own.

pip's own settings decide about sources, proxies and certificates. Nothing is downloaded before `fetch`.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bundle.order import MACHINE, OUR_SOURCES
from server import pip
from server.errors import ConfigurationError
from server.pip import GLIBC, TORCH_CPU_INDEX, missing, run

OLD_TAGS = ("linux", "manylinux1", "manylinux2010", "manylinux2014")
WEIGHING_S = 10.0  # seconds for an index to tell the size of one file
# pip stores files when all files of a call are there, so calls should not be long; but each call takes a
# second to start, so there should not be one per file.
BATCH_BYTES = 60_000_000
OUR_FILES = ("LICENSE", "README.md", "pyproject.toml")

Heard = Callable[[int], None]  # bytes so far


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel to bundle. size: bytes; 0 if the index does not tell. index: if not pip's own."""

    name: str
    version: str
    file: str
    sha256: str
    size: int
    requires: tuple[str, ...] = ()
    license: str = ""
    summary: str = ""
    index: str = ""

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---- looking up --------------------------------------------------------------------------------------------


def plan_wheels(pins: Sequence[str], python: str, work: Path) -> list[Wheel]:
    """The wheel of each pin for the target. Raises ConfigurationError for wheels that are not available."""
    torch = next((pin for pin in pins if pin.startswith("torch==") and pin.endswith("+cpu")), None)
    succeeded, printed = _report(pins, python, work)
    if succeeded:
        return _wheels(work, python, "")
    if torch is None or not str(missing(printed)).startswith("torch=="):
        raise explain(printed, python, work)
    # As in set-up: the configured sources first, then PyTorch's own index for this one file.
    succeeded, printed = _report([torch], python, work, "--index-url", TORCH_CPU_INDEX)
    if not succeeded:
        if missing(printed):
            raise explain(printed, python, work)
        raise ConfigurationError(
            f"pip's package sources have no {torch} for Python {python}, and PyTorch's CPU index, which has"
            " it, cannot be reached. Name a folder or an index that has it with PIP_FIND_LINKS or `pip"
            " config`, or choose another --python."
        )
    alone = _wheels(work, python, TORCH_CPU_INDEX)
    return plan_wheels([pin for pin in pins if pin != torch], python, work) + alone


def _report(pins: Iterable[str], python: str, work: Path, *more: str) -> tuple[bool, str]:
    """Let pip look up everything, without files, and report what it would install."""
    wanted = work / "wanted.txt"
    work.mkdir(parents=True, exist_ok=True)
    wanted.write_text("".join(f"{pin}\n" for pin in pins))
    arguments = ["install", "--dry-run", "--ignore-installed", "--no-deps", "--target", str(work / "nowhere")]
    arguments += ["--report", str(work / "report.json"), "-r", str(wanted), *more]
    return run([*arguments, *target_options(python)], work / "tmp")


def _wheels(work: Path, python: str, index: str) -> list[Wheel]:
    found = json.loads((work / "report.json").read_text())["install"]
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda one: weigh(one["download_info"]["url"]), found))
    wheels = (_wheel(one, size, python, index) for one, size in zip(found, sizes, strict=True))
    return sorted(wheels, key=lambda wheel: wheel.name)


def _wheel(item: Mapping[str, Any], size: int, python: str, index: str) -> Wheel:
    metadata, source = item["metadata"], item["download_info"]
    return Wheel(
        name=canonicalize_name(metadata["name"]),
        version=metadata["version"],
        file=unquote(urlsplit(source["url"]).path.split("/")[-1]),
        sha256=source["archive_info"]["hashes"]["sha256"],
        size=size,
        requires=tuple(sorted(required(metadata, python))),
        license=license_of(metadata),
        summary=metadata.get("summary", ""),
        index=index,
    )


def weigh(url: str) -> int:
    """Bytes of a file, without downloading it; 0: unknown."""
    try:
        if url.startswith("file:"):
            return Path(unquote(urlsplit(url).path)).stat().st_size
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  # the address comes from pip
        with urllib.request.urlopen(request, timeout=WEIGHING_S) as answer:  # noqa: S310
            return int(answer.headers["Content-Length"] or 0)
    except (OSError, ValueError):
        return 0


def required(metadata: Mapping[str, Any], python: str) -> set[str]:
    """Names of packages that a package requires on the target, including its extras'."""
    environment = {
        "implementation_name": "cpython", "os_name": "posix", "platform_machine": MACHINE,
        "platform_python_implementation": "CPython", "platform_system": "Linux", "sys_platform": "linux",
        "python_version": python, "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0", "platform_release": "", "platform_version": "",
    }  # fmt: skip
    extras = ["", *metadata.get("provides_extra", [])]
    names: set[str] = set()
    for text in metadata.get("requires_dist", []):
        try:
            one = Requirement(text)
        except InvalidRequirement:
            continue
        if not one.marker or any(one.marker.evaluate({**environment, "extra": extra}) for extra in extras):
            names.add(canonicalize_name(one.name))
    return names


def license_of(metadata: Mapping[str, Any]) -> str:
    """A package's licence, in one line."""
    said = metadata.get("license_expression") or metadata.get("license") or ""
    if said and "\n" not in said and len(said) <= 100:
        return str(said)
    named = (line for line in metadata.get("classifier", []) if line.startswith("License :: "))
    return ", ".join(line.split(" :: ")[-1] for line in named)


def save_plan(wheels: Iterable[Wheel], path: Path) -> None:
    path.write_text(json.dumps([asdict(wheel) for wheel in wheels], indent=1))


def load_plan(path: Path) -> list[Wheel]:
    return [Wheel(**{**one, "requires": tuple(one["requires"])}) for one in json.loads(path.read_text())]


# ---- fetching ----------------------------------------------------------------------------------------------


def fetch(wheels: Iterable[Wheel], folder: Path, python: str, work: Path, heard: Heard) -> None:
    """Download wheels into the folder, each checked against its digest. Raises ConfigurationError with what
    to do."""
    done = 0
    for batch in batches(wheels):
        pins = work / "batch.txt"
        pins.write_text("".join(f"{wheel.pin}\n" for wheel in batch))
        arrived = work / "arrived"  # files in `folder` are complete
        shutil.rmtree(arrived, ignore_errors=True)
        arguments = ["download", "--no-deps", "--require-hashes", "--progress-bar=raw"]
        arguments += ["--dest", str(arrived), "-r", str(pins), *target_options(python)]
        arguments += ["--index-url", batch[0].index] if batch[0].index else []
        progress = BatchProgress(lambda so_far, before=done: heard(before + so_far))  # type: ignore[misc]
        succeeded, printed = run(arguments, work / "tmp", progress.line)
        if not succeeded:
            raise explain(printed, python, folder)
        for wheel in batch:
            (arrived / wheel.file).replace(folder / wheel.file)
        shutil.rmtree(arrived)
        done += sum(wheel.size for wheel in batch)
        heard(done)


def batches(wheels: Iterable[Wheel]) -> Iterator[list[Wheel]]:
    """Groups of small files from the same index."""
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
    """The bytes that a `pip download` has fetched, from its output."""

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
    """Build our own wheel with the installed setuptools; the same bytes every time."""
    with tempfile.TemporaryDirectory(dir=work) as name:
        source, built = Path(name) / "source", Path(name) / "built"
        source.mkdir()  # a copy: leftovers of an earlier build in the checkout would get into the wheel
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
        succeeded, printed = run(arguments, work / "tmp")
        if not succeeded:
            last = [line.strip() for line in printed.splitlines() if "rror" in line] or [printed[-200:]]
            raise ConfigurationError(
                f"our own wheel could not be built: {last[-1]} Check that setuptools is installed (make"
                " setup)."
            )
        wheel = next(built.glob("*.whl"))
        return wheel.replace(folder / wheel.name)


# ---- pip ---------------------------------------------------------------------------------------------------


def target_options(python: str) -> list[str]:
    """pip's options for wheels for that Python on the oldest supported system, whatever this machine is."""
    tags = [*OLD_TAGS, *(f"manylinux_{GLIBC[0]}_{minor}" for minor in range(5, GLIBC[1] + 1))]
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    return options + [part for tag in tags for part in ("--platform", f"{tag}_{MACHINE}")]


def explain(printed: str, python: str, folder: Path) -> ConfigurationError:
    """A message of one paragraph from pip's output."""
    if requirement := missing(printed):
        return ConfigurationError(
            f"pip's package sources have no wheel of {requirement} for Python {python} on Linux, {MACHINE}"
            f" and glibc {GLIBC[0]}.{GLIBC[1]}. A bundle may not contain packages that must be compiled at"
            " the site: choose another --python, or a source that has the wheel."
        )
    return ConfigurationError(pip.explain(printed, folder))
