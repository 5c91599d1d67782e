"""How long the first token takes of a model that is loaded on demand.

    python -m benchmarks.swap [--json FILE] [--rounds 5]

One server has a memory group with room for one model. For the built-in model and a tiny one, it measures the
time to the first token when the model is loaded from disk ("cold": its files were dropped from the page
cache), when its files are in the page cache ("warm"), when another model has to be unloaded first ("swap"),
and when the model is loaded already ("loaded"). Each round measures all of them, one after another.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track

from benchmarks import report
from benchmarks.report import machine, write
from benchmarks.servers import verbatim
from server.access.keys import digest
from server.weights.builtin import builtin_path
from tests.tiny_llama import make_tiny_llama

BUILTIN = "smollm2-135m-instruct"
KEY = "a-key-of-the-benchmark"
HEADERS = {"content-type": "application/json", "authorization": f"Bearer {KEY}"}
SIZE_GIB = 2.0  # stated size of each model, and of the group
POLL_S = 0.02
GONE_S = 60


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = {
            "smollm2-135m": builtin_path(BUILTIN),
            "tiny": make_tiny_llama(folder / "tiny", builtin_path(BUILTIN)),
        }
        with serving(folder, paths) as port:
            cells = [one for model in paths for one in cells_of(port, model, paths, options.rounds)]
    rows = [
        [one["model"], one["kind"], f"{one['seconds']:.2f}", f"{min(one['of_each_round']):.2f}"]
        for one in cells
    ]
    Console().print(report.table("first token, s", ("model", "kind", "median", "least"), rows))
    if options.json:
        write(options.json, {"machine": machine("swap"), "cells": cells})


@contextmanager
def serving(folder: Path, paths: dict[str, Path]) -> Iterator[int]:
    (folder / "keys").write_text(f"bench {digest(KEY)} roles=infer,admin\n")
    models = [
        {"id": model, "path": str(path), "load": "on_demand", "size_gib": SIZE_GIB, "kv_cache_gib": 0.25}
        for model, path in paths.items()
    ]
    group = {"models": [*paths], "memory_gib": SIZE_GIB, "min_loaded_s": 0}
    more: dict[str, Any] = {"groups": {"one": group}, "api_keys_file": str(folder / "keys")}
    with verbatim(folder, models, **more) as server:
        yield server.port


def cells_of(port: int, model: str, paths: dict[str, Path], num_rounds: int) -> list[dict[str, Any]]:
    """A cell of one model for each kind of load."""
    (other,) = paths.keys() - {model}

    def cold() -> None:
        put(port, model, "unloaded")
        put(port, other, "unloaded")
        forget(paths[model])

    def warm() -> None:
        put(port, model, "unloaded")
        put(port, other, "unloaded")

    kinds: dict[str, Callable[[], object]] = {
        "cold": cold,
        "warm": warm,
        "swap": lambda: first_token_s(port, other),
        "loaded": lambda: first_token_s(port, model),
    }
    seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in track(range(num_rounds), model):
        for kind, before in kinds.items():
            before()
            seconds[kind].append(round(first_token_s(port, model), 3))
    return [
        {"model": model, "kind": kind, "seconds": median(found), "of_each_round": found}
        for kind, found in seconds.items()
    ]


def first_token_s(port: int, model: str) -> float:
    began = time.monotonic()
    reply = ask(port, "POST", "/v1/completions", {"model": model, "prompt": "Hello", "max_tokens": 1})
    if "usage" not in reply:
        raise RuntimeError(f"{model}: {reply}")
    return time.monotonic() - began


def put(port: int, model: str, state: str) -> None:
    """Set the state, and wait until it is reached."""
    ends = time.monotonic() + GONE_S
    ask(port, "PUT", f"/v1/models/{model}/state", {"state": state})
    while ask(port, "GET", "/ready")["models"][model]["state"] != state:
        if time.monotonic() > ends:
            raise RuntimeError(f"{model} is not {state} within {GONE_S} s")
        time.sleep(POLL_S)


def ask(port: int, method: str, path: str, body: Any = None) -> dict[str, Any]:
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request(method, path, None if body is None else json.dumps(body), HEADERS)
    reply: dict[str, Any] = json.loads(connection.getresponse().read())
    connection.close()
    return reply


def forget(directory: Path) -> None:
    """Make the kernel drop the files from its page cache."""
    for file in directory.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


if __name__ == "__main__":
    main()
