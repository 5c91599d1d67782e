"""guidellm itself, a benchmark that asks for streams of exactly so many tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.clients.conftest import MODEL
from tests.clients.findings import Findings
from tests.clients.matrix import GUIDELLM
from tests.clients.scenarios import NUM_TOKENS
from tests.serving import TINY
from twin.language.store import DATA

NUM_REQUESTS = 8


def check(url: str, model: str, folder: Path) -> None:
    """Every request went well and has its tokens, by guidellm's own account."""
    ask = {"base_url": f"{url}/v1", "key": "none", "model": model, "tokenizer": str(folder)}
    told = GUIDELLM.run(ask | {"num_requests": NUM_REQUESTS, "max_tokens": NUM_TOKENS})
    assert told == {"successful": NUM_REQUESTS, "failed": 0, "tokens": [NUM_TOKENS] * NUM_REQUESTS}


def test_benchmark_of_the_twin(twin: str) -> None:
    """The twin gives a benchmark what it asks for."""
    check(twin, MODEL, DATA)


@pytest.mark.engine
def test_benchmark_of_the_engine(engine: str, tiny_path: Path, findings: Findings) -> None:
    """So does the engine."""
    check(engine, TINY, tiny_path)
    findings.note(
        GUIDELLM, f"{NUM_REQUESTS} streams of exactly {NUM_TOKENS} tokens, two at a time, none failed"
    )
