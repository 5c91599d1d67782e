"""How to spread jobs over eight replicas: our router against round robin and least loaded.

    python -m benchmarks.router [--json FILE] [--short] [--processes 2]
    python -m benchmarks.router --real [--json FILE]

The server's own classes Work, Turns, Router and Prefixes send jobs to simulated engines, in virtual time
(fleet/engine.py: a simple model of vLLM's scheduler and prefix cache; steps take as long as those of Llama 3
8B on an A100). Conversations start one by one at random (poisson) or forty at once (bursts). The best
possible hit rate is that of a single engine that is eight times as fast and has the memory of all replicas:
it caches nothing twice. --real: two real engines with the built-in model on this CPU, against
round robin (fleet/real.py).
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace
from multiprocessing import Pool
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import report
from benchmarks.fleet import workloads
from benchmarks.fleet.engine import Shape
from benchmarks.fleet.policies import LeastLoaded, RoundRobin
from benchmarks.fleet.real import measure
from benchmarks.fleet.run import Found, simulate
from benchmarks.report import machine, write
from server.engine.router import Router

NUM_REPLICAS = 8
POLICIES: dict[str, Callable[[Callable[[], float]], Router]] = {
    "prefixes": Router,
    "round robin": RoundRobin,
    "least loaded": LeastLoaded,
    "best possible": Router,
}
# Conversations a second. The last value of each is about as much as eight engines can handle if
# prefixes are used.
RATES = {"chat": (10, 20, 30, 40), "few_shot": (40, 80, 120, 160, 200), "unshared": (20, 40, 60, 75)}
BURSTS = {"chat": 20, "few_shot": 60, "unshared": 30}


@dataclass(frozen=True)
class Cell:
    """One run. senders: front ends that send to the same engines. seconds, warm: virtual."""

    workload: str
    arrivals: str
    rate: float
    policy: str = "prefixes"
    senders: int = 1
    seed: int = 0
    seconds: float = 80.0
    warm_s: float = 30.0


def cells(*, is_short: bool) -> list[Cell]:
    if is_short:
        loads = [Cell(name, "poisson", rates[1], seconds=40, warm_s=20) for name, rates in RATES.items()]
        return [replace(load, policy=policy) for load, policy in itertools.product(loads, POLICIES)]
    loads = [
        *(Cell(name, "poisson", rate) for name, rates in RATES.items() for rate in rates),
        *(Cell(name, "bursts", rate) for name, rate in BURSTS.items()),
    ]
    several = [Cell(name, "poisson", RATES[name][2], senders=4) for name in ("chat", "few_shot")]
    alone = itertools.product(loads, POLICIES)
    all_cells = [*(replace(load, policy=policy) for load, policy in alone), *several]
    return [replace(cell, seed=seed) for cell in all_cells for seed in range(3)]


def measured(cell: Cell) -> Found:
    shape, num = Shape(), NUM_REPLICAS
    shapes = [shape] * num
    if cell.policy == "best possible":
        shapes = [Shape(shape.num_blocks * num, shape.max_num_seqs * num, speed=num)]
    return simulate(
        POLICIES[cell.policy],
        shapes,
        getattr(workloads, cell.workload),
        getattr(workloads, cell.arrivals),
        cell.rate,
        seconds=cell.seconds,
        warm_s=cell.warm_s,
        seed=cell.seed,
        num_senders=cell.senders,
    )


def row(cell: Cell, found: list[Found]) -> dict[str, Any]:
    """The median of each figure over the runs with different seeds, and its smallest and largest value."""
    figures = {
        "hit_rate": [one.hit_rate for one in found],
        "ttft_p50_s": [share(one.ttft_s, 0.5) for one in found],
        "ttft_p99_s": [share(one.ttft_s, 0.99) for one in found],
        "token_p50_s": [share(one.token_s, 0.5) for one in found],
    }
    return {
        "workload": cell.workload,
        "arrivals": cell.arrivals,
        "rate": cell.rate,
        "policy": cell.policy,
        "front_ends": cell.senders,
        "jobs": sum(len(one.ttft_s) for one in found),
        "seeds": len(found),
        **{name: round(median(values), 4) for name, values in figures.items()},
        "spread": {name: [round(min(values), 4), round(max(values), 4)] for name, values in figures.items()},
    }


def share(values: list[float], part: float) -> float:
    return sorted(values)[min(int(len(values) * part), len(values) - 1)]


def verdict(rows: list[dict[str, Any]]) -> list[str]:
    """Where the goal is missed. With shared prefixes: a hit rate within 5 % of the best possible, and a p99
    TTFT below both others'. Without: a p99 TTFT no higher than the least loaded's. For one front end."""
    loads: dict[tuple[str, str, float], dict[str, dict[str, Any]]] = {}
    for one in rows:
        if one["front_ends"] == 1:
            loads.setdefault((one["workload"], one["arrivals"], one["rate"]), {})[one["policy"]] = one
    missed = list[str]()
    for (workload, arrivals, rate), by_policy in loads.items():
        name = f"{workload}, {arrivals}, {rate:g} a second"
        ours, best = by_policy["prefixes"], by_policy["best possible"]
        others = [by_policy["least loaded"]]
        if workload != "unshared":
            others.append(by_policy["round robin"])
            if ours["hit_rate"] < 0.95 * best["hit_rate"]:
                missed.append(f"{name}: hit rate {ours['hit_rate']} of {best['hit_rate']}")
        missed += [
            f"{name}: p99 TTFT {ours['ttft_p99_s']} s, {other['policy']} {other['ttft_p99_s']}"
            for other in others
            if ours["ttft_p99_s"] > other["ttft_p99_s"]
        ]
    return missed


def table(rows: list[dict[str, Any]]) -> Table:
    return report.table(
        "prompts found in caches; TTFT, and between two tokens",
        ("load", "rate", "front ends", "policy", "hits, %", "TTFT p50, ms", "p99, ms", "token, ms"),
        (
            [
                one["workload"] if one["arrivals"] == "poisson" else f"{one['workload']}, bursts",
                f"{one['rate']:g}",
                str(one["front_ends"]),
                one["policy"],
                f"{100 * one['hit_rate']:.1f}",
                *(f"{1e3 * one[name]:.0f}" for name in ("ttft_p50_s", "ttft_p99_s", "token_p50_s")),
            ]
            for one in rows
        ),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--short", action="store_true", help="only one load of each workload, with one seed")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--real", action="store_true", help="measure two real engines on this CPU")
    options = parser.parse_args()
    console = Console()
    if options.real:
        results = measure(console)
        if options.json:
            write(options.json, {"machine": machine("router"), **results})
        return
    todo = cells(is_short=options.short)
    found: dict[Cell, list[Found]] = {}
    with Pool(options.processes) as pool:
        for cell, one in zip(todo, pool.imap(measured, todo), strict=True):
            found.setdefault(replace(cell, seed=0), []).append(one)
            console.print(f"{cell}: hits {100 * one.hit_rate:.1f} %, p99 {share(one.ttft_s, 0.99):.3f} s")
    rows = [row(cell, several) for cell, several in found.items()]
    console.print(table(rows))
    missed = verdict(rows)
    console.print("\n".join(missed) or "the goal is reached at every load")
    if options.json:
        write(options.json, {"machine": machine("router"), "simulated": True, "rows": rows, "missed": missed})


if __name__ == "__main__":
    main()
