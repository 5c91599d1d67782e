"""Measures what something costs in this process, in turn with another checkout of the code.

A benchmark has a function `measured(kind)`, which returns microseconds of CPU: the least of many passes, in
CPU time of the thread, so that a machine that is busy with something else changes it little.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

ROOT = Path(__file__).parents[1]
TURNS = 3
# Run by path: another checkout has other benchmarks.
MEASURE = "import runpy; print(runpy.run_path({file!r})['measured']({kind!r}))"


def of(code: Path, file: str, kind: str) -> float:
    """Measure that checkout with the benchmark in `file`."""
    program = MEASURE.format(file=str(Path(file).absolute()), kind=kind)
    environ = {**os.environ, "PYTHONPATH": str(code)}
    command = [sys.executable, "-c", program]
    ran = subprocess.run(command, env=environ, cwd=code, capture_output=True, text=True, check=True)
    return float(ran.stdout)


def in_turn(codes: Mapping[str, Path], measured: Callable[[Path], float]) -> dict[str, list[float]]:
    """By the checkouts' names: what each took, one after the other, TURNS times."""
    runs: dict[str, list[float]] = {name: [] for name in codes}
    for _ in range(TURNS):
        for name, code in codes.items():
            runs[name].append(measured(code))
    return runs


def commit(code: Path) -> str:
    """The commit of a checkout."""
    command = ["git", "-C", str(code), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare(file: str, description: str | None, kinds: Collection[str], title: str, unit: str) -> None:
    """The command line of the benchmark in `file`. unit: what the microseconds are for."""
    from rich.console import Console

    from benchmarks.report import machine, table, write

    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, help="another checkout")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    codes = {"now": ROOT} | ({"before": options.code.absolute()} if options.code else {})
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        runs = in_turn(codes, partial(of, file=file, kind=kind))
        rows += [
            {"kind": kind, "code": name, "us": median(found), "runs": found} for name, found in runs.items()
        ]
    cells = (
        [row["kind"], row["code"], *(f"{us:.2f}" for us in (row["us"], min(row["runs"]), max(row["runs"])))]
        for row in rows
    )
    Console().print(table(title, ("kind", "code", f"µs a {unit}", "from", "to"), cells))
    if options.json:
        found = machine(Path(file).stem) | ({"before": commit(options.code)} if options.code else {})
        write(options.json, {"machine": found, "rows": rows})
