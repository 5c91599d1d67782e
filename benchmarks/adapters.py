"""What LoRA adapters cost for each token.

    python -m benchmarks.adapters [--json FILE] [--streams 16] [--max-tokens 64] [--rounds 7]

One server runs two engines with the built-in model. The second has two adapters of random numbers, of rank 16
in every linear module. Requests run as many at once as there are streams, all of one kind: "none" asks the
engine without adapters; "room" asks the second engine's model itself; "one" asks one of its adapters; "mixed"
asks the model and both adapters. Each round runs all kinds in another order, so that other work of the
machine affects all of them. Ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.report import machine, write
from benchmarks.servers import verbatim
from server.weights.builtin import builtin_path
from server.weights.checkpoint import check_safetensors, weight_files

BUILTIN = "smollm2-135m-instruct"
RANK = 16
KINDS = {"none": ["none"], "room": ["room"], "one": ["first"], "mixed": ["room", "first", "second"]}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    rates: dict[str, list[float]] = {kind: [] for kind in KINDS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        adapters = [{"id": one, "path": str(make_adapter(folder / one))} for one in ("first", "second")]
        base = {"builtin": BUILTIN, "kv_cache_gib": 0.5}
        models = [base | {"id": "none"}, base | {"id": "room", "adapters": adapters}]
        with verbatim(folder, models) as server:
            for kind in KINDS:  # so that each is loaded and compiled before the measurement
                rate(server.port, kind, options.streams, 4)
            for number in track(range(options.rounds), "rounds"):
                order = [*KINDS]
                random.Random(number).shuffle(order)
                for kind in order:
                    rates[kind].append(rate(server.port, kind, options.streams, options.max_tokens))
    cells = [cell(kind, rates) for kind in KINDS]
    rows = [[one["kind"], f"{one['tokens_per_s']:.0f}", f"{one['time_per_token']:.2f}"] for one in cells]
    Console().print(report.table("adapters", ("requests", "tokens/s", "time of a token"), rows))
    if options.json:
        write(options.json, {"machine": machine("adapters"), "rank": RANK, "cells": cells})


def cell(kind: str, rates: dict[str, list[float]]) -> dict[str, Any]:
    """time_per_token: relative to the engine without adapters, in the same round."""
    ratios = [none / own for none, own in zip(rates["none"], rates[kind], strict=True)]
    return {
        "kind": kind,
        "tokens_per_s": round(median(rates[kind]), 1),
        "time_per_token": round(median(ratios), 3),
        "of_each_round": [round(ratio, 3) for ratio in ratios],
    }


def rate(port: int, kind: str, num_streams: int, max_tokens: int) -> float:
    """Tokens a second with this many requests at once."""
    names = KINDS[kind]

    def ask(number: int) -> int:
        connection = HTTPConnection("127.0.0.1", port, timeout=600)
        body = {
            "model": names[number % len(names)],
            "prompt": f"Story number {number}:",
            "max_tokens": max_tokens,
            "seed": number,
            "ignore_eos": True,
        }
        headers = {"content-type": "application/json", "authorization": "Bearer any"}
        connection.request("POST", "/v1/completions", json.dumps(body), headers)
        reply = json.loads(connection.getresponse().read())
        connection.close()
        if "usage" not in reply:
            raise RuntimeError(f"{body['model']}: {reply}")
        return int(reply["usage"]["completion_tokens"])

    began = time.monotonic()
    with ThreadPoolExecutor(num_streams) as pool:
        num_tokens = sum(pool.map(ask, range(num_streams)))
    return num_tokens / (time.monotonic() - began)


def make_adapter(path: Path) -> Path:
    """Write an adapter of random numbers, for every linear module of the built-in model's layers."""
    path.mkdir()
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": RANK}
    config["target_modules"] = "all-linear"
    (path / "adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": BUILTIN}))
    rng, header, parts, end = np.random.default_rng(0), {}, [], 0
    for file in weight_files(builtin_path(BUILTIN)):
        for name, entry in check_safetensors(file).items():
            if not name.endswith("_proj.weight"):
                continue
            (num_out, num_in), module = entry.shape, name.removesuffix(".weight")
            for letter, shape in (("A", (RANK, num_in)), ("B", (num_out, RANK))):
                data = (0.01 * rng.standard_normal(shape)).astype("<f4").tobytes()
                span = [end, end := end + len(data)]
                key = f"base_model.model.{module}.lora_{letter}.weight"
                header[key] = {"dtype": "F32", "shape": shape, "data_offsets": span}
                parts.append(data)
    text = json.dumps(header).encode()
    (path / "adapter_model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"".join(parts))
    return path


if __name__ == "__main__":
    main()
