"""A real engine behind a hub: front ends on channels get what the server beside the engine gets."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from msgspec.structs import replace
from prometheus_client import CollectorRegistry

from server.config.model import ModelSettings
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Sink, TopLogprobs
from server.engine.vllm.engine import VLLMEngine
from server.engine.vllm.hub import Hub
from server.engine.vllm.link import sockets_folder
from server.engine.vllm.stats import EngineMetrics
from server.engine.vllm.wire import Signs
from server.errors import RequestFailure
from tests.helpers import until
from tests.hubs import FrontEnd, front_end
from tests.serving import CAPITAL_IDS, CONTEXT_SIZE, START_S, tiny_model

pytestmark = pytest.mark.engine

NUM_TOKENS = 200
NUM_GIVEN_UP = 170  # steps: without an abort there are some 190 more, and a busy machine notices it late
NUM_JOBS = 8
AWHILE_S = 60.0


def job(name: str, number: int, **fields: Any) -> Job:
    """Another text for each number, the same one each time."""
    params = GenerationParams(ignore_eos=True, temperature=0.8)
    one = Job(name, name, [*CAPITAL_IDS, 1000 + number], params, (), NUM_TOKENS, seed=number)
    return replace(one, **fields)


class Result:
    """Of one job: its tokens, and log-probabilities where it asked for them."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.prompt_logprobs: TopLogprobs | None = None
        self.has_ended = False

    def take(self, output: EngineOutput | RequestFailure) -> None:
        assert isinstance(output, EngineOutput), output
        self.token_ids += output.token_ids
        self.prompt_logprobs = self.prompt_logprobs or output.prompt_logprobs
        if output.logprobs is not None:
            self.logprobs += output.logprobs.logprobs
        self.has_ended = output.finish_reason is not None


async def results(submit: Callable[[Job, Sink], None], jobs: list[Job]) -> list[Result]:
    found = [Result() for _ in jobs]
    for one, result in zip(jobs, found, strict=True):
        submit(one, result.take)
    await until(lambda: all(one.has_ended for one in found), within_s=AWHILE_S)
    return found


class Served:
    """An engine, started again on demand, with its hub."""

    def __init__(self, path: Path, hub: Hub) -> None:
        self.hub = hub
        stats = EngineMetrics(CollectorRegistry()).of("m")
        settings = ModelSettings.model_validate(tiny_model(path))
        self._make = functools.partial(VLLMEngine, settings, CONTEXT_SIZE, stats, hub.folders, warms_up=False)
        self.engine = self._make()

    async def start(self) -> None:
        self.engine = self._make()
        await asyncio.wait_for(self.engine.start(lambda status: None), START_S)


@pytest.fixture(scope="module")
async def served(tiny_path: Path) -> AsyncIterator[Served]:
    with sockets_folder() as folder:
        hub = Hub("127.0.0.1", Path(folder), 2)
        one = Served(tiny_path, hub)
        try:
            await one.start()
            yield one
        finally:
            await one.engine.close()
            hub.close()


@asynccontextmanager
async def joined(served: Served) -> AsyncIterator[FrontEnd]:
    """A front end that leaves its slot free."""
    async with front_end(admission := served.hub.admit()) as one:
        yield one
    served.hub.release(admission)


async def look(one: FrontEnd) -> Signs:
    one.channel.ask()
    await until(lambda: one.channel.is_answered)
    return one.channel.signs


async def idle(one: FrontEnd) -> int:
    """The engine's steps by the time when it has nothing to do."""
    async with asyncio.timeout(AWHILE_S):
        while (signs := await look(one)).has_work:
            pass
    return signs.num_steps


async def test_the_same_texts_as_beside_the_engine(served: Served) -> None:
    """Through two front ends at once, with other jobs beside theirs."""
    async with joined(served) as first, joined(served) as second:
        submits = (served.engine.submit, first.client.submit, second.client.submit)
        alone, *through = await asyncio.gather(
            *(
                results(submit, [job(f"{way}-{number}", number) for number in range(NUM_JOBS)])
                for way, submit in enumerate(submits)
            )
        )
        assert all(len(one.token_ids) == NUM_TOKENS for one in alone)
        assert len({tuple(one.token_ids) for one in alone}) == NUM_JOBS
        for found in through:
            assert [one.token_ids for one in found] == [one.token_ids for one in alone]


async def test_the_same_log_probabilities(served: Served) -> None:
    """Of the prompt, in frames of their own, and of what is generated."""
    asked = {"num_logprobs": 20, "prompt_logprobs": True, "max_tokens": 10}
    asked["prompt_ids"] = [1000 + 7 * number for number in range(CONTEXT_SIZE - 20)]
    async with joined(served) as one:
        (beside,) = await results(served.engine.submit, [job("beside", 0, **asked)])
        (through,) = await results(one.client.submit, [job("through", 0, **asked)])
        assert through.prompt_logprobs is not None
        assert beside.prompt_logprobs is not None
        assert len(through.prompt_logprobs.logprobs) == 21 * (CONTEXT_SIZE - 21)
        assert through.prompt_logprobs.token_ids == beside.prompt_logprobs.token_ids
        assert through.prompt_logprobs.logprobs == pytest.approx(beside.prompt_logprobs.logprobs, abs=1e-4)
        assert (through.token_ids, len(through.logprobs)) == (beside.token_ids, 10 * 21)


async def test_an_abort_reaches_the_engine(served: Served) -> None:
    """It makes a few steps more, not all."""
    async with joined(served) as one:
        result = Result()
        one.client.submit(job("a", 0), result.take)
        await until(lambda: len(result.token_ids) > 5, within_s=AWHILE_S)
        before = (await look(one)).num_steps
        one.client.abort("a")
        assert await idle(one) - before < NUM_GIVEN_UP
        assert not result.has_ended


async def test_a_front_end_that_vanishes(served: Served) -> None:
    """The engine gives its jobs up, and the next one with its slot gets its own texts, and nothing else."""
    (beside,) = await results(served.engine.submit, [job("beside", 1)])
    async with joined(served) as other:
        admission = served.hub.admit()
        async with front_end(admission) as one:
            result = Result()
            for number in range(NUM_JOBS):
                one.client.submit(job(f"gone-{number}", number), result.take)
            await until(lambda: len(result.token_ids) > 5 * NUM_JOBS, within_s=AWHILE_S)
            before = (await look(other)).num_steps
        assert await idle(other) - before < NUM_GIVEN_UP
        assert not served.hub.keeps(admission)
        async with joined(served) as next_one:
            assert next_one.admission.slot == admission.slot
            (through,) = await results(next_one.client.submit, [job("next", 1)])
            assert through.token_ids == beside.token_ids


async def test_another_engine_on_the_same_slots(served: Served) -> None:
    """An engine that was killed is started again under the hub. A front end that comes back goes on there,
    with the keys that it had, to the same text."""
    (beside,) = await results(served.engine.submit, [job("beside", 2)])
    admission = served.hub.admit()
    async with front_end(admission) as one:
        result = Result()
        one.client.submit(job("lost", 2), result.take)
        await until(lambda: len(result.token_ids) > 5, within_s=AWHILE_S)
        psutil.Process(served.engine._process.pid).kill()
        await served.engine.died()
        await served.engine.close()
        num = len(result.token_ids)
    assert result.token_ids == beside.token_ids[:num]
    await served.start()
    async with front_end(admission) as again:
        rest = job(
            "again",
            2,
            prompt_ids=[*job("", 2).prompt_ids, *result.token_ids],
            max_tokens=NUM_TOKENS - num,
            num_output_before=num,
        )
        (through,) = await results(again.client.submit, [rest])
        assert result.token_ids + through.token_ids == beside.token_ids
    served.hub.release(admission)
