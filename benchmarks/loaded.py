"""What our sampling costs an engine, and what its search for NaN costs, in one run.

    python -m benchmarks.loaded [--json FILE] [--rounds 20]

Three engines with the built-in model, which differ in nothing else, draw 32 × 64 tokens in turn, with seeds.
Each round gives the ratio to the engine without our sampling; the result is the median of the ratios and its
95 % interval. CPU time is that of the engine's process, so that other work of the machine hardly matters.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from rich.console import Console
from rich.progress import track

from benchmarks.report import machine, write
from server.weights.builtin import builtin_path

NUM_REQUESTS, NUM_TOKENS = 32, 64
BARE, LOADED, WATCHED = KINDS = ("bare", "loaded", "loaded, NaN looked for")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--work", choices=KINDS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    engines = {kind: start(kind) for kind in KINDS}
    try:
        for engine in engines.values():
            step(engine)  # ready and warm
        rounds = [measure(engines, number) for number in track(range(options.rounds), "rounds")]
    finally:
        for engine in engines.values():
            engine.stdin.close()
            engine.wait()
    results = {
        f"{kind} / {BARE}, {name}": ratio(rounds, kind, name)
        for kind in (LOADED, WATCHED)
        for name in ("seconds", "cpu_seconds")
    }
    for name, found in results.items():
        Console().print(f"{name}: {found['median']:.4f} ({found['low']:.4f} to {found['high']:.4f})")
    if options.json:
        write(options.json, {"machine": machine("loaded"), "ratios": results, "rounds": rounds})


def work(kind: str) -> None:
    """An engine that generates once for each line of standard input."""
    os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] = str(int(kind == WATCHED))
    from vllm import LLM, SamplingParams

    processors = ["sampling.runner_v1:SamplingProcessor"] if kind != BARE else None
    llm = LLM(
        str(builtin_path("smollm2-135m-instruct")),
        skip_tokenizer_init=True,
        enforce_eager=True,
        max_model_len=256,
        kv_cache_memory_bytes=2**29,
        logits_processors=processors,
    )
    prompts: list[Any] = [{"prompt_token_ids": [504, 3575, 282, 1000 + k]} for k in range(NUM_REQUESTS)]
    how: dict[str, Any] = {"temperature": 0, "extra_args": {"seed": 1}} if processors else {"seed": 1}
    params = SamplingParams(max_tokens=NUM_TOKENS, ignore_eos=True, detokenize=False, **how)
    for _ in sys.stdin:
        llm.generate(prompts, params, use_tqdm=False)
        sys.stdout.write("done\n")
        sys.stdout.flush()


def start(kind: str) -> Any:
    command = [sys.executable, "-m", "benchmarks.loaded", "--work", kind]
    return psutil.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def step(engine: Any) -> None:
    engine.stdin.write("go\n")
    engine.stdin.flush()
    while (line := engine.stdout.readline()) != "done\n":  # vLLM logs to standard output
        if not line:
            raise RuntimeError("an engine ended by itself")


def measure(engines: dict[str, Any], number: int) -> dict[str, dict[str, float]]:
    found = {}
    for kind in KINDS[number % 3 :] + KINDS[: number % 3]:
        cpu, began = cpu_seconds(engines[kind]), time.perf_counter()
        step(engines[kind])
        found[kind] = {
            "seconds": time.perf_counter() - began,
            "cpu_seconds": cpu_seconds(engines[kind]) - cpu,
        }
    return found


def cpu_seconds(engine: Any) -> float:
    times = [process.cpu_times() for process in (engine, *engine.children(recursive=True))]
    return float(sum(t.user + t.system for t in times))


def ratio(rounds: list[dict[str, dict[str, float]]], kind: str, name: str) -> dict[str, float]:
    """The median ratio to the engine without our sampling, and its 95 % interval by bootstrap."""
    ratios = np.array([one[kind][name] / one[BARE][name] for one in rounds])
    draws = np.random.default_rng(0).choice(ratios, (5000, len(ratios)))
    low, high = np.percentile(np.median(draws, axis=1), (2.5, 97.5))
    return {"median": float(np.median(ratios)), "low": float(low), "high": float(high)}


if __name__ == "__main__":
    main()
