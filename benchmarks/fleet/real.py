"""The router with two real engines: conversations with a server of `replicas: 2`, on this machine's CPU."""

from __future__ import annotations

import asyncio
import json
import re
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import httpx
import yaml
from rich.console import Console

from benchmarks.servers import free_port, running

NUM_REPLICAS, NUM_CLIENTS, NUM_TURNS, NUM_TOKENS = 2, 8, 5, 8
THINKS_S = 3.0  # seconds, on average
NAME, BLOCK = "smollm2-135m-instruct", 32  # the smallest block that vLLM's attention on a CPU supports
MODEL: dict[str, Any] = {
    "id": NAME,
    "builtin": NAME,
    "max_model_len": 2048,
    "kv_cache_gib": 0.5,
    "replicas": NUM_REPLICAS,
    "engine_args": {"block_size": BLOCK},
}
ALL_S = 600.0
METRIC = re.compile(r'vllm:prefix_cache_(hits|queries)_total\{engine="(\d+)".*\} (\S+)')
KEY = {"authorization": "Bearer any"}
Prompts = list[list[int]]


def conversations(seed: int) -> list[Prompts]:
    """The prompts of each conversation: half of them share instructions, and each turn adds 150 tokens."""
    rng = Random(seed)
    instructions = [[rng.randrange(1000, 40_000) for _ in range(300)] for _ in range(2)]
    found = []
    for number in range(NUM_CLIENTS):
        text, prompts = [*instructions[number % 2]], Prompts()
        for _ in range(NUM_TURNS):
            text = [*text, *(rng.randrange(1000, 40_000) for _ in range(150))]
            prompts.append(text)
        found.append(prompts)
    return found


async def talk(client: httpx.AsyncClient, prompts: Prompts, rng: Random) -> list[float]:
    """The TTFT of each turn, seconds."""
    found = list[float]()
    for prompt in prompts:
        await asyncio.sleep(rng.expovariate(1 / THINKS_S))
        body = {"model": NAME, "prompt": prompt, "max_tokens": NUM_TOKENS, "ignore_eos": True, "stream": True}
        began = time.perf_counter()
        async with client.stream("POST", "/v1/completions", json=body) as reply:
            reply.raise_for_status()
            first = True
            async for line in reply.aiter_lines():
                if first and line.startswith("data: {"):
                    found.append(time.perf_counter() - began)
                    first = False
    return found


async def all_of_them(port: int, seed: int) -> tuple[list[float], dict[str, dict[str, int]]]:
    """TTFTs, and the engines' counts meanwhile: prompt tokens in their caches, and all prompt tokens."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=ALL_S, headers=KEY) as client:
        before = await counted(client)  # without the warm-up
        talks = (
            talk(client, prompts, Random(f"{seed} {number}"))
            for number, prompts in enumerate(conversations(seed))
        )
        found = [ttft for ttfts in await asyncio.gather(*talks) for ttft in ttfts]
        after = await counted(client)
    return found, {
        engine: {what: after[engine][what] - before[engine][what] for what in ("hits", "queries")}
        for engine in after
    }


async def counted(client: httpx.AsyncClient) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for what, engine, value in METRIC.findall((await client.get("/metrics")).text):
        found.setdefault(engine, {})[what] = round(float(value))
    return found


def one_policy(folder: Path, policy: str, seed: int) -> dict[str, Any]:
    port, file, foretold = free_port(), folder / "models.yaml", folder / f"foretold {policy}"
    file.write_text(yaml.safe_dump({"port": port, "models": [MODEL]}))
    command = [sys.executable, "-m", "benchmarks.fleet.served", "serve", "--config", str(file)]
    environ = {"BENCHMARK_POLICY": policy, "BENCHMARK_FORETOLD": str(foretold)}
    with running(policy, command, port, "/ready", folder, environ):
        while not _all_ready(port):
            time.sleep(0.5)
        ttft, engines = asyncio.run(all_of_them(port, seed))
    hits, queries = (sum(one[what] for one in engines.values()) for what in ("hits", "queries"))
    told = json.loads(foretold.read_text()) if foretold.exists() else None
    ordered = sorted(ttft)
    return {
        "policy": policy,
        "seed": seed,
        "requests": len(ttft),
        "hit_rate": round(hits / queries, 4),
        "foretold_hit_rate": round(told["held"] / told["asked"], 4) if told else None,
        "engines": engines,
        "ttft_s": {"p50": round(median(ordered), 3), "p90": round(ordered[int(len(ordered) * 0.9)], 3)},
    }


def _all_ready(port: int) -> bool:
    (model,) = httpx.get(f"http://127.0.0.1:{port}/ready").json()["models"].values()
    return all(one["phase"] == "ready" for one in model["replicas"].values())


def best_hit_rate(seed: int) -> float:
    """The hit rate of a single cache that holds everything."""
    held, hits, asked = set[tuple[int, ...]](), 0, 0
    for number in range(NUM_TURNS):
        for prompts in conversations(seed):
            prompt = prompts[number]
            blocks = [tuple(prompt[: end * BLOCK]) for end in range(1, (len(prompt) - 1) // BLOCK + 1)]
            hits += BLOCK * sum(block in held for block in blocks)
            asked += len(prompt)
            held.update(blocks)
    return hits / asked


def measure(console: Console, num_seeds: int = 2) -> dict[str, Any]:
    """Measure each policy in turn, on new engines."""
    rows = []
    for seed in range(num_seeds):
        for policy in ("prefixes", "round robin"):
            with tempfile.TemporaryDirectory() as name:
                rows.append(one_policy(Path(name), policy, seed))
            rows[-1]["best_hit_rate"] = round(best_hit_rate(seed), 4)
            console.print(rows[-1])
    return {"block_tokens": BLOCK, "rows": rows}
