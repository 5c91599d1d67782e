"""The jobs of several engines, whatever happens to those: random histories, and what has to hold in each."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

import pytest

import server.engine.suspects as suspects_module
import server.engine.work as work_module
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Requester, Sink
from server.engine.simulated.engine import SimulatedEngine
from server.engine.turns import Turns
from server.engine.work import Work
from server.errors import EngineDeathsError, RequestFailure

STEPS, MOST_REPLICAS, NUM_PLACES = 300, 4, 3
PROMPTS = ([1] * 40, [1] * 20 + [2] * 30, [3] * 5, [4])
KEYS = (Requester("a"), Requester("a", priority=1), Requester("b"), Requester("c", weight=2.0))


class Hand(SimulatedEngine):
    """An engine whose every job's token is its number among the job's."""

    cache_tokens = 16 * 5

    def __init__(self) -> None:
        super().__init__(10)
        self.jobs: dict[str, tuple[Job, Sink]] = {}

    def submit(self, job: Job, sink: Sink) -> None:
        assert job.id not in self.jobs, "sent twice"
        self.jobs[job.id] = job, sink

    def abort(self, job_id: str) -> None:
        self.jobs.pop(job_id, None)

    def step(self, name: str) -> None:
        job, sink = self.jobs[name]
        before, total = job.num_output_before, job.num_output_before + job.max_tokens
        assert job.prompt_ids[len(job.prompt_ids) - before :] == [*range(before)]
        grown = Job(name, job.request_id, [*job.prompt_ids, before], job.params, (), job.max_tokens - 1)
        if before + 1 == total:
            del self.jobs[name]
            sink(EngineOutput([before], finish_reason="length"))
        else:
            self.jobs[name] = _after(grown, before + 1), sink
            sink(EngineOutput([before]))


def _after(job: Job, num_before: int) -> Job:
    return Job(
        job.id, job.request_id, job.prompt_ids, job.params, (), job.max_tokens, num_output_before=num_before
    )


@dataclass
class Client:
    """What one job's sink got. brother: aborted when it ends."""

    total: int
    num_tokens: int = 0
    is_over: bool = False
    failure: RequestFailure | None = None
    brother: str = ""


class History:
    """Work with engines, to which things happen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.work = Work(resume=seed % 5 != 0, turns=Turns(NUM_PLACES))
        self.work.num_senders = 1 + seed % 2
        self.engines: dict[int, Hand | None] = {0: None}
        self.leaving: set[int] = set()
        self.clients: dict[str, Client] = {}

    def submit(self) -> None:
        name = f"j{len(self.clients)}"
        client = self.clients[name] = Client(self.random.randint(1, 12))
        if name != "j0" and self.random.random() < 0.3:
            client.brother = f"j{len(self.clients) - 2}"
        prompt, requester = self.random.choice(PROMPTS), self.random.choice(KEYS)
        params = GenerationParams()
        one = Job(name, name, prompt, params, (), client.total, requester=requester)
        self.work.submit(one, lambda output: self.hear(client, output))

    def hear(self, client: Client, output: EngineOutput | RequestFailure) -> None:
        assert not client.is_over, "told after its end"
        if isinstance(output, RequestFailure):
            client.is_over, client.failure = True, output
        else:
            assert output.token_ids == [client.num_tokens]
            client.num_tokens += 1
            client.is_over = output.finish_reason is not None
            assert client.is_over == (client.num_tokens == client.total)
        if client.is_over and client.brother:
            self.abort(client.brother)

    def abort(self, name: str = "") -> None:
        name = name or self.random.choice([*self.clients, "nobody"])
        if name in self.clients:
            self.clients[name].is_over = True
        self.work.abort(name)

    def pause(self) -> None:
        if running := self.running():
            name = self.random.choice(running)[1].partition(".")[0]
            self.work.pause(name)
            assert self.work._tickets[name].is_paused != bool(self.work.suspects)

    def unpause(self) -> None:
        if paused := [name for name, one in self.work._tickets.items() if one.is_paused]:
            self.work.unpause(self.random.choice(paused))

    def running(self) -> list[tuple[Hand, str]]:
        return [(one, name) for one in self.engines.values() if one is not None for name in one.jobs]

    def token(self) -> None:
        for engine, name in self.random.sample(there := self.running(), min(3, len(there))):
            if name in engine.jobs:
                engine.step(name)

    def begin(self) -> None:
        if down := [number for number, engine in self.engines.items() if engine is None]:
            number = self.random.choice(down)
            engine = self.engines[number] = Hand()
            self.work.begin(engine, number)

    def lose(self) -> None:
        number = self.random.choice([*self.engines, 9])
        if (engine := self.engines.get(number)) is None:
            return
        alone = [name.partition(".")[0] for name in engine.jobs] if len(engine.jobs) == 1 else []
        failed = {name for name, one in self.clients.items() if one.failure is not None}
        engine.jobs.clear()
        self.engines[number] = None
        self.work.lose(number)
        for name in {name for name, one in self.clients.items() if one.failure is not None} - failed:
            if isinstance(self.clients[name].failure, EngineDeathsError):
                assert [name] == alone, "blamed for what it was not alone on"
            else:
                assert not self.work.resume

    def recall(self) -> None:
        number = self.random.choice([*self.engines])
        self.work.recall(number)
        if (engine := self.engines[number]) is not None:
            assert not engine.jobs, "left behind"
            self.engines[number] = None

    def drain(self) -> None:
        number = self.random.choice([*self.engines])
        self.leaving ^= {number}
        self.work.drain(number, number in self.leaving)

    def add(self) -> None:
        free = [number for number in range(MOST_REPLICAS) if number not in self.engines]
        if free:
            self.engines[self.random.choice(free)] = None

    def remove(self) -> None:
        if len(self.engines) > 1:
            number = self.random.choice([*self.engines])
            engine = self.engines.pop(number)
            self.leaving.discard(number)
            self.work.remove(number)
            assert engine is None or not engine.jobs, "left behind"

    def check(self) -> None:
        """Every job is in one place, and all that counts them says so."""
        work = self.work
        alive = {name for name, client in self.clients.items() if not client.is_over}
        assert set(work._tickets) == alive
        names = [name for _, name in self.running()]
        jobs = [name.partition(".")[0] for name in names]
        assert len(set(jobs)) == len(jobs), "on two engines"
        assert names == [work._tickets[job].engine_id for job in jobs]
        for number, engine in self.engines.items():
            assert work.num_placed(number) == (len(engine.jobs) if engine is not None else 0)
        assert work.turns._num_placed == len(jobs)
        paused = [name for name, one in work._tickets.items() if one.is_paused]
        assert not {*paused} & {*jobs}, "runs while it is paused"
        assert work.turns.num_waiting == len(alive) - len(jobs) - len(paused)
        trial = work.suspects.on_trial
        if trial is not None:
            assert work._tickets[trial.job.id] is trial
            assert trial.route is not None
            assert work.num_placed(trial.route.replica) == 1, "not alone"
        assert set(work.suspects._tickets) <= alive
        for replica in work._replicas.values():
            assert replica.num_unread_tokens == sum(route.num_left for route in replica.unread.values())

    async def settle(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)


@pytest.mark.parametrize("seed", range(40))
async def test_no_job_is_lost_or_told_twice(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its tokens once and in order, and its end, whichever engines come, go and die; and nothing of
    it is left then."""
    monkeypatch.setattr(work_module, "LOOK_S", 0.0)
    monkeypatch.setattr(work_module, "TRIALS_S", 0.0)
    monkeypatch.setattr(suspects_module, "EXPECTED_S", 0.0)
    history = History(seed)
    chances = [
        *(history.submit, history.submit, history.submit, history.begin, history.begin),
        *(history.token,) * 8,
        *(history.abort, history.lose, history.recall, history.drain, history.add, history.remove),
        *(history.pause, history.unpause),
    ]
    for _ in range(STEPS):
        history.random.choice(chances)()
        history.check()
        if history.random.random() < 0.7:
            await history.settle()
            history.check()
    for number in [*history.leaving]:
        history.work.drain(number, is_leaving=False)
    while None in history.engines.values():
        history.begin()
    for _ in range(5000):
        if not len(history.work):
            break
        history.unpause()
        await history.settle()
        history.check()
        history.token()
    work = history.work
    assert all(client.is_over for client in history.clients.values())
    assert (len(work), work.turns._num_placed, work.turns.num_waiting) == (0, 0, 0)
    assert not work.turns._accounts
    assert not work.suspects
    history.submit()
    assert work.turns.num_places == NUM_PLACES * len(history.engines)
    work.abort([*history.clients][-1])
    for number in [*history.engines]:
        work.remove(number)
    assert not work.router.prefixes._holders
