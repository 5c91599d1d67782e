"""What a profile leaves out of the lists in requirements/, and why: requirements/text.toml."""

from __future__ import annotations

import fnmatch
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# Without flashinfer vLLM has to be told; with it, it compiles its sampler at the first start, with the nvcc
# of
# a CUDA toolkit that a machine with no more than the driver does not have.
ENVIRONMENT: Mapping[str, Mapping[str, str]] = {"cpu": {}, "cuda": {"VLLM_USE_FLASHINFER_SAMPLER": "0"}}


@dataclass(frozen=True, slots=True)
class FileRule:
    """Files that are left out of one package's wheel.

    paths: patterns. gpus: compute capabilities that need them. keys: of a config.json of a model that needs
    them.
    """

    package: str
    paths: Sequence[str]
    reason: str
    gpus: Sequence[str] = ()
    keys: Sequence[str] = ()

    def applies(self, gpu: str, keys: Collection[str]) -> bool:
        """Whether nothing needs them. gpu: empty for any. keys: of all models' config.json."""
        other_chip = not self.gpus or bool(gpu and gpu not in self.gpus)
        return other_chip and not set(self.keys).intersection(keys)

    def matches(self, path: str) -> bool:
        return any(fnmatch.fnmatchcase(path, pattern) for pattern in self.paths)


@dataclass(frozen=True, slots=True)
class Profile:
    """packages: the reason by the name of each that is left out. files: rules for wheels that stay."""

    name: str
    packages: Mapping[str, str]
    files: Sequence[FileRule]

    def rules_for(self, package: str, gpu: str, keys: Collection[str]) -> list[FileRule]:
        return [rule for rule in self.files if rule.package == package and rule.applies(gpu, keys)]

    @property
    def gpus(self) -> set[str]:
        """Compute capabilities that a rule knows of."""
        return {gpu for rule in self.files for gpu in rule.gpus}


def load_profile(name: str, device: str, requirements: Path) -> Profile:
    """`full`, which leaves nothing out, or one that a file in the folder declares."""
    if name == "full":
        return Profile("full", {}, ())
    declared = tomllib.loads((requirements / f"{name}.toml").read_text("utf-8"))
    both = {name: reason for name, reason in declared["packages"].items() if isinstance(reason, str)}
    return Profile(
        name=name,
        packages=both | declared["packages"].get(device, {}),
        files=[FileRule(**rule) for rule in declared["files"]],
    )
