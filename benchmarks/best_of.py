"""What it saves to stop hopeless best_of candidates early, and to pause the worse half until more is known:
generated tokens, and time to the reply.

    python -m benchmarks.best_of [--json FILE] [--prompts 200] [--max-tokens 128] [--best-of 4 8 16]
        [--at-once 32] [--dtype bfloat16]

Three engines with the built-in model, which differ in their section `best_of` alone, answer the same requests
in turn with the same seeds, as many at once as make --at-once candidates. "Same choice" counts the replies
with the same text as without giving up. In bfloat16 not all are the same: a smaller batch rounds differently,
which can change a token at a near tie.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks import report
from benchmarks.report import machine, write
from benchmarks.servers import verbatim

MODES: dict[str, dict[str, bool]] = {
    "off": {"give_up": False},
    "give_up": {"give_up": True},
    "pause": {"give_up": True, "pause": True},
}
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
    parser.add_argument("--prompts", type=int, default=200, help="of 200, at equal distances")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument("--best-of", type=int, nargs="+", default=[4, 8, 16])
    parser.add_argument("--at-once", type=int, default=32, help="candidates at the same time")
    parser.add_argument("--dtype", default="bfloat16")
    options = parser.parse_args()
    asked = [question.format(subject) for question in QUESTIONS for subject in SUBJECTS]
    asked = [asked[k * len(asked) // options.prompts] for k in range(options.prompts)]
    models = [
        {
            "id": mode,
            "builtin": "smollm2-135m-instruct",
            "kv_cache_gib": 0.5,
            "dtype": options.dtype,
            "best_of": settings,
        }
        for mode, settings in MODES.items()
    ]
    cells = []
    with (
        tempfile.TemporaryDirectory() as folder,
        verbatim(Path(folder), models) as server,
    ):
        for best_of in options.best_of:
            replies: dict[str, list[dict[str, Any]]] = {mode: [] for mode in MODES}
            fields = {"best_of": best_of, "max_tokens": options.max_tokens}
            num_requests = max(1, options.at_once // best_of)
            for turn, first in enumerate(track(range(0, len(asked), num_requests), f"best_of {best_of}")):
                some = list(enumerate(asked))[first : first + num_requests]
                for mode in [*MODES][turn % len(MODES) :] + [*MODES][: turn % len(MODES)]:
                    replies[mode] += ask_all(server.port, mode, some, fields)
            cells.append(summary(best_of, replies))
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


def summary(best_of: int, replies: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """replies: by mode, those to the same requests in the same order. tokens_share: of those of mode off."""
    off = replies["off"]
    tokens = {mode: sum(one["tokens"] for one in ones) for mode, ones in replies.items()}
    return {
        "best_of": best_of,
        "prompts": len(off),
        "tokens": tokens,
        "tokens_share": {mode: number / tokens["off"] for mode, number in tokens.items()},
        "mean_reply_s": {mode: mean(one["seconds"] for one in ones) for mode, ones in replies.items()},
        "median_reply_s": {mode: median(one["seconds"] for one in ones) for mode, ones in replies.items()},
        "same_choice": {
            mode: sum(one["text"] == other["text"] for one, other in zip(ones, off, strict=True))
            for mode, ones in replies.items()
        },
    }


def table(cells: list[dict[str, Any]]) -> Table:
    columns = ("best_of", "prompts", "mode", "tokens", "share", "mean reply, s", "median", "same choice")
    return report.table(
        "giving up early, and pausing",
        columns,
        (
            [
                str(cell["best_of"]),
                str(cell["prompts"]),
                mode,
                str(cell["tokens"][mode]),
                f"{cell['tokens_share'][mode]:.3f}",
                f"{cell['mean_reply_s'][mode]:.2f}",
                f"{cell['median_reply_s'][mode]:.2f}",
                str(cell["same_choice"][mode]),
            ]
            for cell in cells
            for mode in cell["tokens"]
        ),
    )


if __name__ == "__main__":
    main()
