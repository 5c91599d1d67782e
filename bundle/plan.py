"""Which wheels a bundle takes: looked up by pip, weighed, and nothing downloaded yet."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from bundle.pip import MACHINE, explain, missing_package, run_pip, target_options
from scripts.packages import TORCH_CPU_INDEX
from server.errors import ConfigurationError

WEIGHING_S = 10.0  # how long an index may take to tell the size of one file


@dataclass(frozen=True, slots=True)
class Wheel:
    """One wheel to be carried. size: bytes, 0 when the index does not tell. index: where not pip's own."""

    name: str
    version: str
    file: str
    sha256: str
    size: int
    requires: tuple[str, ...]
    license: str
    summary: str
    index: str = ""

    @property
    def pin(self) -> str:
        return f"{self.name}=={self.version} --hash=sha256:{self.sha256}"


def plan_wheels(pins: Sequence[str], python: str, work: Path) -> list[Wheel]:
    """The wheel of each pin for the target. Raises ConfigurationError for what is not to be had."""
    torch = next((pin for pin in pins if pin.startswith("torch==") and pin.endswith("+cpu")), None)
    succeeded, printed = _report(pins, python, work)
    if succeeded:
        return _wheels(work, python, "")
    if torch is None or not str(missing_package(printed)).startswith("torch=="):
        raise explain(printed, python, work)
    # As set-up does: the configured sources first, then PyTorch's own index, for this one file.
    succeeded, printed = _report([torch], python, work, "--index-url", TORCH_CPU_INDEX)
    if not succeeded:
        if missing_package(printed):
            raise explain(printed, python, work)
        raise ConfigurationError(
            f"pip's configured sources have no {torch} for Python {python}, and PyTorch's CPU index, which"
            " has, cannot be"
            " reached. Name a folder or an index that carries it with PIP_FIND_LINKS or `pip config`, or"
            " choose"
            " another --python."
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
    return run_pip([*arguments, *target_options(python)], work / "tmp")


def _wheels(work: Path, python: str, index: str) -> list[Wheel]:
    found = json.loads((work / "report.json").read_text())["install"]
    with ThreadPoolExecutor(8) as threads:
        sizes = list(threads.map(lambda one: weigh(one["download_info"]["url"]), found))
    return sorted(
        (_wheel(one, size, python, index) for one, size in zip(found, sizes, strict=True)),
        key=lambda wheel: wheel.name,
    )


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
        if one.marker is None or any(
            one.marker.evaluate({**environment, "extra": extra}) for extra in extras
        ):
            names.add(canonicalize_name(one.name))
    return names


def license_of(metadata: Mapping[str, Any]) -> str:
    """What a package says of its licence, in one line."""
    said = metadata.get("license_expression") or metadata.get("license") or ""
    if said and "\n" not in said and len(said) <= 100:
        return str(said)
    named = [
        line.split(" :: ")[-1] for line in metadata.get("classifier", []) if line.startswith("License :: ")
    ]
    return ", ".join(named)


def save_plan(wheels: Iterable[Wheel], path: Path) -> None:
    path.write_text(json.dumps([asdict(wheel) for wheel in wheels], indent=1))


def load_plan(path: Path) -> list[Wheel]:
    return [Wheel(**{**one, "requires": tuple(one["requires"])}) for one in json.loads(path.read_text())]
