"""Prompts of 32,000 tokens, as text and many at once: their own TTFT, and the gaps of other streams.

    python -m benchmarks.longprompts [--json FILE] [--rust PATH/vllm-rs] [--repeats 3]
                                    [--count 512 --tokens 10]

The servers, and the engine that computes nothing, are those of benchmarks/frontend.py; a step of the engine
takes 20 ms, and has up to 65,536 tokens of prompts, so that the front end decides. First 64 streams run
alone, then again with 32 such prompts that arrive a second after they began, or with many short ones.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console

from benchmarks import report
from benchmarks.frontend import ENGINE_ARGS, MODEL, cpu_seconds, starts
from benchmarks.load import percentiles
from benchmarks.report import machine, write
from benchmarks.servers import STEP_FILE, Server, set_step

NUM_LONG, NUM_STREAMS = 32, 64
PROMPT_TOKENS, STREAM_TOKENS = 32_000, 400
STEP_S, HEAD_START_S = 0.02, 1.0
ENGINE = {"max_model_len": 40_960, "max_num_seqs": 256}
STEP_TOKENS = 65_536
# Words of which each is one token of the built-in model.
WORDS = (" time", " water", " light", " house", " world", " story", " people", " music")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--rust", type=Path, help="path of vllm-rs, vLLM's Rust front end")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--only",
        action="append",
        help="measure only this front end, or these: `ours`, `ours, 2 workers`, `before`, `vllm`, `vllm-rs`",
    )
    parser.add_argument("--code", type=Path, help="another checkout, to measure as `before`")
    parser.add_argument("--count", type=int, default=NUM_LONG, help="prompts that arrive")
    parser.add_argument("--tokens", type=int, default=PROMPT_TOKENS, help="tokens of each, at least 4")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        set_step(folder / "step", STEP_S)
        os.environ |= {STEP_FILE: str(folder / "step"), "PYTHONPATH": str(Path(__file__).parents[1])}
        engine_args = {**ENGINE_ARGS, "num_gpu_blocks_override": 131_072}
        engine_args["max_num_batched_tokens"] = STEP_TOKENS
        engine_args["hf_overrides"] = {"max_position_embeddings": ENGINE["max_model_len"]}
        to_start = starts(folder, options.rust, options.only or (), ENGINE, engine_args, options.code)
        servers = [stack.enter_context(start) for start in to_start]
        many = options.count, options.tokens
        for server in servers:
            both(server, 0, *many)
        for repeat in range(options.repeats):
            for server in servers[repeat % len(servers) :] + servers[: repeat % len(servers)]:
                found.setdefault(server.name, []).append(both(server, 1 + repeat, *many))
                print(server.name, {name: round(value, 3) for name, value in found[server.name][-1].items()})
    rows = [
        [name, *(_cell([run[key] * 1000 for run in runs]) for key in runs[0])] for name, runs in found.items()
    ]
    title = f"{options.count} prompts of {options.tokens} tokens beside {NUM_STREAMS} streams, ms"
    names = ("server", "gap p99 alone", "gap p99", "TTFT p50", "TTFT p99", "CPU a prompt")
    Console(width=130).print(report.table(title, names, rows))
    if options.json:
        write(
            options.json,
            {"machine": machine("longprompts"), "engine": ENGINE, "prompts": many, "runs": found},
        )


def both(server: Server, number: int, count: int, num_tokens: int) -> dict[str, float]:
    """Seconds. number: of the repeat, so that no prompt is in the engine's prefix cache."""
    alone = ended(begun(server, streams()))
    running = begun(server, streams())
    time.sleep(HEAD_START_S)
    before = cpu_seconds(server)
    arrived = ended(begun(server, prompts(number, count, num_tokens)))
    cpu_s = cpu_seconds(server) - before
    beside = ended(running)
    first = percentiles(arrived["first_s"])
    return {
        "gap_alone_s": alone["gap_s"]["p99"],
        "gap_s": beside["gap_s"]["p99"],
        "first_p50_s": first["p50"],
        "first_p99_s": first["p99"],
        "cpu_s": cpu_s / count,
    }


def streams() -> list[str]:
    fields = {"model": MODEL, "max_tokens": STREAM_TOKENS, "ignore_eos": True, "stream": True}
    return [json.dumps(fields | {"prompt": f"Story number {k}: once upon"}) for k in range(NUM_STREAMS)]


def prompts(number: int, count: int, num_tokens: int) -> list[str]:
    fields = {"model": MODEL, "max_tokens": 1, "ignore_eos": True, "stream": True}
    texts = []
    for k in range(count):
        base = number * count + k  # each prompt begins with words of its own
        head = "".join(WORDS[base >> shift & 7] for shift in (9, 6, 3, 0))
        texts.append(head + "".join(WORDS[j * (k + 3) % 8] for j in range(num_tokens - 4)))
    return [json.dumps(fields | {"prompt": text}) for text in texts]


def begun(server: Server, bodies: list[str]) -> subprocess.Popen[str]:
    """A load client that has its bodies."""
    client = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.load"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert client.stdin is not None
    client.stdin.write(json.dumps({"port": server.port, "path": "/v1/completions", "bodies": bodies}))
    client.stdin.close()
    client.stdin = None
    return client


def ended(client: subprocess.Popen[str]) -> dict[str, Any]:
    out, err = client.communicate()
    if client.returncode:
        raise RuntimeError(err[-500:])
    found: dict[str, Any] = json.loads(out)
    return found


def _cell(values: list[float]) -> str:
    return f"{median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
