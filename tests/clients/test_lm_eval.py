"""lm-evaluation-harness itself, with its tokenizer and its requests, on a task of two documents."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.clients.conftest import MODEL
from tests.clients.findings import Findings
from tests.clients.matrix import LM_EVAL
from tests.clients.scenarios import PROMPT
from tests.engine.reference import Reference
from tests.engine.test_lm_eval import TOLERANCES
from tests.serving import CAPITAL, TINY
from twin.language.store import DATA

Document = tuple[str, list[str]]
DOCUMENTS: list[Document] = [
    (CAPITAL, [" Paris", " Berlin, which is a city"]),
    (PROMPT, [" a king who had three sons", " two"]),
]


def likelihoods(url: str, model: str, folder: Path, documents: list[Document]) -> list[list[list[float]]]:
    """Of each choice of each document: its log-probability, and whether it is greedy."""
    ask = {"base_url": f"{url}/v1", "key": "none", "model": model, "tokenizer": str(folder)}
    rows = [{"context": context, "choices": choices} for context, choices in documents]
    found: list[list[list[float]]] = LM_EVAL.run(ask | {"documents": rows})
    return found


@pytest.mark.engine
def test_loglikelihood_is_the_forward_passes(engine: str, tiny_path: Path, findings: Findings) -> None:
    """What the harness reads from our replies is what transformers computes from the weights."""
    tokenizer, reference = Tokenizer.from_file(str(tiny_path / "tokenizer.json")), Reference(tiny_path)
    furthest = 0.0
    for (context, choices), found in zip(
        DOCUMENTS, likelihoods(engine, TINY, tiny_path, DOCUMENTS), strict=True
    ):
        start = len(tokenizer.encode(context).ids)
        for choice, (value, _) in zip(choices, found, strict=True):
            ids = tokenizer.encode(context + choice).ids
            distance = abs(value - sum(reference.scores(ids)[start - 1 :]))
            assert distance < TOLERANCES[TINY] * (len(ids) - start) ** 0.5
            furthest = max(furthest, distance)
    findings.note(LM_EVAL, f"its log-likelihoods are within {furthest:.0e} of transformers' forward pass")


def test_greedy_choice_of_the_twin_is_recognized(twin: str, twin_text: str) -> None:
    """The text that the twin itself goes on with is greedy for the harness, another one is not."""
    (((_, is_greedy), (_, is_other_greedy)),) = likelihoods(
        twin, MODEL, DATA, [(PROMPT, [twin_text, " two kings"])]
    )
    assert (is_greedy, is_other_greedy) == (True, False)
