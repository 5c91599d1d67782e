"""Wheels for another machine, asked of pip: which there are, what they weigh, the files, and our own.

Where files come from, proxies and certificates are pip's own business. Nothing is downloaded before `fetch`.
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
WEIGHING_S = 10.0  # how long an index may take to tell the size of one file
# pip puts files down when all of one call are there, so that calls should not be long; nor one for each file,
# because each takes a second to begin.
BATCH_BYTES = 60_000_000
OUR_FILES = ("LICENSE", "README.md", "pyproject.toml")

Heard = Callable[[int], None]  # bytes so far


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel to be carried. size: bytes, 0 when the index does not tell. index: where not pip's own."""

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
    """The wheel of each pin for the target. Raises ConfigurationError for what is not to be had."""
    torch = next((pin for pin in pins if pin.startswith("torch==") and pin.endswith("+cpu")), None)
    succeeded, printed = _report(pins, python, work)
    if succeeded:
        return _wheels(work, python, "")
    if torch is None or not str(missing(printed)).startswith("torch=="):
        raise explain(printed, python, work)
    # As set-up does: the configured sources first, then PyTorch's own index, for this one file.
    succeeded, printed = _report([torch], python, work, "--index-url", TORCH_CPU_INDEX)
    if not succeeded:
        if missing(printed):
            raise explain(printed, python, work)
        raise ConfigurationError(
            f"pip's configured sources have no {torch} for Python {python}, and PyTorch's CPU index, which"
            " has, cannot be reached. Name a folder or an index that carries it with PIP_FIND_LINKS or `pip"
            " config`, or choose another --python."
        )
    alone = _wheels(work, python, TORCH_CPU_INDEX)
    return plan_wheels([pin for pin in pins if pin != torch], python, work) + alone


def _report(pins: Iterable[str], python: str, work: Path, *more: str) -> tuple[bool, str]:
    """pip looks everything up, without the files, and writes down what it would install."""
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
    """Bytes of a file, without fetching it; 0 when that is not to be known."""
    try:
        if url.startswith("file:"):
            return Path(unquote(urlsplit(url).path)).stat().st_size
        request = urllib.request.Request(url, method="HEAD")  # noqa: S310  # the address is pip's
        with urllib.request.urlopen(request, timeout=WEIGHING_S) as answer:  # noqa: S310
            return int(answer.headers["Content-Length"] or 0)
    except (OSError, ValueError):
        return 0


def required(metadata: Mapping[str, Any], python: str) -> set[str]:
    """Names that a package requires on the target, those of its extras among them."""
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
    """What a package says of its licence, in one line."""
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
    """Download wheels into the folder, each under its digest. Raises ConfigurationError with what to do."""
    done = 0
    for batch in batches(wheels):
        pins = work / "batch.txt"
        pins.write_text("".join(f"{wheel.pin}\n" for wheel in batch))
        arrived = work / "arrived"  # a file in `folder` is a whole one
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
        succeeded, printed = run(arguments, work / "tmp")
        if not succeeded:
            last = [line.strip() for line in printed.splitlines() if "rror" in line] or [printed[-200:]]
            raise ConfigurationError(
                f"our own wheel could not be built: {last[-1]} Is setuptools installed (make setup)?"
            )
        wheel = next(built.glob("*.whl"))
        return wheel.replace(folder / wheel.name)


# ---- pip ---------------------------------------------------------------------------------------------------


def target_options(python: str) -> list[str]:
    """Wheels for that Python on the oldest supported system, whatever this machine is."""
    tags = [*OLD_TAGS, *(f"manylinux_{GLIBC[0]}_{minor}" for minor in range(5, GLIBC[1] + 1))]
    options = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    return options + [part for tag in tags for part in ("--platform", f"{tag}_{MACHINE}")]


def explain(printed: str, python: str, folder: Path) -> ConfigurationError:
    """One paragraph out of all that pip printed."""
    if requirement := missing(printed):
        return ConfigurationError(
            f"pip's configured sources have no wheel of {requirement} for Python {python} on Linux, {MACHINE}"
            f" and glibc {GLIBC[0]}.{GLIBC[1]}. A bundle holds nothing that would have to be compiled at the"
            " site: choose another --python, or a source that has the wheel."
        )
    return ConfigurationError(pip.explain(printed, folder))
