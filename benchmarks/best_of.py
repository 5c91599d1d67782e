"""What it saves to stop hopeless best_of candidates early: generated tokens, and time to the reply.

    python -m benchmarks.best_of [--json FILE] [--prompts 200] [--max-tokens 128]

Two engines with the built-in model, which differ in `best_of.give_up` alone, answer the same requests in turn
with the same seeds, as many at once as make 32 candidates. "Same choice" counts the replies with the same
text. Not all are the same: in bfloat16 a smaller batch rounds differently, which can change a token at
a near tie.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import report
from benchmarks.report import machine, write
from benchmarks.servers import verbatim

BEST_OF = (4, 8, 16)
AT_ONCE = 32  # candidates that run at the same time, of as many requests as that takes
SUBJECTS = (
    *("rain", "bread", "gravity", "the moon", "a violin", "salt", "a volcano", "chess", "glass", "a magnet"),
    *(
        "honey",
        "the heart",
        "a bicycle",
        "paper",
        "a glacier",
        "sleep",
        "steel",
        "a rainbow",
        "tea",
        "the sea",
    ),
)
QUESTIONS = (
    "What is {}?",
    "Why does {} matter?",
    "Explain {} to a child in two sentences.",
    "Give one fact about {}.",
    "Where would I find {}?",
    "Write a short slogan about {}.",
    "Who first studied {}?",
    "Describe {} in ten words.",
    "What is the opposite of {}?",
    "Name three things related to {}.",
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="where to write the results")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--max-tokens", type=int, default=128)
    options = parser.parse_args()
    asked = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS][: options.prompts]
    models = [
        {
            "id": name,
            "builtin": "smollm2-135m-instruct",
            "kv_cache_gib": 0.5,
            "best_of": {"give_up": name == "on"},
        }
        for name in ("on", "off")
    ]
    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        verbatim(Path(folder), models) as server,
    ):
        for best_of in BEST_OF:
            numbers = range(0, len(asked), AT_ONCE // best_of)
            for first in track(numbers, f"best_of {best_of}"):
                some = list(enumerate(asked))[first : first + AT_ONCE // best_of]
                fields = {"best_of": best_of, "max_tokens": options.max_tokens}
                order = ("on", "off") if first // numbers.step % 2 else ("off", "on")
                replies = {model: ask_all(server.port, model, some, fields) for model in order}
                rows += [
                    {"best_of": best_of, "on": on, "off": off}
                    for on, off in zip(replies["on"], replies["off"], strict=True)
                ]
    cells = [summary(best_of, [row for row in rows if row["best_of"] == best_of]) for best_of in BEST_OF]
    Console().print(table(cells))
    if options.json:
        write(options.json, {"machine": machine("best_of"), "cells": cells})


def ask_all(
    port: int, model: str, questions: list[tuple[int, str]], fields: dict[str, Any]
) -> list[dict[str, Any]]:
    """Ask several requests at once."""
    with ThreadPoolExecutor(len(questions)) as pool:
        pending = [pool.submit(ask, port, model, text, fields | {"seed": k}) for k, text in questions]
        return [reply.result() for reply in pending]


def ask(port: int, model: str, question: str, fields: dict[str, Any]) -> dict[str, Any]:
    """Tokens generated, seconds, and the text of one request."""
    prompt = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n"
    connection, start = HTTPConnection("127.0.0.1", port), time.perf_counter()
    body = json.dumps({"model": model, "prompt": prompt, **fields})
    connection.request("POST", "/v1/completions", body, {"authorization": "Bearer any"})
    reply = json.loads(connection.getresponse().read())
    seconds = time.perf_counter() - start
    connection.close()
    return {
        "tokens": reply["usage"]["completion_tokens"],
        "seconds": seconds,
        "text": reply["choices"][0]["text"],
    }


def summary(best_of: int, rows: list[dict[str, Any]]) -> dict[str, Any]:
    tokens = {model: sum(row[model]["tokens"] for row in rows) for model in ("on", "off")}
    seconds = {model: sum(row[model]["seconds"] for row in rows) / len(rows) for model in ("on", "off")}
    return {
        "best_of": best_of,
        "prompts": len(rows),
        "tokens": tokens,
        "tokens_saved": 1 - tokens["on"] / tokens["off"],
        "mean_reply_s": seconds,
        "time_saved": 1 - seconds["on"] / seconds["off"],
        "median_reply_s": {m: median(row[m]["seconds"] for row in rows) for m in ("on", "off")},
        "same_choice": sum(row["on"]["text"] == row["off"]["text"] for row in rows),
    }


def table(cells: list[dict[str, Any]]) -> Table:
    columns = (
        "best_of",
        "prompts",
        "tokens off",
        "tokens on",
        "saved",
        "s off",
        "s on",
        "saved",
        "same choice",
    )
    return report.table(
        "giving up early: on against off",
        columns,
        (
            [
                str(cell["best_of"]),
                str(cell["prompts"]),
                *(str(cell["tokens"][mode]) for mode in ("off", "on")),
                f"{cell['tokens_saved']:.1%}",
                *(f"{cell['mean_reply_s'][mode]:.2f}" for mode in ("off", "on")),
                f"{cell['time_saved']:.1%}",
                str(cell["same_choice"]),
            ]
            for cell in cells
        ),
    )


if __name__ == "__main__":
    main()
