"""One run: a workload on some engines, with the server's own Work and router, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from benchmarks.fleet.clock import run
from benchmarks.fleet.engine import Shape, SteppedEngine, reply
from benchmarks.fleet.workloads import Conversation
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job
from server.engine.router import Router
from server.engine.turns import Turns
from server.engine.work import Work
from server.errors import RequestFailure

PLAIN = GenerationParams(ignore_eos=True)


@dataclass(slots=True)
class Found:
    """Results after the warm-up. ttft_s: from a job's submission to its first token; token_s: between two
    tokens of each job. hit_rate: share of prompt tokens that were not computed. busy: share of the time in
    which engines worked. estimated_rate: hits as predicted by the router."""

    ttft_s: list[float] = field(default_factory=list)
    token_s: list[float] = field(default_factory=list)
    hit_rate: float = 0.0
    busy: float = 0.0
    num_preempted: int = 0
    lasted_s: float = 0.0
    num_jobs_at_end: int = 0


class Clients:
    """All conversations of a run."""

    def __init__(self, works: list[Work], warm_s: float, rng: Random) -> None:
        self.works = works
        self.warm_s = warm_s
        self.found = Found()
        self._rng = rng
        self._numbers = itertools.count(1)
        self._loop = asyncio.get_running_loop()

    async def talk(self, turns: Conversation, start: float) -> None:
        await asyncio.sleep(start - self._loop.time())
        history: list[int] = []
        for turn in turns:
            await asyncio.sleep(turn.wait_s)
            history += turn.said
            work = self._rng.choice(self.works)
            jobs = [self._ask(work, history, turn.num_reply) for _ in range(turn.num_candidates)]
            answers = [await answer for answer in jobs]
            history += answers[0]

    def _ask(self, work: Work, prompt: list[int], num_reply: int) -> asyncio.Future[list[int]]:
        number = next(self._numbers)
        name = str(number)
        job = Job(name, name, [*prompt], PLAIN, (), num_reply, number)
        done: asyncio.Future[list[int]] = self._loop.create_future()
        asked, first = self._loop.time(), 0.0

        def sink(output: EngineOutput | RequestFailure) -> None:
            nonlocal first
            assert isinstance(output, EngineOutput)
            now = self._loop.time()
            if not first:
                first = now
                if asked >= self.warm_s:
                    self.found.ttft_s.append(now - asked)
            if output.finish_reason is not None:
                if asked >= self.warm_s and num_reply > 1:
                    self.found.token_s.append((now - first) / (num_reply - 1))
                done.set_result(reply(job))

        work.submit(job, sink)
        return done


async def _run(
    make: Callable[[Callable[[], float]], Router],
    shapes: list[Shape],
    conversations: Iterator[Conversation],
    arrivals: Iterator[float],
    seconds: float,
    warm_s: float,
    num_senders: int,
    is_known: bool,
) -> Found:
    loop = asyncio.get_running_loop()
    engines = [SteppedEngine(shape) for shape in shapes]
    works = list[Work]()
    for _ in range(num_senders):
        num_places = shapes[0].max_num_seqs // num_senders
        work = Work(turns=Turns(num_places, loop.time))
        work.router, work.num_senders = make(loop.time), num_senders
        work.set_places(num_places)
        for number, engine in enumerate(engines):
            if is_known:
                work.router.prefixes.set_capacity(number, engine.shape.num_blocks)
            work.begin(engine, number)
        works.append(work)
    clients = Clients(works, warm_s, Random(0))
    times = itertools.takewhile(lambda at: at < seconds, arrivals)
    talks = [asyncio.create_task(clients.talk(next(conversations), at)) for at in times]
    await asyncio.sleep(warm_s)
    before = [(one.counts.num_hits, one.counts.num_queries, one.counts.busy_s) for one in engines]
    await asyncio.sleep(seconds - warm_s)
    after = [(one.counts.num_hits, one.counts.num_queries, one.counts.busy_s) for one in engines]
    found = clients.found
    found.num_jobs_at_end = sum(one.num_jobs for one in engines)
    hits, queries, busy_s = (sum(b[k] - a[k] for a, b in zip(before, after, strict=True)) for k in range(3))
    found.hit_rate = hits / queries
    found.busy = busy_s / (seconds - warm_s) / len(engines)
    found.num_preempted = sum(one.counts.num_preempted for one in engines)
    await asyncio.gather(*talks)
    found.lasted_s = loop.time()
    return found


def simulate(
    make: Callable[[Callable[[], float]], Router],
    shapes: list[Shape],
    workload: Callable[[Random], Iterator[Conversation]],
    arrivals: Callable[[Random, float], Iterator[float]],
    rate: float,
    *,
    seconds: float = 120.0,
    warm_s: float = 40.0,
    seed: int = 0,
    num_senders: int = 1,
    is_known: bool = True,
) -> Found:
    """rate: conversations a second; the load is the same for each policy with the same seed. num_senders:
    front ends. is_known: whether they know the size of the engines' caches."""
    texts, times = workload(Random(f"texts {seed}")), arrivals(Random(f"times {seed}"), rate)
    gc.collect()
    return run(_run(make, shapes, texts, times, seconds, warm_s, num_senders, is_known))
