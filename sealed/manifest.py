"""manifest.json: every file of a bundle with its size and SHA-256. A signature over it covers them all.

Whoever made a manifest, it decides about file names on this disk and about lines of a shell script. So each
field has a pattern, and each file must be in one of a few places; anything else is refused before it is used.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sealed.failures import BundleError
from sealed.files import UnreadableError, open_file

FORMAT = 2
MANIFEST = "manifest.json"
SIGNATURE = "manifest.json.sig"
SCRIPT, PROGRAM = "install.sh", "install.pyz"
CONFIGURATION = "models.yaml"
SBOM = "sbom.cdx.json"
WHEELS = "wheels"
MODELS = "models"

MOST_MANIFEST_BYTES = 32 << 20  # enough for some hundred thousand files
MOST_BYTES = 1 << 44  # of one file, and of an installation: a larger number is a mistake or an attack
MOST_PATH_BYTES, MOST_NAME_BYTES = 1000, 200

# Part of a path between slashes: not hidden, not leading out of the folder, and not read differently by
# another file system or a shell.
NAME = re.compile(r"""(?![. ])[^/\\:*?"<>|$`]+(?<![. ])""")
WHEEL = re.compile(rf"{WHEELS}/[A-Za-z0-9_.+!]+(?:-[A-Za-z0-9_.+!]+){{4,5}}\.whl")
PIP = re.compile(rf"{WHEELS}/pip-[0-9][A-Za-z0-9.]*-py3-none-any\.whl")
PART = re.compile(r"part-[0-9]{4,6}")
# Signatures for the site's own tools. They are made last, and lie beside the manifest without being
# listed in it.
DETACHED = re.compile(r"install\.sh(?:\.[2-9])?\.(?:sshsig|ed25519)")

DIGEST = r"[0-9a-f]{64}"
PACKAGE, VERSION = r"[a-z0-9][a-z0-9.-]{0,100}", r"[0-9][0-9A-Za-z.+!]{0,60}"
VARIABLE, VALUE = (
    r"(?:VERBATIM|VLLM)_[A-Z0-9_]{1,60}",
    r"[ -~]{0,1000}",
)  # no variable that leads a program elsewhere
MANIFEST_TEXTS = {
    "version": VERSION,
    "created": r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\+00:00",  # sorts in order of time
    "recipe": DIGEST,
}
TARGET_TEXTS = {
    "device": r"cpu|cuda",
    "python": r"3\.[0-9]{1,2}",
    "machine": r"[a-z0-9_]{1,20}",
    "glibc": r"[0-9]{1,3}\.[0-9]{1,3}",
    "profile": r"[a-z]{1,20}",
    "gpu": r"(?:[0-9]{1,2}\.[0-9])?",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, its path from the bundle's folder."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Target:
    """The machine for which a bundle is made.

    python: such as 3.12. machine: as from `uname -m`. glibc: the oldest. gpu: compute capability, empty for
    any. have: packages that the machine has already, name -> version.
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
    """The contents of a bundle.

    version: of Verbatim. created: UTC. recipe: digest of what decides its contents. installed_bytes: size of
    packages and models at the site. environment: variables for the command. loose: the installer, beside
    manifest.json. files: the payload, in order; parts: what it is split into, empty if its files lie beside
    manifest.json too.
    """

    version: str
    created: str
    recipe: str
    target: Target
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

    @property
    def pip(self) -> Entry:
        """The wheel of the pip that installs the others."""
        return next(entry for entry in self.files if PIP.fullmatch(entry.path))

    @property
    def packages(self) -> list[Entry]:
        """The wheels to install: all but pip's."""
        return [entry for entry in self.files if WHEEL.fullmatch(entry.path) and entry != self.pip]


def to_bytes(manifest: Manifest) -> bytes:
    return (json.dumps({"format": FORMAT, **asdict(manifest)}, indent=1, sort_keys=True) + "\n").encode()


def identity(data: bytes) -> str:
    """A manifest's own digest, which identifies the whole bundle."""
    return hashlib.sha256(data).hexdigest()


def read_bytes(folder: Path) -> bytes:
    """The bytes of manifest.json. Raises BundleError if there is none."""
    try:
        with open_file(folder / MANIFEST) as file:
            data = file.read(MOST_MANIFEST_BYTES + 1)
    except FileNotFoundError:
        raise BundleError(
            f"{folder} has no {MANIFEST}, so it is neither a bundle nor an installation."
        ) from None
    except UnreadableError as error:
        raise BundleError(f"{folder / MANIFEST}: {error}.") from error
    if len(data) > MOST_MANIFEST_BYTES:
        raise BundleError(f"{MANIFEST} is damaged: it has more than {MOST_MANIFEST_BYTES} bytes.")
    return data


def parse(data: bytes) -> Manifest:
    """Parse a manifest. Raises BundleError if the bytes are not a manifest of this format, or break one of
    its patterns."""
    try:
        fields = json.loads(data, object_pairs_hook=_once)
        number = fields.pop("format")
        if number != FORMAT:
            raise BundleError(
                f"{MANIFEST} has format {shown(str(number))}, but this program reads format {FORMAT}: use"
                " the install.sh or the `verbatim` with which the bundle was made."
            )
        return _manifest(fields)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        said = f": {error}" if str(error) else ""
        raise BundleError(
            f"{MANIFEST} is damaged: it is not a manifest ({type(error).__name__}{shown(said)})."
        ) from None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object without repeated keys: another reader might use the other value."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object has a key twice")
    return found


def _manifest(fields: dict[str, Any]) -> Manifest:
    target = Target(**fields["target"])
    entries = {name: tuple(Entry(**one) for one in fields[name]) for name in ("loose", "files", "parts")}
    manifest = Manifest(**{**fields, **entries, "target": target})
    _check_texts(manifest, MANIFEST_TEXTS)
    _check_texts(target, TARGET_TEXTS)
    _check_mapping("have", target.have, PACKAGE, VERSION)
    _check_mapping("environment", manifest.environment, VARIABLE, VALUE)
    _check_size("installed_bytes", manifest.installed_bytes)
    for entry in (*manifest.loose, *manifest.files, *manifest.parts):
        _check_size(f"size of {entry.path}", entry.size)
        _check_text(f"digest of {entry.path}", entry.sha256, DIGEST)
    _check_places(manifest)
    return manifest


def _check_text(name: str, value: object, pattern: str) -> None:
    if not isinstance(value, str) or not re.fullmatch(pattern, value):
        raise ValueError(f"{name} cannot be {value!r}")


def _check_texts(holder: object, patterns: Mapping[str, str]) -> None:
    for name, pattern in patterns.items():
        _check_text(name, getattr(holder, name), pattern)


def _check_mapping(name: str, found: object, keys: str, values: str) -> None:
    if not isinstance(found, dict):
        raise TypeError(f"{name} is not an object")
    for key, value in found.items():
        _check_text(f"a name in {name}", key, keys)
        _check_text(f"{name} {key}", value, values)


def _check_size(name: str, value: object) -> None:
    if type(value) is not int or not 0 <= value <= MOST_BYTES:  # a bool is an int too
        raise ValueError(f"{name} cannot be {value!r}")


def _check_places(manifest: Manifest) -> None:
    """Check that every file is where files of its kind belong, and that no file system would confuse
    two of them."""
    paths = [entry.path for entry in (*manifest.loose, *manifest.files, *manifest.parts)]
    if {entry.path for entry in manifest.loose} != {SCRIPT, PROGRAM}:
        raise ValueError(f"its installer is not {SCRIPT} and {PROGRAM}")
    for entry in manifest.files:
        if not has_place(entry.path):
            raise ValueError(f"the path {entry.path!r} may not be in a bundle")
    if wrong := [part.path for part in manifest.parts if not PART.fullmatch(part.path)]:
        raise ValueError(f"the part {wrong[0]!r}")
    if sum(1 for path in paths if PIP.fullmatch(path)) != 1:
        raise ValueError("it does not have exactly one pip")
    folded = {path.casefold() for path in paths}
    if len(folded) != len(paths):
        raise ValueError("a path is listed twice")
    if inside := [path for path in folded if folded.intersection(_folders(path))]:
        raise ValueError(f"{min(inside)!r} is inside another file")
    payload, cut = sum(file.size for file in manifest.files), sum(part.size for part in manifest.parts)
    if manifest.parts and payload != cut:
        raise ValueError(f"its files have {payload} bytes together, and its parts {cut}")


def has_place(path: str) -> bool:
    """Whether a file of the payload may have this path, which the installation must not create itself."""
    model = path.startswith(f"{MODELS}/") and path.count("/") >= 2 and is_safe(path)
    return model or path in (CONFIGURATION, SBOM) or bool(WHEEL.fullmatch(path))


def is_safe(path: str) -> bool:
    """Whether a path stays inside the folder and every file system supports it."""
    return (
        path.isprintable()
        and unicodedata.normalize("NFC", path) == path
        and len(path.encode()) <= MOST_PATH_BYTES
        and all(NAME.fullmatch(name) and len(name.encode()) <= MOST_NAME_BYTES for name in path.split("/"))
    )


def _folders(path: str) -> Iterable[str]:
    names = path.split("/")
    return ("/".join(names[:count]) for count in range(1, len(names)))


def shown(text: str) -> str:
    """Text from others for a terminal or a log: unprintable characters are escaped."""
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
