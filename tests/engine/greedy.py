"""The built-in model's greedy texts on the CPU, and how far another device has to give the same.

    python -m tests.engine.greedy        writes greedy.json beside this file; on the CPU build

Two devices add in another order, and bfloat16 keeps 8 bits: where the two likeliest tokens are closer than
that rounding, either may win, and from there on the texts are different ones. So each text has a point,
`equal_until`: the first position where the CPU's best token leads by less than LEAD, in log-probability.

LEAD: over these texts, transformers' pass in bfloat16 has leads that differ from the CPU engine's by 0.12
(standard deviation) and at most 0.5, and another winner only where the lead was 0.125 or less; its pass in
float32 by 0.10 and at most 0.37. (2 cores of a Xeon with AMX, vLLM 0.32.0, torch 2.13.0, 2026-11-25.)
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import machine
from server.text.tokenizer import load_tokenizer
from server.weights.builtin import builtin_path
from tests.serving import SMOL, SMOL_MODEL, VOCAB_SIZE, Client, serving

FILE = Path(__file__).with_name("greedy.json")
NUM_TOKENS = 48
LEAD = 0.5
PROMPTS = [
    "The capital of France is",
    "red, green, blue, red, green, blue, red, green, blue,",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "1, 2, 3, 4, 5, 6,",
    "The days of the week are Monday, Tuesday,",
    "January, February, March, April, May,",
    "The chemical symbol of gold is",
    "Once upon a time, in a small village,",
]


def greedy(client: Client, prompt: str) -> tuple[list[int], list[float]]:
    """The ids of a greedy text, and by how much each was likelier than the next one."""
    tokenizer = load_tokenizer(builtin_path(SMOL), VOCAB_SIZE)
    id_of = {name: token_id for token_id, name in enumerate(tokenizer.names)}
    asked = {"prompt": prompt, "temperature": 0, "max_tokens": NUM_TOKENS, "ignore_eos": True, "logprobs": 2}
    logprobs = client.choice(**asked)["logprobs"]
    leads = []
    for top in logprobs["top_logprobs"]:
        best, second = sorted(top.values(), reverse=True)[:2]
        leads.append(best - second)
    return [id_of[name] for name in logprobs["tokens"]], leads


def equal_until(leads: list[float]) -> int:
    """The first position that is too close to call; the number of positions where none is."""
    return next((place for place, lead in enumerate(leads) if lead < LEAD), len(leads))


def main() -> None:
    texts: list[dict[str, Any]] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(Path(folder), {"models": [SMOL_MODEL]}) as server,
    ):
        server.wait_ready()
        with Client(server.url(), "any") as client:
            for prompt in PROMPTS:
                ids, leads = greedy(client, prompt)
                text = {"prompt": prompt, "equal_until": equal_until(leads), "ids": ids}
                texts.append(text | {"leads": [round(lead, 3) for lead in leads]})
    made_by = machine("greedy") | {"command": "python -m tests.engine.greedy"}
    lines = ",\n  ".join(json.dumps(text) for text in texts)
    head = json.dumps({"model": SMOL, "dtype": "bfloat16", "lead": LEAD, "made_by": made_by})[:-1]
    FILE.write_text(f'{head},\n "texts": [\n  {lines}\n ]}}\n')


if __name__ == "__main__":
    main()
