"""How long a stream pauses when its engine is killed: from kill -9 to the next token, by phase.

    python -m benchmarks.recovery [--json FILE] [--model DIRECTORY] [--kills 3]

Two servers run one after the other: with the default settings, and with a standby process (`standby: true`).
Each engine is killed a few times, half a minute apart, so that the server does not delay the restart. The
phases come from the server's log. CPU is what the new engine's process used from the kill to the next token;
on a machine with other work it says more than the time does. The memory of the standby process is its
proportional set size (PSS): what it shares with the engine counts by half.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.report import machine, write
from benchmarks.servers import Server, verbatim

STABLE_S = 31.0  # server/engine/supervisor.py: an engine that lived shorter ended early
BEFORE_KILL = 20  # tokens
GAP_S = 0.4  # seconds, longer than any step
MODEL = "recovers"
# A log line of a phase -> what begins then.
LINE = re.compile(rf"^(\S+ \S+?),(\d+) \w+ +model {MODEL}: (.*?)(?: \(.*)?$", re.MULTILINE)
BEGINS = {
    "restarting": "noticed",
    "importing": "importing",
    "loading weights": "loading",
    "warming up": "warming up",
    "ready": "ready",
}
PHASES = ("noticing", "ending", "importing", "loading", "warming up", "first token")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--model", type=Path, help="directory of the model; default: the built-in model")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument(
        "--without-standby", action="store_true", help="measure only the server without a standby process"
    )
    options = parser.parse_args()
    source = {"path": str(options.model)} if options.model else {"builtin": "smollm2-135m-instruct"}
    rows: list[dict[str, Any]] = []
    for standby in (False,) if options.without_standby else (False, True):
        model = {"id": MODEL, "kv_cache_gib": 0.5, **source, **({"standby": True} if standby else {})}
        with tempfile.TemporaryDirectory() as folder, verbatim(Path(folder), [model]) as server:
            for _ in range(options.kills):
                time.sleep(STABLE_S)
                rows.append({"standby": standby, **lost(server)})
    Console().print(table(rows))
    if options.json:
        write(options.json, {"machine": machine("recovery"), "rows": rows})


def lost(server: Server) -> dict[str, Any]:
    """One kill under a stream. Times in seconds, memory in MB."""
    engine, *reserve = hosts(server)
    memory = reserve[0].memory_full_info() if reserve else None
    cpu_s = -cpu_of(reserve[0]) if reserve else 0.0
    killed = last = first = gap_s = 0.0
    said = len(server.log.read_bytes())
    for count, at in enumerate(tokens(server.port), 1):
        if count == BEFORE_KILL:
            engine.kill()
            killed = time.time()
        elif killed and at - last > GAP_S:
            gap_s, first = at - last, at
            cpu_s += cpu_of(hosts(server)[0])
            break
        last = at
    begins = (
        {"killed": killed}
        | begun(server.log.read_bytes()[said:].decode("utf-8", "replace"))
        | {"first token": first}
    )
    return {
        "total": first - killed,
        "gap": gap_s,
        "phases": {
            name: until - since
            for name, since, until in zip(PHASES, begins.values(), [*begins.values()][1:], strict=False)
        },
        "cpu": cpu_s,
        "reserve": {"rss": memory.rss / 1e6, "pss": memory.pss / 1e6, "uss": memory.uss / 1e6}
        if memory
        else None,
    }


def tokens(port: int) -> Iterator[float]:
    """Arrival times of a stream's tokens."""
    body = {"model": MODEL, "prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}
    with httpx.stream(
        "POST",
        f"http://127.0.0.1:{port}/v1/completions",
        json=body,
        headers={"authorization": "Bearer any"},
        timeout=300,
    ) as reply:
        for line in reply.iter_lines():
            if line.startswith("data: {"):
                assert "error" not in json.loads(line.removeprefix("data: ")), line
                yield time.time()


def cpu_of(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system


def begun(log: str) -> dict[str, float]:
    """When each phase began, by the server's log."""
    found = {}
    for at, ms, what in LINE.findall(log):
        if what in BEGINS:
            found[BEGINS[what]] = datetime.fromisoformat(f"{at}.{ms}").timestamp()
    if "warming up" not in found:  # a restarted engine does not warm up
        ready = found.pop("ready")
        found |= {"warming up": ready, "ready": ready}
    return found


def hosts(server: Server) -> list[psutil.Process]:
    """The engine's process, and the standby process."""
    return sorted(server.process.children(), key=lambda process: process.create_time())


def table(rows: list[dict[str, Any]]) -> Table:
    """A table with a line for each kill."""
    cells = [
        [
            "yes" if row["standby"] else "no",
            *(f"{row['phases'][name]:.2f}" for name in PHASES),
            f"{row['total']:.2f}",
            f"{row['cpu']:.1f}",
            f"{row['reserve']['pss']:.0f}" if row["reserve"] else "-",
        ]
        for row in rows
    ]
    columns = ("standby", *PHASES, "total", "CPU", "reserve, MB")
    return report.table("kill -9 to the next token, s", columns, cells)


if __name__ == "__main__":
    main()
