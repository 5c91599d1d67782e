"""What the benchmarks do besides measuring."""

from __future__ import annotations

import io
import json
import sys
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table

from benchmarks import best_of, frontend, recovery, report, router, scale, serving
from server.observe.versions import CPU_BUILD


def options(file: Path) -> Namespace:
    return Namespace(json=file, dummy_8b=True, engine_args={})


@pytest.mark.parametrize(("more", "num_rows"), [([], 1), (["--output", "8"], 0)])
def test_the_same_command_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: list[str], num_rows: int
) -> None:
    """What a file holds of the same command on the same machine stays; anything else is measured anew."""
    file = tmp_path / "serving.json"
    monkeypatch.setattr(sys, "argv", ["serving"])
    results = serving.begun(options(file))
    assert results["rows"] == []
    report.write(file, results | {"rows": [{"server": "ours"}]})
    monkeypatch.setattr(sys, "argv", ["serving", *more])
    assert len(serving.begun(options(file))["rows"]) == num_rows


def test_both_servers_get_the_same_arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each argument of the engine is a key or an engine_arg of ours, and a flag of vLLM's."""
    ours: list[dict[str, object]] = []
    theirs: list[str] = []
    monkeypatch.setattr(serving, "verbatim", lambda folder, models, **_: ours.extend(models))
    monkeypatch.setattr(serving, "vllm", lambda folder, model, flags: theirs.extend(flags))
    arguments = serving.engine_arguments(options(tmp_path), 512)
    for start in serving.starts(tmp_path, tmp_path, arguments).values():
        start()
    assert arguments["load_format"] == "dummy"
    for name, value in arguments.items():
        assert {**ours[0], **ours[0]["engine_args"]}[name] == value  # type: ignore[dict-item]
        flag = f"--{name.replace('_', '-')}"
        assert (flag if value is True else f"{flag}={value}") in theirs


@pytest.mark.parametrize(("build", "is_eager"), [("0.32.0", True), (None, False)])
def test_the_cpus_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, build: str | None, is_eager: bool
) -> None:
    """What our server sets on the CPU, vLLM's is told; on a GPU both have vLLM's own defaults."""
    monkeypatch.setattr(serving, "installed", {CPU_BUILD: build}.get)
    assert ("enforce_eager" in serving.engine_arguments(options(tmp_path), 1)) is is_eager


def test_the_commit_of_a_machine_without_git(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what VERBATIM_COMMIT says."""
    monkeypatch.setattr(report, "_output", lambda *command: "")
    monkeypatch.setenv("VERBATIM_COMMIT", "abc")
    assert report.machine("x")["commit"] == "abc"


@pytest.mark.parametrize(
    ("table", "file", "key"),
    [
        (frontend.table, "frontend-cpu", "rows"),
        (frontend.table, "frontend-xeon-cpu", "rows"),
        (frontend.table, "frontend-before-cpu", "rows"),
        (serving.table, "serving-cpu", "rows"),
        (report.steps, "sampling-cpu", "cells"),
        (best_of.table, "best-of-pauses-cpu", "cells"),
        (recovery.table, "recovery-cpu", "rows"),
        (recovery.table, "recovery-before-cpu", "rows"),
        (router.table, "router-simulated", "rows"),
        (scale.table, "scale-simulated", "rows"),
    ],
)
def test_a_table_is_whole_at_80_columns(table: Callable[[Any], Table], file: str, key: str) -> None:
    """Every cell of the results in the repository is on one line, and nothing is cut."""
    results = json.loads((Path(report.__file__).parent / f"results/{file}.json").read_text())[key]
    shown, console = table(results), Console(width=80, file=io.StringIO())
    with console.capture() as captured:
        console.print(shown)
    lines = captured.get().splitlines()[-shown.row_count :]
    cells = zip(*(column.cells for column in shown.columns), strict=True)
    assert [line.split() for line in lines] == [" ".join(map(str, row)).split() for row in cells]


@pytest.mark.parametrize(
    ("ms", "text"), [(0.0004, "0.000"), (9.8765, "9.877"), (129.265, "129.3"), (1802.3, "1802")]
)
def test_five_characters_of_a_time(ms: float, text: str) -> None:
    """The most exact figure that they hold."""
    assert report.short(ms) == text
