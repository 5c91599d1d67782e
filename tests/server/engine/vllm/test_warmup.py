"""The jobs that warm an engine up."""

from __future__ import annotations

import pytest

from server.engine.vllm.warmup import LONG_PROMPT, warm_up_jobs


@pytest.mark.parametrize("context_size", [1, 2, 3, 4, 5, 64, 4096])
def test_they_fit(context_size: int) -> None:
    """However short the context is, no job is longer; an engine would die of it."""
    jobs = [job for step in warm_up_jobs(context_size) for job in step]
    assert all(len(job.prompt_ids) + job.max_tokens <= context_size for job in jobs)
    assert bool(jobs) == (context_size > 2)


def test_their_ids_are_in_every_vocabulary() -> None:
    """A model of characters may have no more than a few dozen."""
    assert {i for step in warm_up_jobs(4096) for job in step for i in job.prompt_ids} == {0, 1}


def test_a_long_prompt_runs_beside_short_ones() -> None:
    """The last step has all kinds in one batch."""
    *_, last = warm_up_jobs(4096)
    assert max(len(job.prompt_ids) for job in last) == LONG_PROMPT
    assert len(last) > 5
