"""A bundle as its users make it, with a network: the CPU's packages, the built-in model."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path

import yaml

from tests.serving import SMOL_MODEL

VERBATIM = Path(sys.executable).with_name("verbatim")


@functools.cache
def real_bundle(temporary: Path) -> Path:
    """The text profile for the CPU, in parts, signed with release.key beside it; made once for
    a session's directory."""
    _run(sys.executable, "-m", "server.weights.builtin")
    folder = temporary / "bundle"
    folder.mkdir()
    _run(VERBATIM, "bundle", "keygen", folder / "release")
    config = {"port": 0, "attest": True, "models": [SMOL_MODEL]}
    (folder / "models.yaml").write_text(yaml.safe_dump(config))
    command = [VERBATIM, "bundle", "--config", folder / "models.yaml", "--device", "cpu", "--profile", "text"]
    _run(*command, "--out", folder / "bundle", "--part-size", "60MiB", "--sign", folder / "release.key")
    return folder / "bundle"


def _run(*command: str | Path) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
