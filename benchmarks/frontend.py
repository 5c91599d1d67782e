"""What a front end costs for each streamed token: ours with one process and with several, vLLM's in Python,
and vLLM's in Rust.

    python -m benchmarks.frontend [--json FILE] [--plot FILE.png] [--rust PATH/vllm-rs] [--repeats 3]

All of them use the same vLLM engine process, whose executor computes nothing (idle_executor.py), so the
figures differ by the front end alone. CPU is that of the HTTP processes with all their threads, from /proc.
The load client is a process of its own and is not counted. `vllm-rs` is in the CUDA wheel of vllm==0.32.0
(pip download --no-deps, unzip) and runs without a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.load import percentiles
from benchmarks.report import machine, write
from benchmarks.servers import STEP_FILE, Server, set_step, verbatim, vllm
from server.weights.builtin import builtin_path

MODEL = "smollm2-135m-instruct"
NUM_TOKENS = 128
SEVERAL = "ours, 2 workers"
EXECUTOR = "benchmarks.idle_executor.IdleExecutor"
# Settings of the engine, both for vLLM's command line and for our engine_args.
ENGINE = {"max_model_len": 2048, "max_num_seqs": 1024}
ENGINE_ARGS = {
    "distributed_executor_backend": EXECUTOR,
    "async_scheduling": False,
    "num_gpu_blocks_override": 16384,
}


@dataclass(frozen=True)
class Cell:
    """One load. streams: candidates at once. step_s: seconds in which the engine makes a token for each."""

    kind: str
    streams: int
    step_s: float

    @property
    def num_tokens(self) -> int:
        """Tokens of a reply by which its cost is divided: generated, or of the prompt for `echo`."""
        return {"short": 1, "echo": NUM_ECHOED}.get(self.kind, NUM_TOKENS)

    def bodies(self) -> list[str]:
        n = 4 if self.kind in ("n = 4", "best_of 4") else 1
        fields: dict[str, Any] = {
            "model": MODEL,
            "max_tokens": 1 if self.kind in ("short", "echo") else NUM_TOKENS,
            "ignore_eos": True,
            "stream": self.kind not in ("whole", "short", "echo", "best_of 4"),
            **MORE_FIELDS.get(self.kind, {}),
        }
        prompts = (f"Story number {k}: once upon a time there was" for k in range(self.streams // n))
        if self.kind == "echo":  # each word is one token
            prompts = (f"{k % 10}" + " time" * (NUM_ECHOED - 1) for k in range(self.streams))
        return [json.dumps(fields | {"prompt": prompt}) for prompt in prompts]


NUM_ECHOED = 500
MORE_FIELDS: dict[str, dict[str, Any]] = {
    "n = 4": {"n": 4},
    "best_of 4": {"best_of": 4},
    "logprobs 0": {"logprobs": 0},
    "logprobs 5": {"logprobs": 5},
    "echo": {"logprobs": 0, "echo": True},
    "stop": {"stop": ["\n\nQuestion:", "###", "<|end|>", "Observation:"]},
}
CELLS = (
    *(Cell("plain", streams, 0.02) for streams in (1, 16, 64, 256, 1024)),
    *(Cell(kind, 256, 0.02) for kind in ("logprobs 0", "logprobs 5", "stop", "n = 4", "best_of 4", "whole")),
    *(Cell("plain", streams, 0.0) for streams in (64, 256)),
    Cell("logprobs 5", 256, 0.0),
    Cell("logprobs 5", 1024, 0.02),
    *(Cell(kind, 256, 0.0) for kind in ("short", "echo")),
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument(
        "--plot", type=Path, help="where to write the plot of CPU per token over streams (PNG)"
    )
    parser.add_argument("--rust", type=Path, help="path of vllm-rs, vLLM's Rust front end")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only",
        action="append",
        help="measure only this front end, or these: `ours`, `ours, 2 workers`, `before`, `vllm`, `vllm-rs`",
    )
    parser.add_argument("--code", type=Path, help="another checkout, to measure as `before`")
    parser.add_argument("--cells", help="kinds of load, comma separated, such as: plain,logprobs 5,whole")
    options = parser.parse_args()
    kinds = options.cells.split(",") if options.cells else {cell.kind for cell in CELLS}
    cells = [cell for cell in CELLS if cell.kind in kinds]
    console = Console()
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        set_step(folder / "step", 0.0)
        os.environ |= {STEP_FILE: str(folder / "step"), "PYTHONPATH": str(Path(__file__).parents[1])}
        to_start = starts(folder, options.rust, options.only or (), code=options.code)
        servers = [stack.enter_context(start) for start in to_start]
        starting = {server.name: server.started_s for server in servers}
        measured: dict[tuple[Cell, str], list[dict[str, Any]]] = {}
        answered = {(server.name, kind) for server in servers for kind in kinds if answers(server, kind)}
        for cell, number in itertools.product(cells, range(options.repeats)):
            set_step(folder / "step", cell.step_s)
            for server in servers[number % len(servers) :] + servers[: number % len(servers)]:
                if (server.name, cell.kind) not in answered:
                    continue
                found = load(server, cell)
                measured.setdefault((cell, server.name), []).append(found)
                figures = f"{found['cpu_us']:.1f} µs a token, {found['tokens_per_s']:.0f} tokens/s"
                console.print(f"{cell.kind}, {cell.streams} at {cell.step_s} s: {server.name} {figures}")
    rows = [summary(cell, name, found) for (cell, name), found in measured.items()]
    console.print(table(rows))
    if options.json:
        write(options.json, {"machine": machine("frontend"), "ready_s": starting, "rows": rows})
    if options.plot:
        plot(rows, options.plot)


def starts(
    folder: Path,
    rust: Path | None,
    only: Collection[str],
    engine: dict[str, int] = ENGINE,
    engine_args: dict[str, Any] = ENGINE_ARGS,
    code: Path | None = None,
) -> list[Any]:
    """Context managers that start the servers. code: another checkout of ours."""
    model = {"id": MODEL, "builtin": MODEL, **engine, "engine_args": engine_args}
    flags = [f"--served-model-name={MODEL}", "--no-async-scheduling", "--disable-uvicorn-access-log"]
    for name, value in {**engine, **engine_args, "async_scheduling": None}.items():
        text = json.dumps(value) if isinstance(value, dict) else value
        flags += [f"--{name.replace('_', '-')}={text}"] if value is not None else []
    found: dict[str, Callable[[], Any]] = {
        "ours": lambda: verbatim(folder, [model], log_level="warning"),
        SEVERAL: lambda: verbatim(folder, [model], name=SEVERAL, log_level="warning", workers=2),
        "vllm": lambda: vllm(folder, builtin_path(MODEL), flags),
    }
    if code:
        environ = {"PYTHONPATH": str(code.absolute())}
        found["before"] = lambda: verbatim(
            folder, [model], name="before", environ=environ, log_level="warning"
        )
    if rust:
        found["vllm-rs"] = lambda: vllm(folder, builtin_path(MODEL), flags, rust=rust)
    return [start() for name, start in found.items() if not only or name in only]


def answers(server: Server, kind: str) -> bool:
    """Warm up with this kind of load. Returns whether the server takes it: vLLM's ignore best_of, its Rust
    one refuses n > 1."""
    if kind == "best_of 4" and server.name.startswith("vllm"):
        return False
    try:
        load(server, Cell(kind, 16, 0.0))
    except RuntimeError as error:
        if not server.name.startswith("vllm"):
            raise
        print(f"{server.name} refuses `{kind}`: {str(error)[-300:]}", file=sys.stderr)
        return False
    return True


def load(server: Server, cell: Cell, **how: str) -> dict[str, Any]:
    """One run of a load against one server. how: arguments of benchmarks/load.py for its connections."""
    spec = json.dumps({"port": server.port, "path": "/v1/completions", "bodies": cell.bodies(), **how})
    before = cpu_seconds(server)
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=spec, capture_output=True, text=True, check=False
    )
    cpu = cpu_seconds(server) - before
    if ended.returncode:
        raise RuntimeError(f"{server.name}, {cell}: {ended.stderr[-500:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    tokens = cell.streams * cell.num_tokens
    return found | {
        "cpu_us": cpu / tokens * 1e6,
        "tokens_per_s": tokens / found["seconds"],
        "rss_mb": sum(process.memory_info().rss for process in http_processes(server)) / 1e6,
        "bytes_per_chunk": found["bytes"] / max(1, found["chunks"]),
    }


def http_processes(server: Server) -> list[psutil.Process]:
    """The server's processes except the engine's."""
    found, queue = [], [server.process]
    while queue:
        process = queue.pop()
        if not process.name().startswith("VLLM::Engine"):
            found.append(process)
            queue += process.children()
    return found


def cpu_seconds(server: Server) -> float:
    """Processor time of all living threads, in seconds with nanosecond resolution."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) / 1e9
        for process in http_processes(server)
        for task in Path(f"/proc/{process.pid}/task").iterdir()
    )


def summary(cell: Cell, name: str, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the repeats; cpu_us also with its smallest and largest value."""
    first = percentiles([value for run in runs for value in run["first_s"]])
    return {
        "kind": cell.kind,
        "streams": cell.streams,
        "step_s": cell.step_s,
        "server": name,
        "cpu_us": median(run["cpu_us"] for run in runs),
        "cpu_us_range": [min(run["cpu_us"] for run in runs), max(run["cpu_us"] for run in runs)],
        "tokens_per_s": median(run["tokens_per_s"] for run in runs),
        "first_ms": {name: value * 1000 for name, value in first.items()},
        "gap_p99_ms": median(run["gap_s"].get("p99", 0.0) for run in runs) * 1000,
        "rss_mb": max(run["rss_mb"] for run in runs),
        "bytes_per_chunk": median(run["bytes_per_chunk"] for run in runs),
        "chunks": median(run["chunks"] for run in runs),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    columns = ["load", "streams", "step ms", "server", "µs per token", "tokens per s"]
    columns += ["first p50", "first p99", "gap p99", "MB", "bytes per chunk"]
    return report.table(
        "front ends: CPU per token, and what a client sees (ms)",
        columns,
        (
            [
                row["kind"],
                str(row["streams"]),
                f"{row['step_s'] * 1000:.0f}",
                row["server"].replace(" workers", "w"),
                f"{row['cpu_us']:.1f}",
                f"{row['tokens_per_s']:.0f}",
                *(f"{row['first_ms'].get(p, 0):.0f}" for p in ("p50", "p99")),
                f"{row['gap_p99_ms']:.0f}",
                f"{row['rss_mb']:.0f}",
                f"{row['bytes_per_chunk']:.0f}",
            ]
            for row in rows
        ),
    )


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """CPU per token over streams, plain streams at steps of 20 ms."""
    import matplotlib as mpl

    mpl.use("agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
    labels = {
        "ours": "Verbatim",
        SEVERAL: "Verbatim, 2 workers",
        "vllm": "vLLM, Python",
        "vllm-rs": "vLLM, Rust",
    }
    for server, label in labels.items():
        points = [
            (row["streams"], row["cpu_us"], *row["cpu_us_range"])
            for row in rows
            if (row["server"], row["kind"]) == (server, "plain") and row["step_s"] > 0
        ]
        if points:
            streams, middle, low, high = zip(*sorted(points), strict=True)
            axes.plot(streams, middle, marker="o", label=label)
            axes.fill_between(streams, low, high, alpha=0.2)
    axes.set(xscale="log", yscale="log", xlabel="streams at once", ylabel="CPU per token, µs")
    axes.set_xticks(streams, [str(count) for count in streams])
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
