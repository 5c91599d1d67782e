"""Our server against vLLM's, on one machine with the same engine arguments, as a client sees them.

    python -m benchmarks.serving [--dummy-8b] [--streams 1,16,64] [--prompt 512] [--output 256] [--json FILE]

On a GPU: --dummy-8b, a Llama of 8 billion random parameters. On the CPU, the built-in model and a small load:
--streams 1,8,32 --prompt 32 --output 64. Three loads: plain; with all penalties; and four candidates for each
stream, of which our server returns the best (best_of) and vLLM's, which has no best_of, all four (n). Tokens
a second count all four candidates in full, also where our server stopped one early. Prompts are random token
ids, all different. The servers run one after the other, because a GPU has no room for two. A run of 16 tokens
precedes each run.

FILE is written after each run. Runs of the same command that are in it already are not measured again: to
continue an interrupted measurement, give the same command.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.load import percentiles
from benchmarks.report import machine, write
from benchmarks.servers import Server, verbatim, vllm
from server.config.engine_args import OWN_KEYS
from server.observe.versions import CPU_BUILD, installed
from server.weights.builtin import builtin_path

MODEL = "m"
LOADS = ("plain", "penalties", "best of 4")
PENALTIES = {"repetition_penalty": 1.1, "frequency_penalty": 0.2, "presence_penalty": 0.2, "min_p": 0.02}
# The shape of Llama 3 8B, with random numbers.
LLAMA_8B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NUM_WORDS = 40_000  # ids that the tokenizers of both models have
WARM_TOKENS = 16


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument(
        "--dummy-8b", action="store_true", help="use a Llama with 8 billion random parameters"
    )
    parser.add_argument("--streams", default="1,16,64,256,512")
    parser.add_argument("--prompt", type=int, default=512, help="tokens of each prompt")
    parser.add_argument("--output", type=int, default=256, help="tokens generated for each stream")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--loads", default=",".join(LOADS))
    parser.add_argument(
        "--engine-args", type=json.loads, default={}, help="vLLM's engine arguments for both servers, as JSON"
    )
    options = parser.parse_args()
    streams = [int(count) for count in options.streams.split(",")]
    cells = [(load, count) for load in options.loads.split(",") for count in streams]
    results = begun(options)
    console, rows = Console(), results["rows"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        smol = builtin_path("smollm2-135m-instruct")
        model = dummy_model(folder / "llama-8b") if options.dummy_8b else smol
        for server_name, start in starts(folder, model, engine_arguments(options, max(streams))).items():
            done = {(row["load"], row["streams"]) for row in rows if row["server"] == server_name}
            if not (left := [cell for cell in cells if cell not in done]):
                continue
            with start() as server:
                results["ready_s"][server_name] = server.started_s
                for load, count in left:
                    measure(server, load, count, options, 0, WARM_TOKENS)
                    runs = [
                        measure(server, load, count, options, 1 + run, options.output)
                        for run in range(options.repeats)
                    ]
                    rows.append(summary(server_name, load, count, runs))
                    console.print(f"{server_name}, {load}, {count}: {rows[-1]['tokens_per_s']:.0f} tokens/s")
                    if options.json:
                        write(options.json, results)
    console.print(table(rows))
    console.print({name: f"ready after {seconds:.1f} s" for name, seconds in results["ready_s"].items()})


def begun(options: argparse.Namespace) -> dict[str, Any]:
    """The results of the same command from an interrupted run, or empty ones."""
    here = machine("serving")
    if options.json and options.json.is_file():
        found: dict[str, Any] = json.loads(options.json.read_text())
        if _compared(found["machine"]) == _compared(here):
            return found
    return {"machine": here, "ready_s": {}, "rows": []}


def _compared(machine: dict[str, Any]) -> dict[str, Any]:
    """The machine without what may differ between the runs: the date, and a working tree with the results."""
    return {**machine, "date": None, "commit": machine["commit"].rstrip("+")}


def engine_arguments(options: argparse.Namespace, most_streams: int) -> dict[str, Any]:
    """vLLM's engine arguments for both servers. Where our server has its own defaults, they
    are vLLM's too."""
    arguments: dict[str, Any] = {"max_num_seqs": max(256, most_streams), "gpu_memory_utilization": 0.9}
    if installed(CPU_BUILD):
        arguments |= {"enforce_eager": True, "kv_cache_memory_bytes": 2**30}
    if options.dummy_8b:
        arguments["load_format"] = "dummy"
    arguments.update(options.engine_args)
    return arguments


def dummy_model(path: Path) -> Path:
    """Write a model directory without weights."""
    path.mkdir()
    (path / "config.json").write_text(json.dumps(LLAMA_8B))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((builtin_path("smollm2-135m-instruct") / name).read_bytes())
    return path


def starts(
    folder: Path, model: Path, arguments: dict[str, Any]
) -> dict[str, Callable[[], AbstractContextManager[Server]]]:
    own = {name: value for name, value in arguments.items() if name in OWN_KEYS}
    more = {name: value for name, value in arguments.items() if name not in OWN_KEYS}
    ours = {"id": MODEL, "path": str(model), "engine_args": more} | own
    flags = [f"--served-model-name={MODEL}", "--disable-uvicorn-access-log"]
    for name, value in arguments.items():
        flag = f"--{name.replace('_', '-')}"
        text = json.dumps(value) if isinstance(value, dict) else value
        flags.append(flag if value is True else f"--no-{flag[2:]}" if value is False else f"{flag}={text}")
    return {
        "ours": lambda: verbatim(folder, [ours], log_level="warning"),
        "vllm": lambda: vllm(folder, model, flags),
    }


def measure(
    server: Server, load: str, streams: int, options: argparse.Namespace, run: int, num_tokens: int
) -> dict[str, Any]:
    draw = np.random.default_rng([run, streams, LOADS.index(load)])
    fields: dict[str, Any] = {
        "model": MODEL,
        "max_tokens": num_tokens,
        "ignore_eos": True,
        "stream": load != "best of 4",
        "temperature": 0.8,
    }
    if load == "penalties":
        fields |= PENALTIES
    if load == "best of 4":
        fields |= {"n": 1, "best_of": 4} if server.name == "ours" else {"n": 4}
    prompts = draw.integers(1000, NUM_WORDS, (streams, options.prompt)).tolist()
    bodies = [json.dumps(fields | {"prompt": prompt}) for prompt in prompts]
    spec = json.dumps({"port": server.port, "path": "/v1/completions", "bodies": bodies})
    ended = subprocess.run(
        [sys.executable, "-m", "benchmarks.load"], input=spec, capture_output=True, text=True, check=False
    )
    if ended.returncode:
        raise RuntimeError(f"{server.name}, {load}, {streams}: {ended.stderr[-500:]}")
    found: dict[str, Any] = json.loads(ended.stdout)
    candidates = 4 if load == "best of 4" else 1
    return found | {"tokens_per_s": streams * candidates * num_tokens / found["seconds"]}


def summary(server: str, load: str, streams: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    first = percentiles([value for run in runs for value in run["first_s"]])
    return {
        "server": server,
        "load": load,
        "streams": streams,
        "tokens_per_s": median(run["tokens_per_s"] for run in runs),
        "first_ms": {name: value * 1000 for name, value in first.items()},
        "gap_ms": {
            name: median(run["gap_s"].get(name, 0.0) for run in runs) * 1000 for name in ("p50", "p99")
        },
        "seconds": median(run["seconds"] for run in runs),
    }


def table(rows: list[dict[str, Any]]) -> Table:
    return report.table(
        "servers: tokens a second, and what a client sees (ms)",
        ("load", "streams", "server", "tokens per s", "first p50", "first p99", "gap p50", "gap p99"),
        (
            [
                row["load"],
                str(row["streams"]),
                row["server"],
                f"{row['tokens_per_s']:.0f}",
                *(f"{row['first_ms'].get(p, 0):.0f}" for p in ("p50", "p99")),
                *(f"{row['gap_ms'][p]:.1f}" for p in ("p50", "p99")),
            ]
            for row in sorted(rows, key=lambda row: (LOADS.index(row["load"]), row["streams"]))
        ),
    )


if __name__ == "__main__":
    main()
