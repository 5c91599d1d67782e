"""What the target has already: `--have torch==2.11.0,triton==3.6.0`, or a file with its pip list."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from server.errors import ConfigurationError

Graph = Mapping[str, Collection[str]]  # names of what a package requires, by its name

PIN = re.compile(r"([A-Za-z0-9][\w.-]*)={2,3}([\w.+!-]+)")
TORCHVISION_AHEAD = 15  # minor versions, since 2.0 and 0.15
ROW = re.compile(r"([A-Za-z0-9][\w.-]*)\s+(\d[\w.+!-]*)(?:\s.*)?")


@dataclass(frozen=True, slots=True)
class Have:
    """Versions by name. stated: on the command line, believed whatever the version. listed: out of a file."""

    stated: Mapping[str, str]
    listed: Mapping[str, str]


def parse_have(values: Iterable[str]) -> Have:
    stated: dict[str, str] = {}
    listed: dict[str, str] = {}
    for value in values:
        if "==" in value:
            for word in filter(None, (part.strip() for part in value.split(","))):
                stated |= _pin(word)
        else:
            listed |= _read_list(Path(value))
    return Have(stated, listed)


def _pin(word: str) -> dict[str, str]:
    found = PIN.fullmatch(word)
    if not found:
        raise ConfigurationError(f"--have: {word} is not NAME==VERSION, such as torch==2.11.0.")
    return {canonicalize_name(found[1]): _version(found[2])}


def _version(text: str) -> str:
    try:
        return str(Version(text))
    except InvalidVersion:
        raise ConfigurationError(f"--have: {text} is not a version.") from None


def _read_list(path: Path) -> dict[str, str]:
    """What `pip list`, `pip list --format=json` or `pip freeze` printed on the target."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"--have: {path} is neither NAME==VERSION nor a file with the target's pip list that can be read"
            f" ({getattr(error, 'strerror', None) or 'not text'})."
        ) from error
    if text.lstrip().startswith("["):
        try:
            return {canonicalize_name(one["name"]): str(one["version"]) for one in json.loads(text)}
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(f"--have: {path} is not what `pip list --format=json` prints.") from None
    rows = (PIN.fullmatch(line.strip()) or ROW.fullmatch(line.strip()) for line in text.splitlines())
    found: dict[str, str] = {canonicalize_name(row[1]): row[2] for row in rows if row}
    if not found:
        raise ConfigurationError(f"--have: {path} has no line of a pip list, such as `torch 2.11.0`.")
    return found


def left_out(pinned: Mapping[str, str], have: Have) -> dict[str, str]:
    """The packages of the list that the target's own take the place of, with the target's version.

    Those that were stated, and those listed in just the version that is pinned: another version might do as
    well, but nobody has tried, so it has to be stated.
    """
    unknown = sorted(have.stated.keys() - pinned.keys())
    if unknown:
        raise ConfigurationError(
            f"--have: {', '.join(unknown)} would not be in the bundle anyway; leave it out."
        )
    same = {name: version for name, version in have.listed.items() if pinned.get(name) == version}
    return same | dict(have.stated)


def matching(pin: str, there: Mapping[str, str]) -> str:
    """The pin, but for torchvision, which fits one torch alone: 0.28 is built for 2.13, 0.26 for 2.11."""
    torch = re.match(r"2\.(\d+)\.", there.get("torch", ""))
    if not torch or not pin.startswith("torchvision="):
        return pin
    return f"torchvision==0.{int(torch[1]) + TORCHVISION_AHEAD}.*"


def orphans(graph: Graph, roots: Iterable[str], gone: Collection[str]) -> set[str]:
    """What nothing needs any more but for the packages that are gone, such as torch's own CUDA libraries.

    roots: what has to stay. Packages that those which are gone do not lead to stay in any case.
    """
    below = _reachable(graph, gone, ()) - set(gone)
    others = (graph.keys() - below - set(gone)) | (set(roots) - set(gone))
    return below - _reachable(graph, others, gone)


def _reachable(graph: Graph, start: Iterable[str], closed: Collection[str]) -> set[str]:
    """The packages that these lead to, themselves among them, not by way of closed ones."""
    found: set[str] = set()
    waiting = [name for name in start if name in graph and name not in closed]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [other for other in graph[name] if other in graph and other not in closed]
    return found
