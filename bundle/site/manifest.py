"""manifest.json: every file of a bundle with its size and SHA-256. A signature over it covers them all."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from server.errors import BundleError

FORMAT = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
CONFIGURATION = "models.yaml"
REQUIREMENTS = "requirements.txt"  # for pip at the site: exact versions with digests
SBOM = "sbom.cdx.json"
WHEELS = "wheels"
MODELS = "models"

# No way out of the folder, no name that another file system reads otherwise.
SAFE_PATH = re.compile(r"(?!.*(?:^|/)\.{1,2}(?:/|$))[^/\\\x00-\x1f:]+(?:/[^/\\\x00-\x1f:]+)*")
DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, its path from the bundle's folder."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Target:
    """The machine that a bundle is for.

    python: such as 3.12. machine: as `uname -m` says. glibc: the oldest. gpu: compute capability, empty for
    any.
    have: packages that the machine has already, version by name.
    """

    device: str
    python: str
    machine: str
    glibc: str
    profile: str
    gpu: str = ""
    have: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle holds.

    version: of Verbatim. created: UTC. recipe: digest of all that the maker was told. num_packages, and
    installed_bytes: what they and the models take at the site. environment: variables that the command is to
    run with. loose: files beside manifest.json. files: the payload, in order; parts: what it is cut into,
    empty when its files lie beside manifest.json too.
    """

    version: str
    created: str
    recipe: str
    target: Target
    num_packages: int
    installed_bytes: int
    environment: Mapping[str, str]
    loose: tuple[Entry, ...]
    files: tuple[Entry, ...]
    parts: tuple[Entry, ...] = ()

    @property
    def beside(self) -> tuple[Entry, ...]:
        """The files that lie in the bundle's folder under their own names."""
        return self.loose if self.parts else self.loose + self.files

    @property
    def num_bytes(self) -> int:
        return sum(entry.size for entry in self.loose + self.files)


def to_bytes(manifest: Manifest) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, sort_keys=True) + "\n").encode()


def identity(data: bytes) -> str:
    """A manifest's own digest: the name of the whole bundle."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(folder: Path) -> bytes:
    """manifest.json as it lies there. Raises BundleError where there is none."""
    try:
        return (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it is neither a bundle nor an installation."
        ) from None
    except OSError as error:
        raise BundleError(f"cannot read {folder / MANIFEST}: {error.strerror}.") from error


def parse(data: bytes) -> Manifest:
    """Raises BundleError for bytes that are not a manifest of this format."""
    try:
        fields = json.loads(data)
        number = fields.pop("format")
        if number != FORMAT:
            raise BundleError(
                f"{MANIFEST} is of format {number}, and this program reads format {FORMAT}: use the"
                " install.sh or"
                " the `verbatim` that the bundle was made with."
            )
        return _manifest(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BundleError(f"{MANIFEST} is damaged: it is not a manifest ({_said(error)}).") from None


def _manifest(fields: dict[str, Any]) -> Manifest:
    for name in ("loose", "files", "parts"):
        fields[name] = tuple(_entry(one) for one in fields[name])
    paths = [entry.path for name in ("loose", "files", "parts") for entry in fields[name]]
    if len(set(paths)) != len(paths):
        raise ValueError("a path stands in it twice")
    fields["target"] = Target(**fields["target"])
    manifest = Manifest(**fields)
    payload, cut = sum(file.size for file in manifest.files), sum(part.size for part in manifest.parts)
    if manifest.parts and payload != cut:
        raise ValueError(f"its files add up to {payload} bytes and its parts to {cut}")
    return manifest


def _entry(fields: dict[str, Any]) -> Entry:
    entry = Entry(**fields)
    if not SAFE_PATH.fullmatch(entry.path):
        raise ValueError(f"the path {entry.path!r}")
    if not isinstance(entry.size, int) or entry.size < 0 or not DIGEST.fullmatch(entry.sha256):
        raise ValueError(f"size or digest of {entry.path}")
    return entry


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
