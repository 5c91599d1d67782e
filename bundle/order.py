"""The options of `verbatim bundle`, read and checked before the package index is asked."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import tomllib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from bundle.models import Configuration
from sealed.manifest import Target
from server.errors import ConfigurationError
from server.pip import GLIBC, NEWEST, OLDEST, read_pins

Device = Literal["cpu", "cuda"]
ROOT = Path(__file__).resolve().parent.parent
MACHINE = "x86_64"
OUR_SOURCES = ("bundle", "conform", "deploy", "sampling", "sealed", "server", "twin")

PIN = re.compile(r"([A-Za-z0-9][\w.-]*)={2,3}([\w.+!-]+)")
ROW = re.compile(r"([A-Za-z0-9][\w.-]*)\s+(\d[\w.+!-]*)(?:\s.*)?")
UNITS = {"": 1, "K": 1000, "M": 1000**2, "G": 1000**3, "KI": 1 << 10, "MI": 1 << 20, "GI": 1 << 30}
SMALLEST_PART = 1 << 20  # manifest.json is not split, and must fit beside the first part


@dataclass(frozen=True, slots=True)
class FileRule:
    """Files that a profile leaves out of one package's wheel.

    paths: patterns. gpus: compute capabilities that need them. keys: keys of a model's config.json
    that need them.
    """

    package: str
    paths: Sequence[str]
    reason: str
    gpus: Sequence[str] = ()
    keys: Sequence[str] = ()

    def applies(self, gpu: str, keys: Collection[str]) -> bool:
        """Whether nothing needs the files. gpu: empty for any. keys: of all models' config.json."""
        other_chip = not self.gpus or bool(gpu and gpu not in self.gpus)
        return other_chip and not set(self.keys).intersection(keys)

    def matches(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.paths)


@dataclass(frozen=True, slots=True)
class Profile:
    """What is left out of a list. packages: name -> reason. files: rules for wheels that stay."""

    name: str
    packages: Mapping[str, str]
    files: Sequence[FileRule]


@dataclass(frozen=True, slots=True)
class Have:
    """The packages of the target, name -> version.

    stated: on the command line; accepted with any version. listed: from a file.
    """

    stated: Mapping[str, str] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Order:
    """One bundle to make.

    part_bytes: 0 for a bundle of whole files. gpu: compute capability, empty for any. checksums: SHA-256 of
    every model file, by the model's directory in the bundle. ray: for nodes of a cluster.
    """

    device: Device
    python: str
    out: Path
    profile: Profile
    configuration: Configuration
    checksums: Mapping[str, Mapping[str, str]]
    have: Have = field(default_factory=Have)
    gpu: str = ""
    part_bytes: int = 0
    ray: bool = False

    @property
    def pins(self) -> list[str]:
        """The device's list without what the profile leaves out, and the packages of Ray."""
        left_out = self._left_out
        return [pin for pin in self.digests if name_of(pin) not in left_out]

    @property
    def excluded(self) -> list[str]:
        """What the profile leaves out of the list."""
        left_out = self._left_out
        return [pin for pin in self.digests if name_of(pin) in left_out]

    @property
    def _left_out(self) -> set[str]:
        return set(self.profile.packages) - {name_of(pin) for pin in self._for_ray}

    @property
    def digests(self) -> dict[str, tuple[str, ...]]:
        """pin -> SHA-256 of acceptable wheels: the device's whole list, and Ray's."""
        return dict(read_pins(ROOT / f"requirements/{self.device}.txt")) | self._for_ray

    @property
    def _for_ray(self) -> dict[str, tuple[str, ...]]:
        return dict(read_pins(ROOT / "requirements/ray.txt")) if self.ray else {}

    @property
    def there(self) -> dict[str, str]:
        """The packages that the target has already, name -> version."""
        return left_out({name_of(pin): version_of(pin) for pin in self.pins}, self.have)

    @property
    def target(self) -> Target:
        return Target(
            device=self.device,
            python=self.python,
            machine=MACHINE,
            glibc="{}.{}".format(*GLIBC),
            profile=self.profile.name,
            gpu=self.gpu,
            have=self.there,
        )

    def rules(self, package: str) -> list[FileRule]:
        """The rules for this package's wheel."""
        keys = self.configuration.model_keys
        rules = (rule for rule in self.profile.files if rule.package == package)
        return [rule for rule in rules if rule.applies(self.gpu, keys)]

    @property
    def recipe(self) -> str:
        """A digest of everything that decides what is in the bundle: an equal one need not be made again."""
        parts: list[object] = [
            {
                str(path.relative_to(ROOT)): hashlib.sha256(path.read_bytes()).hexdigest()
                for path in sources()
            },
            self.pins,
            self.digests,
            [[rule.package, *rule.paths] for rule in self.profile.files],
            self.there,
            [self.device, self.python, self.profile.name, self.gpu, self.part_bytes, self.ray],
            self.configuration.text,
            {name: dict(sums) for name, sums in self.checksums.items()},
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sources() -> list[Path]:
    """Every file of ours in a bundle, in some form."""
    found = [path for package in OUR_SOURCES for path in (ROOT / package).rglob("*")]
    ours = (path for path in found if path.is_file() and path.parent.name != "__pycache__")
    return [*sorted(ours), ROOT / "pyproject.toml"]


def name_of(pin: str) -> str:
    return canonicalize_name(pin.partition("=")[0])


def version_of(pin: str) -> str:
    return pin.rpartition("=")[2]


def check_python(python: str) -> None:
    found = re.fullmatch(r"(\d+)\.(\d+)", python)
    if not found or not OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        low, high = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
        raise ConfigurationError(
            f"--python: {python} is not a version between {low} and {high}, such as 3.12."
        )


def parse_size(text: str) -> int:
    """Parse 60MiB, 4.7GB or a number of bytes."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMG]I?)?B?", text.strip().upper())
    if not found:
        raise ConfigurationError(f"--part-size: {text} is not a size such as 60MiB, 650MB or 4GiB.")
    size = int(float(found[1]) * UNITS[found[2] or ""])
    if size < SMALLEST_PART:
        raise ConfigurationError(f"--part-size: {text} is too small; it must be at least 1MiB.")
    return size


# ---- the profile: requirements/text.toml -------------------------------------------------------------------


def load_profile(name: str, device: str, requirements: Path) -> Profile:
    """`full`, which leaves out nothing, or a profile that a file in the folder declares."""
    if name == "full":
        return Profile("full", {}, ())
    declared = tomllib.loads((requirements / f"{name}.toml").read_text("utf-8"))
    both = {name: reason for name, reason in declared["packages"].items() if isinstance(reason, str)}
    return Profile(
        name=name,
        packages=both | declared["packages"].get(device, {}),
        files=[FileRule(**rule) for rule in declared["files"]],
    )


def check_gpu(gpu: str, device: str, profile: Profile) -> None:
    if gpu and (device != "cuda" or profile.name == "full"):
        raise ConfigurationError("--gpu works only with --device cuda and --profile text.")
    known = {gpu for rule in profile.files for gpu in rule.gpus}
    if gpu and gpu not in known:
        raise ConfigurationError(
            f"--gpu: {gpu} is not a known compute capability; known are"
            f" {', '.join(sorted(known, key=float))}."
        )


# ---- what the target has: --have ---------------------------------------------------------------------------


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
    try:
        return {canonicalize_name(found[1]): str(Version(found[2]))}
    except InvalidVersion:
        raise ConfigurationError(f"--have: {found[2]} is not a version.") from None


def _read_list(path: Path) -> dict[str, str]:
    """Read the output of `pip list`, `pip list --format=json` or `pip freeze` on the target."""
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(
            f"--have: {path} is neither NAME==VERSION nor a readable file with the target's pip list"
            f" ({getattr(error, 'strerror', None) or 'not text'})."
        ) from error
    if text.lstrip().startswith("["):
        try:
            return {canonicalize_name(one["name"]): str(one["version"]) for one in json.loads(text)}
        except (ValueError, KeyError, TypeError):
            raise ConfigurationError(
                f"--have: {path} is not the output of `pip list --format=json`."
            ) from None
    rows = (PIN.fullmatch(line.strip()) or ROW.fullmatch(line.strip()) for line in text.splitlines())
    found: dict[str, str] = {canonicalize_name(row[1]): row[2] for row in rows if row}
    if not found:
        raise ConfigurationError(f"--have: {path} has no line of a pip list, such as `torch 2.11.0`.")
    return found


def left_out(pinned: Mapping[str, str], have: Have) -> dict[str, str]:
    """The packages of the list that the target's own replace, with the target's version.

    A stated package replaces any version. A listed one must have exactly the pinned version: another version
    may work, but is untested, so it has to be stated.
    """
    if unknown := sorted(have.stated.keys() - pinned.keys()):
        raise ConfigurationError(
            f"--have: {', '.join(unknown)} would not be in the bundle anyway; remove it from --have."
        )
    same = {name: version for name, version in have.listed.items() if pinned.get(name) == version}
    return same | dict(have.stated)
