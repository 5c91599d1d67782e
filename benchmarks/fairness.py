"""How long another key's short request waits while one key floods the server.

    python -m benchmarks.fairness [--json FILE] [--requests 1000] [--max-num-seqs 64] [--probes 20]

On the real engine with the built-in model, the key `flood` asks for many long completions at once, and the
key `other` for a short one now and then. TTFT is the time from sending the request to the first chunk. One
run measures the short request three times: on the idle server; beside the flood; and beside the flood with
the flood's own key, as if the queue did not distinguish keys. A step is the time between two tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console

from benchmarks import report
from benchmarks.report import machine, write
from benchmarks.servers import verbatim

MODEL = "smollm2-135m-instruct"
LONG = {"max_tokens": 400, "ignore_eos": True, "temperature": 0}
SHORT = {"max_tokens": 8, "ignore_eos": True, "temperature": 0, "stream": True}
ALL_S = 3600.0
OWN_KEY_S = 60.0  # seconds to wait for the flood's own short request


async def probe(client: httpx.AsyncClient, key: str, number: int) -> tuple[float, list[float]]:
    """A short request: its TTFT, and the seconds between its chunks."""
    body = {"model": MODEL, "prompt": f"Question {number}: what is the capital of France?", **SHORT}
    began, times = time.perf_counter(), list[float]()
    async with client.stream("POST", "/v1/completions", json=body, headers=bearer(key)) as reply:
        reply.raise_for_status()
        async for line in reply.aiter_lines():
            if line.startswith("data: {"):
                times.append(time.perf_counter())
    return times[0] - began, [later - earlier for earlier, later in pairwise(times)]


async def probes(client: httpx.AsyncClient, key: str, count: int) -> tuple[list[float], list[float]]:
    """(TTFTs, seconds between chunks)."""
    first, gaps = list[float](), list[float]()
    for number in range(count):
        ttft, steps = await probe(client, key, number)
        first.append(ttft)
        gaps += steps
        await asyncio.sleep(0.2)
    return first, gaps


async def flood(client: httpx.AsyncClient, number: int) -> None:
    body = {"model": MODEL, "prompt": f"Write a long story about the number {number}.", **LONG}
    await client.post("/v1/completions", json=body, headers=bearer("flood"))


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


async def measure(port: int, num_requests: int, num_probes: int) -> dict[str, Any]:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", limits=limits, timeout=ALL_S) as client:
        await probes(client, "other", 3)
        idle, _ = await probes(client, "other", num_probes)
        running = [asyncio.create_task(flood(client, number)) for number in range(num_requests)]
        try:
            await asyncio.sleep(10)
            other, gaps = await probes(client, "other", num_probes)
            began = time.perf_counter()
            try:
                own: float | None = (await asyncio.wait_for(probe(client, "flood", 0), OWN_KEY_S))[0]
            except TimeoutError:
                own = None
            waited = time.perf_counter() - began
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
    return {
        "idle_ttft_s": spread(idle),
        "other_key_ttft_s": spread(other),
        "step_s": spread(gaps),
        "bound_s": 2 * median(idle) + median(gaps),
        "own_key_ttft_s": own,
        "own_key_waited_s": waited,
    }


def spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    return {"p50": median(ordered), "p90": ordered[int(len(ordered) * 0.9)], "max": ordered[-1]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--max-num-seqs", type=int, default=64)
    parser.add_argument("--probes", type=int, default=20)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        keys = folder / "keys.txt"
        keys.write_text(
            "".join(f"{key} {hashlib.sha256(key.encode()).hexdigest()}\n" for key in ("flood", "other"))
        )
        model = {"id": MODEL, "builtin": MODEL, "max_model_len": 2048, "max_num_seqs": args.max_num_seqs}
        with verbatim(folder, [model], api_keys_file=str(keys), max_wait_s=0.0) as server:
            found = asyncio.run(measure(server.port, args.requests, args.probes))
    console = Console()
    rows = [
        (what, *(f"{found[name][part]:.3f}" for part in ("p50", "p90", "max")))
        for what, name in (("idle", "idle_ttft_s"), ("other key", "other_key_ttft_s"), ("a step", "step_s"))
    ]
    console.print(report.table("TTFT, and a step of the flooded engine, s", ("", "p50", "p90", "max"), rows))
    own = found["own_key_ttft_s"]
    console.print(f"bound, 2 × idle + a step: {found['bound_s']:.3f} s")
    console.print(
        f"with the flood's own key: {own:.1f} s"
        if own is not None
        else f"with its own: over {OWN_KEY_S:.0f} s"
    )
    if args.json:
        write(
            args.json,
            {
                "machine": machine("fairness"),
                "requests": args.requests,
                "max_num_seqs": args.max_num_seqs,
                **found,
            },
        )


if __name__ == "__main__":
    main()
