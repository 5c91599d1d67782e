"""Values of named tokens in the places of the most likely ones, on a stand-in of vLLM's sampler."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

torch = pytest.importorskip("torch", reason="the sampler's torch is part of the engine's packages")
pytestmark = pytest.mark.engine

LOGPROBS = [[-1.0, -2.0, -3.0, -4.0], [-4.0, -3.0, -2.0, -1.0]]


class Found(NamedTuple):
    logprob_token_ids: Any
    logprobs: Any


def gather(logprobs: Any, num_logprobs: int, token_ids: Any) -> Found:
    """As vLLM's: the sampled token, then the most likely ones."""
    values, ids = torch.topk(logprobs, num_logprobs, dim=-1)
    sampled = token_ids.unsqueeze(-1)
    return Found(torch.cat((sampled, ids), 1).int(), torch.cat((logprobs.gather(1, sampled), values), 1))


@pytest.fixture
def sampler() -> Any:
    return type("Sampler", (), {"gather_logprobs": staticmethod(gather)})


def gathered(sampler: Any) -> tuple[list[list[int]], list[list[float]]]:
    found = sampler().gather_logprobs(torch.tensor(LOGPROBS), 2, token_ids=torch.tensor([1, 1]))
    return found.logprob_token_ids.tolist(), found.logprobs.tolist()


def test_rows_get_what_they_name(sampler: Any) -> None:
    """The row that names tokens, wherever it has moved to; the sampled token stays first, others as ever."""
    from sampling.asked_logprobs import AskedLogprobs

    plain = gathered(sampler)
    asked = AskedLogprobs()
    asked.attach(sampler)
    asked.put(0, [3, 2])
    asked.move(0, 1, swap=True)
    asked.expect()
    ids, values = gathered(sampler)
    assert (ids[0], values[0]) == (plain[0][0], plain[1][0])
    assert (ids[1], values[1]) == ([1, 3, 2], [-3.0, -1.0, -2.0])


def test_prompts_are_left_alone(sampler: Any) -> None:
    """What is gathered besides, of prompts, is vLLM's; and so is all where no row names any."""
    from sampling.asked_logprobs import AskedLogprobs

    plain = gathered(sampler)
    asked = AskedLogprobs()
    asked.attach(sampler)
    asked.put(1, [0])
    assert gathered(sampler) == plain
    asked.expect()
    assert gathered(sampler) != plain
    assert gathered(sampler) == plain
    asked.remove(1)
    asked.expect()
    assert gathered(sampler) == plain
