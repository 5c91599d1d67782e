"""What an installation looks like on the disk, and how one version takes the place of another.

PREFIX/current            -> versions/ID   the one that runs; changed in one rename
PREFIX/previous           -> versions/ID   the one before, for --rollback
PREFIX/versions/ID/                        ID: version and the first digits of the manifest's digest
    bin/verbatim                           the command
    models.yaml, models/                   configuration and weights
    venv/                                  the packages
    deploy             -> venv/share/…     files for systemd, Prometheus, Grafana and others
    manifest.json, manifest.json.sig, …    where all of it came from
    installed.json                         digest of every file, written last: without it nothing is installed
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sealed import manifest as manifests
from sealed.failures import BundleError, SiteError
from sealed.files import UnreadableError, open_file, walk
from sealed.manifest import Entry, Manifest
from sealed.payload import CHUNK_BYTES, Counter, Problems, Report, silent
from sealed.signature import PublicKey, read_sealed, require_signature

VERSIONS, CURRENT, PREVIOUS, INSTALLED = "versions", "current", "previous", "installed.json"


@contextmanager
def only_one(prefix: Path) -> Iterator[int]:
    """A lock that pip inherits: it is held until the pip of a killed installation has ended too."""
    try:
        (prefix / VERSIONS).mkdir(parents=True, exist_ok=True)
        lock = os.open(prefix / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise SiteError(
            f"cannot write {error.filename or prefix}: {error.strerror}. Run this as a user who may, or name"
            " another place with --prefix."
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another installation in the same place", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock
    finally:
        os.close(lock)


def complete_versions(prefix: Path) -> list[Path]:
    return sorted(path.parent for path in (prefix / VERSIONS).glob(f"*/{INSTALLED}"))


def manifest_of(version: Path) -> Manifest | None:
    """The manifest of a version; None if it is damaged, or of another format."""
    try:
        return manifests.parse(manifests.read_bytes(version))
    except BundleError:
        return None


def target_of(link: Path) -> Path | None:
    """The version to which `current` or `previous` leads, if it exists."""
    return link.resolve() if link.is_symlink() and (link / INSTALLED).is_file() else None


def switch(prefix: Path, version: Path) -> None:
    """Make a version the current one. If this is killed in between, the links still lead
    to complete versions."""
    before = target_of(prefix / CURRENT)
    if before == version.resolve():
        return
    if before:
        _point(prefix / PREVIOUS, before)
    _point(prefix / CURRENT, version)


def roll_back(prefix: Path) -> Path:
    """Go back to the version before the current one. Raises SiteError if there is none."""
    current, previous = target_of(prefix / CURRENT), target_of(prefix / PREVIOUS)
    if previous is None or previous == current:
        raise SiteError(f"{prefix} has no version before the current one to go back to.")
    switch(prefix, previous)
    return previous


def _point(link: Path, version: Path) -> None:
    temporary = link.with_name(f".{link.name}.new")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path(VERSIONS) / version.name)
    temporary.replace(link)


def seal(version: Path, identity: str, report: Report = silent) -> None:
    """Write the list of all files of a finished installation, as its last step."""
    paths = list(_walk(version))
    counter = Counter(report, sum(path.lstat().st_size for path in paths))
    listed = {str(path.relative_to(version)): _mark(path, counter) for path in paths}
    temporary = version / f".{INSTALLED}.new"
    temporary.write_text(json.dumps({"manifest": identity, "files": listed}, indent=0, sort_keys=True) + "\n")
    os.sync()  # so that after a power cut the listed files are there
    temporary.replace(version / INSTALLED)


def _walk(version: Path) -> Iterator[Path]:
    """Every file and link, except the list itself."""
    own = (version / INSTALLED, version / f".{INSTALLED}.new")
    return (path for path in walk(version) if path not in own)


def _mark(path: Path, counter: Counter) -> list[Any]:
    """What must not change: a link's target, or a file's size and digest."""
    if path.is_symlink():
        return ["link", str(path.readlink())]
    digest, size = hashlib.sha256(), 0
    with open_file(path) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            size += len(chunk)
            counter.add(len(chunk))
    return [size, digest.hexdigest()]


def find_version(folder: Path) -> Path | None:
    """The version in this folder, or to which its `current` leads. None for a folder that is not an
    installation. A bundle is none, whatever links somebody has put into it."""
    if (folder / INSTALLED).is_file():
        return folder
    return None if os.path.lexists(folder / manifests.SCRIPT) else target_of(folder / CURRENT)


def check_installation(version: Path, keys: list[PublicKey], report: Report = silent) -> Problems:
    """The problems of an installed version; every byte is checked.

    Its models, configuration and other files of the bundle must match the manifest, and every file must be as
    it was at the end of the installation. Raises BundleError if the manifest itself cannot be trusted.
    """
    data, text = read_sealed(version)
    if keys:
        require_signature(data, text, keys)
    manifest, listed = manifests.parse(data), _read_list(version, manifests.identity(data))
    promised = {entry.path: entry for entry in kept(manifest)}
    paths = {str(path.relative_to(version)): path for path in _walk(version)}
    counter = Counter(report, sum(path.lstat().st_size for path in paths.values()))
    problems: Problems = {}
    for name in sorted(listed.keys() | promised.keys() | paths.keys()):
        if name not in paths:
            problems[name] = "missing"
        elif name not in listed or _is_carried(name):
            problems[name] = "not part of the installation"
        elif problem := _compare(paths[name], listed[name], promised.get(name), counter):
            problems[name] = problem
    return problems


def _is_carried(name: str) -> bool:
    """Whether a file only belongs to a bundle, so that a list with it is not an installation's."""
    return name.startswith(f"{manifests.WHEELS}/") or bool(manifests.PART.fullmatch(name))


def _compare(path: Path, listed: list[Any], promised: Entry | None, counter: Counter) -> str | None:
    try:
        found = _mark(path, counter)
    except (UnreadableError, FileNotFoundError) as error:
        return str(error)
    if promised and found != [promised.size, promised.sha256]:
        return "altered: it differs from the file in the manifest"
    return None if found == listed else "altered since the installation"


def kept(manifest: Manifest) -> list[Entry]:
    """The files of a bundle that are installed unchanged: all but the wheels, which pip unpacks."""
    return [
        entry
        for entry in manifest.loose + manifest.files
        if not entry.path.startswith(f"{manifests.WHEELS}/")
    ]


def _read_list(version: Path, identity: str) -> dict[str, list[Any]]:
    try:
        content = json.loads((version / INSTALLED).read_bytes())
        if content["manifest"] != identity:
            raise BundleError(f"{INSTALLED}: altered; it belongs to another manifest.")
        listed: dict[str, list[Any]] = content["files"]
        return dict(listed)
    except OSError as error:
        raise BundleError(f"{INSTALLED}: cannot be read: {error.strerror}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{INSTALLED}: altered; it is not a list of files.") from error
