"""What was ordered: the options of `verbatim bundle`, and what follows from them before pip is asked."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundle.have import Have, left_out
from bundle.models import Configuration
from bundle.pip import GLIBC, MACHINE
from bundle.profile import Profile
from bundle.site.manifest import Target
from bundle.wheels import OUR_SOURCES
from scripts.packages import pins
from scripts.setup import NEWEST, OLDEST
from server.errors import ConfigurationError

Device = Literal["cpu", "cuda"]
ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Order:
    """One bundle to be made.

    part_bytes: 0 for a bundle whose files keep their names. gpu: compute capability, empty for any.
    checksums: SHA-256 of every model file, by the model's directory in the bundle.
    """

    device: Device
    python: str
    out: Path
    profile: Profile
    configuration: Configuration
    checksums: Mapping[str, Mapping[str, str]]
    have: Have = field(default_factory=lambda: Have({}, {}))
    gpu: str = ""
    part_bytes: int = 0

    @property
    def pins(self) -> list[str]:
        """The list of the device, less what the profile leaves out, and pip, which installs it."""
        wanted = [pin for pin in self._listed if name_of(pin) not in self.profile.packages]
        return [*wanted, f"pip=={metadata.version('pip')}"]

    @property
    def excluded(self) -> list[str]:
        """What the profile leaves out of the list."""
        return [pin for pin in self._listed if name_of(pin) in self.profile.packages]

    @property
    def _listed(self) -> list[str]:
        return pins(ROOT / f"requirements/{self.device}.txt")

    @property
    def there(self) -> dict[str, str]:
        """What the target has already, version by name."""
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

    @property
    def recipe(self) -> str:
        """A digest of all that decides what is in the bundle: equal ones need not be made twice."""
        ours = {str(path.relative_to(ROOT)): _sha256(path) for path in sources()}
        rules = [[rule.package, *rule.paths] for rule in self.profile.files]
        parts: list[object] = [
            ours,
            self.pins,
            rules,
            self.there,
            [self.device, self.python, self.profile.name, self.gpu],
        ]
        parts += [
            self.part_bytes,
            self.configuration.text,
            {name: dict(sums) for name, sums in self.checksums.items()},
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def sources() -> list[Path]:
    """Every file of ours that a bundle holds, in one form or another."""
    found = [path for package in OUR_SOURCES for path in (ROOT / package).rglob("*")]
    return [*sorted(path for path in found if path.suffix in (".py", ".sh")), ROOT / "pyproject.toml"]


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def name_of(pin: str) -> str:
    return canonicalize_name(Requirement(pin).name)


def version_of(pin: str) -> str:
    return pin.rpartition("=")[2]


def check_checkout() -> None:
    """Raises ConfigurationError in an installation, which has no lists of packages."""
    if not (ROOT / "requirements/cpu.txt").is_file() or not (ROOT / "pyproject.toml").is_file():
        raise ConfigurationError(
            "a bundle is made in a checkout of the project, where its lists of packages are: clone it, `make"
            " setup`,"
            " and run .venv/bin/verbatim bundle there."
        )


def check_python(python: str) -> None:
    found = re.fullmatch(r"(\d+)\.(\d+)", python)
    if not found or not OLDEST <= (int(found[1]), int(found[2])) <= NEWEST:
        low, high = (".".join(map(str, version)) for version in (OLDEST, NEWEST))
        raise ConfigurationError(
            f"--python: {python} is not a version between {low} and {high}, such as 3.12."
        )


def check_gpu(gpu: str, device: str, profile: Profile) -> None:
    if gpu and (device != "cuda" or profile.name == "full"):
        raise ConfigurationError(
            "--gpu: only --device cuda with --profile text leaves out what other chips need."
        )
    if gpu and gpu not in profile.gpus:
        known = ", ".join(sorted(profile.gpus, key=float))
        raise ConfigurationError(
            f"--gpu: {gpu} is no compute capability that is known here; known are {known}."
        )


def project_requirements(lines: Sequence[str]) -> set[str]:
    return {name_of(line) for line in lines}
