"""What a token costs from the engine's message to the queue of its request, metrics included.

    python -m benchmarks.handout [--code FOLDER] [--json FILE]

Measured in this process alone, without an engine or a connection. The result is the smallest CPU time of many
passes, so that other work of the machine changes it little. --code: a checkout of another commit, measured in
turn with this one. "Shared": the metrics are written to files, as with several workers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks.inprocess import ROOT, commit, in_turn
from benchmarks.report import machine, table, write

STREAMS = (1, 16, 256)
PASSES = 30
STEPS = 200
# A process runs this, with one checkout or the other in its path.
MEASURE = "from benchmarks.handout import measured; print(measured({streams}, {shared}))"


def measured(streams: int, shared: bool) -> float:
    """CPU nanoseconds per token. streams: requests that get a token in each step."""
    from server.contract.params import GenerationParams
    from server.engine.base import Job
    from server.engine.vllm.running import RunningJobs
    from server.engine.vllm.wire import CoreOutput, CoreOutputs
    from server.http.metrics import Metrics

    with tempfile.TemporaryDirectory() as name:
        jobs = RunningJobs(Metrics(Path(name) if shared else None).engines.of("m"), lambda _: None)
        for k in range(streams):
            job = Job(str(k), str(k), [5], GenerationParams(), (2,), 10**6, seed=9, num_logprobs=None)
            jobs.add(job, lambda output: None)
        steps = [
            [CoreOutputs(outputs=[CoreOutput(str(k), [7]) for k in range(streams)], timestamp=0.02 * step)]
            for step in range(1, STEPS + 1)
        ]
        least = float("inf")
        for _ in range(PASSES):
            began = time.process_time_ns()
            for step in steps:
                jobs.take(step)
            least = min(least, time.process_time_ns() - began)
    return least / STEPS / streams


def of(code: Path, streams: int, shared: bool) -> float:
    """The same for that checkout; this file measures it, even if the checkout does not have it."""
    path = os.pathsep.join((str(code), str(ROOT)))
    command = [sys.executable, "-c", MEASURE.format(streams=streams, shared=shared)]
    ran = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": path}, cwd=code, capture_output=True, text=True, check=True
    )
    return float(ran.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--code", type=Path, help="checkout of another commit, to compare with")
    parser.add_argument("--json", type=Path, help="where to write the results")
    options = parser.parse_args()
    codes = {"now": ROOT} | ({"before": options.code.absolute()} if options.code else {})
    rows: list[dict[str, Any]] = []
    for streams in STREAMS:
        for shared in (False, True):
            runs = in_turn(codes, partial(of, streams=streams, shared=shared))
            rows += [
                {"streams": streams, "shared": shared, "code": name, "ns": median(found), "runs": found}
                for name, found in runs.items()
            ]
    columns = ("streams", "shared", "code", "ns a token", "from", "to")
    cells = (
        [str(row["streams"]), "yes" if row["shared"] else "no", row["code"]]
        + [f"{value:.0f}" for value in (row["ns"], min(row["runs"]), max(row["runs"]))]
        for row in rows
    )
    Console().print(table("handing out a step", columns, cells))
    if options.json:
        found = machine("handout") | ({"before": commit(options.code)} if options.code else {})
        write(options.json, {"machine": found, "rows": rows})


if __name__ == "__main__":
    main()
