"""What speculative decoding gains on repetitive texts, and what it costs on others.

    python -m benchmarks.speculative [--json FILE] [--rounds 5] [--dtype float32]

One server has the built-in model twice, with draft tokens and without; the two answer in turn. The loads: a
list to copy, whose tokens all stand in the prompt; code that goes on as it began; and a sampled text, which
is hard to guess. Speed is tokens a second over all streams. Each round gives the ratio of the two speeds; the
result is the median, with the smallest and the largest.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import httpx
from rich.console import Console
from rich.progress import track

from benchmarks.report import machine, table, write
from benchmarks.servers import Server, verbatim

PLAIN, DRAFTING = "plain", "drafting"
SPECULATION = {
    "method": "ngram",
    "num_speculative_tokens": 4,
    "prompt_lookup_min": 2,
    "prompt_lookup_max": 4,
}
NUM_TOKENS = 96
LINES = "".join(f"item {number}: {word}\n" for number, word in enumerate(["salt", "bread", "glass"] * 5))
CODE = "".join(
    f"def get_{name}(self):\n    return self.{name}\n\n" for name in ("name", "size", "path", "kind")
)
LOADS: dict[str, dict[str, Any]] = {
    "copy": {"prompt": f"{LINES}\nThe same list again:\n{LINES[:15]}", "temperature": 0},
    "code": {"prompt": CODE, "temperature": 0},
    "drawn": {"prompt": "Once upon a time there was", "temperature": 1, "seed": 7},
}
STREAMS = (1, 4, 16)
TIMEOUT_S = 600
ANY_KEY = {"authorization": "Bearer any"}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--dtype", default="float32", help="of the model; with bfloat16, draft tokens change the rounding"
    )
    options = parser.parse_args()
    common = {
        "builtin": "smollm2-135m-instruct",
        "dtype": options.dtype,
        "max_model_len": 1024,
        "kv_cache_gib": 0.5,
    }
    models = [
        {"id": PLAIN, **common},
        {"id": DRAFTING, **common, "engine_args": {"speculative_config": SPECULATION}},
    ]
    with tempfile.TemporaryDirectory() as folder, verbatim(Path(folder), models) as server:
        cells = [(load, streams) for load in LOADS for streams in STREAMS]
        rows = [measure(server, *cell, options.rounds) for cell in track(cells, "loads")]
    columns = ("load", "streams", "tokens/s without", "with", "with / without", "accepted", "same texts")
    Console().print(table("Speculative decoding", columns, map(shown, rows)))
    if options.json:
        write(
            options.json,
            {"machine": machine("speculative"), "speculative_config": SPECULATION, "rows": rows},
        )


def measure(server: Server, load: str, streams: int, rounds: int) -> dict[str, Any]:
    for model in (PLAIN, DRAFTING):  # from here on, the prompts are in the cache
        ask(server, model, load, streams)
    before = drafts(server)
    samples, same = [], 0
    for _ in range(rounds):
        texts, speeds = {}, {}
        for model in (PLAIN, DRAFTING):
            began = time.monotonic()
            replies = ask(server, model, load, streams)
            num_tokens = sum(reply["usage"]["completion_tokens"] for reply in replies)
            speeds[model] = num_tokens / (time.monotonic() - began)
            texts[model] = [reply["choices"][0]["text"] for reply in replies]
        samples.append(speeds)
        same += sum(a == b for a, b in zip(texts[PLAIN], texts[DRAFTING], strict=True))
    drafted, accepted = (after - then for after, then in zip(drafts(server), before, strict=True))
    ratios = [speeds[DRAFTING] / speeds[PLAIN] for speeds in samples]
    return {
        "load": load,
        "streams": streams,
        **{model: median(speeds[model] for speeds in samples) for model in (PLAIN, DRAFTING)},
        "ratio": {"median": median(ratios), "low": min(ratios), "high": max(ratios)},
        "drafted": drafted,
        "accepted": accepted,
        "texts": rounds * streams,
        "same_texts": same,
    }


def ask(server: Server, model: str, load: str, streams: int) -> list[dict[str, Any]]:
    """The replies to this many requests at once."""
    body = {"model": model, "max_tokens": NUM_TOKENS, "ignore_eos": True, **LOADS[load]}
    with (
        httpx.Client(
            base_url=f"http://127.0.0.1:{server.port}", headers=ANY_KEY, timeout=TIMEOUT_S
        ) as client,
        ThreadPoolExecutor(streams) as pool,
    ):
        bodies = [body | {"seed": number} for number in range(streams)]
        responses = pool.map(lambda one: client.post("/v1/completions", json=one), bodies)
        return [response.raise_for_status().json() for response in responses]


def drafts(server: Server) -> tuple[float, float]:
    """(draft tokens, accepted draft tokens) so far."""
    text = httpx.get(f"http://127.0.0.1:{server.port}/metrics", timeout=TIMEOUT_S).text
    pattern = rf'^vllm:spec_decode_num_%s_tokens_total\{{.*model_name="{DRAFTING}"\}} (\S+)$'
    drafted, accepted = (re.search(pattern % name, text, re.MULTILINE) for name in ("draft", "accepted"))
    return (float(drafted[1]), float(accepted[1])) if drafted and accepted else (0.0, 0.0)


def shown(row: dict[str, Any]) -> list[str]:
    ratio, share = row["ratio"], row["accepted"] / row["drafted"] if row["drafted"] else 0.0
    return [
        row["load"],
        str(row["streams"]),
        f"{row[PLAIN]:.0f}",
        f"{row[DRAFTING]:.0f}",
        f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})",
        f"{share:.0%}",
        f"{row['same_texts']} of {row['texts']}",
    ]


if __name__ == "__main__":
    main()
