"""The engines that only take the time."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from benchmarks.fleet.blocks import Blocks
from benchmarks.fleet.clock import run
from benchmarks.fleet.engine import STEP_MS, TOKENS, Shape, SteppedEngine, linear_s, reply
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job
from server.errors import RequestFailure


def test_time_goes_by_at_once() -> None:
    """An hour of waiting takes none."""

    async def wait() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert run(wait()) == 3600


def test_what_nobody_will_do_is_an_error() -> None:
    """Where nothing is left to happen, a run fails instead of standing still."""

    async def wait() -> None:
        await asyncio.Event().wait()

    with pytest.raises(RuntimeError, match="nothing will ever happen"):
        run(wait())


def test_a_failing_callback_fails_the_run() -> None:
    """A sink's mistake, say, is not a line in a log."""

    async def wait() -> None:
        asyncio.get_running_loop().call_later(1, [].pop)
        await asyncio.sleep(2)

    with pytest.raises(IndexError):
        run(wait())


def test_a_step_takes_what_was_measured() -> None:
    """And between two measured sizes, as much as the line between them says."""
    assert [linear_s(num) * 1e3 for num in TOKENS] == pytest.approx(STEP_MS)
    assert linear_s(2000) * 1e3 == pytest.approx(137.7 + (142.6 - 137.7) / 2)


def jobs(rng: Random, count: int) -> list[Job]:
    """Many with the same beginnings."""
    beginning = [rng.randrange(1000) for _ in range(400)]
    found = list[Job]()
    for number in range(1, count + 1):
        more = [rng.randrange(1000) for _ in range(rng.randrange(1, 300))]
        prompt, most = [*beginning[: rng.randrange(400)], *more], rng.randrange(1, 200)
        found.append(Job(str(number), str(number), prompt, GenerationParams(), (), most, number))
    return found


@pytest.mark.parametrize("num_blocks", [100, 2000])
def test_all_jobs_end_with_all_their_tokens(num_blocks: int) -> None:
    """Also those that started again for want of blocks; and all blocks are free at the end."""
    got: dict[str, list[int]] = {}

    async def work() -> SteppedEngine:
        engine, rng = SteppedEngine(Shape(num_blocks=num_blocks)), Random(1)
        for job in jobs(rng, 200):

            def sink(output: EngineOutput | RequestFailure, job: Job = job) -> None:
                assert isinstance(output, EngineOutput)
                got.setdefault(job.id, []).extend(output.token_ids)
                if output.finish_reason is not None:
                    assert got[job.id] == reply(job)

            engine.submit(job, sink)
            await asyncio.sleep(rng.expovariate(6))
        while engine.num_jobs:  # noqa: ASYNC110  # in virtual time
            await asyncio.sleep(1)
        return engine

    engine = run(work())
    assert len(got) == 200
    assert (engine.counts.num_preempted > 0) is (num_blocks == 100)
    assert engine.blocks.num_free == num_blocks


def test_an_aborted_job_says_nothing_more() -> None:
    """Whether it waits, is read or generates; and what it had is free."""
    said: list[str] = []

    async def work() -> SteppedEngine:
        engine = SteppedEngine(Shape(max_num_seqs=2))
        for job in jobs(Random(2), 3):
            engine.submit(job, lambda output, job=job: said.append(job.id))  # type: ignore[misc]
        await asyncio.sleep(0.001)
        engine.abort("3")
        engine.abort("1")
        await asyncio.sleep(0.1)
        engine.abort("2")
        await asyncio.sleep(1)
        return engine

    engine = run(work())
    assert set(said) == {"2"}
    assert (engine.num_jobs, engine.blocks.num_free) == (0, engine.shape.num_blocks)


def test_what_jobs_use_is_not_taken() -> None:
    """A pool that has too few blocks left says so, and stays as it was."""
    blocks = Blocks(4)
    assert blocks.take([1, 2], 1)
    assert not blocks.take([3, 4])
    assert blocks.take([1, 2, 3])
    assert (blocks.num_free, blocks.num_held([1, 2, 3])) == (0, 3)
