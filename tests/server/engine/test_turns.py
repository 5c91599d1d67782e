"""Whose turn it is."""

from __future__ import annotations

import asyncio
from itertools import pairwise

from server.contract.params import GenerationParams
from server.engine.base import Job, Requester
from server.engine.turns import FEW, PLACE, Turns
from server.engine.work import Work
from tests.server.engine.test_work import Hand


class Queue:
    """Work on an engine of so many places, and who is on it."""

    def __init__(self, num_places: int) -> None:
        self.now = 0.0
        self.turns = Turns(num_places, lambda: self.now)
        self.work = Work(turns=self.turns)
        self.engine = Hand()
        self.work.begin(self.engine)
        self.num_jobs = 0

    def submit(
        self, key: str, num: int = 1, *, weight: float = 1, priority: int = 0, prompt: int = 1
    ) -> None:
        for _ in range(num):
            self.num_jobs += 1
            who = Requester(key, weight, priority)
            name = f"{key}-{self.num_jobs}"
            job = Job(name, name, [0] * prompt, GenerationParams(), (), 10_000, requester=who)
            self.work.submit(job, lambda output: None)

    @property
    def on_engine(self) -> list[str]:
        """The engine's names of what it works on."""
        return [name for name in self.engine.jobs if name not in self.engine.gone]

    def count(self, key: str) -> int:
        return sum(name.startswith(f"{key}-") for name in self.on_engine)

    def step(self, num_tokens: int = 1) -> None:
        """A step of the engine: a token for each of its places."""
        for name in self.on_engine[: self.turns.num_places]:
            self.engine.say(name, *range(num_tokens))

    async def end(self, name: str) -> None:
        self.engine.say(name, 1, end=True)
        del self.engine.jobs[name]
        await asyncio.sleep(0)

    async def look(self) -> None:
        """What happens twice a second while jobs wait."""
        self.work._send_waiting()


async def test_another_key_has_a_place_at_once() -> None:
    """However many jobs of a key run and wait; the one that gives way is the last that was sent."""
    queue = Queue(4)
    queue.submit("a", 100)
    queue.step()
    queue.submit("b")
    assert (queue.count("b"), queue.count("a")) == (1, 3)
    assert queue.on_engine[:3] == ["a-1", "a-2", "a-3"]


async def test_keys_that_want_the_same_get_as_much() -> None:
    """As many places each, whichever came first."""
    queue = Queue(8)
    queue.submit("a", 100)
    queue.submit("b", 100)
    assert (queue.count("a"), queue.count("b")) == (4, 4)
    queue.submit("c", 100)
    queue.submit("d", 100)
    assert [queue.count(key) for key in "abcd"] == [2, 2, 2, 2]


async def test_nothing_moves_without_need() -> None:
    """Once the places are shared, a look puts nothing back, and a free place stays with its key."""
    queue = Queue(4)
    queue.submit("a", 10)
    queue.submit("b", 10)
    gone = [*queue.engine.gone]
    for _ in range(20):
        queue.step()
        await queue.look()
    await queue.end(next(name for name in queue.on_engine if name.startswith("b-")))
    assert (queue.engine.gone, queue.count("a"), queue.count("b")) == (gone, 2, 2)


async def test_a_weight_is_a_share() -> None:
    """Three times the weight, three times the places."""
    queue = Queue(8)
    queue.submit("a", 100)
    queue.submit("b", 100, weight=3)
    assert (queue.count("a"), queue.count("b")) == (2, 6)


async def test_one_place_is_shared_by_time() -> None:
    """Where there are fewer places than keys, each has them for some tokens; nobody's job is lost over it."""
    queue = Queue(1)
    queue.submit("a")
    queue.submit("b")
    seen = []
    for _ in range(8 * PLACE):
        queue.step()
        await queue.look()
        assert len(queue.on_engine) == 1
        seen.append(queue.on_engine[0][0])
    assert 0.35 < seen.count("a") / len(seen) < 0.65
    assert 3 <= sum(one != other for one, other in pairwise(seen)) <= 10


async def test_long_jobs_and_short_ones_get_as_many_tokens() -> None:
    """Keys share tokens, not requests: short jobs, of which more end, do not get more."""
    queue = Queue(4)
    had = {"a": 0, "b": 0}
    age: dict[str, int] = {}
    for _ in range(3000):
        for key in "ab":
            queue.submit(key, 6 - sum(t.job.requester.key == key for t in queue.work._tickets.values()))
        for name in queue.on_engine[:4]:
            key, job = name[0], name.partition(".")[0]
            had[key] += 1
            age[job] = age.get(job, 0) + 1
            if age[job] == {"a": 300, "b": 10}[key]:
                await queue.end(name)
            else:
                queue.engine.say(name, 1)
        await queue.look()
    assert 0.9 < had["a"] / had["b"] < 1.1


async def test_nobody_saves_up() -> None:
    """A key that was away has no claim on what others had meanwhile."""
    queue = Queue(4)
    queue.submit("b")
    await queue.end("b-1")
    queue.submit("a", 100)
    for _ in range(100):
        queue.step(100)
    queue.submit("b", 100)
    assert (queue.count("a"), queue.count("b")) == (2, 2)


async def test_a_key_that_comes_back_while_another_is_ahead() -> None:
    """It has had more than the other, whose jobs in reserve are taken back even so."""
    queue = Queue(2)
    queue.submit("b")
    queue.submit("a", 6)
    queue.engine.say("b-1", *range(5000))
    await queue.end("b-1")
    queue.submit("b")
    assert (queue.count("a"), len(queue.work)) == (2, 7)


async def test_who_comes_while_no_engine_is_there_is_not_first_for_long() -> None:
    """What another key has had by then does not count against it."""
    queue = Queue(4)
    queue.submit("a", 8)
    for _ in range(10):
        queue.step(1000)
    queue.work.lose()
    queue.submit("c", 40)
    queue.engine = Hand()
    queue.work.begin(queue.engine)
    assert (queue.count("a"), queue.count("c")) == (2, 2)


async def test_what_a_key_has_had_is_forgotten_when_nobody_waits() -> None:
    """Or it would pay for it a day later."""
    queue = Queue(2)
    queue.submit("b")
    queue.submit("a", 3)
    queue.engine.say("b-1", *range(300_000))
    await queue.end("b-1")
    while queue.on_engine:
        await queue.end(queue.on_engine[0])
    assert queue.turns._accounts == {}


async def test_a_long_prompt_has_its_turn() -> None:
    """It is begun at once, and is not put back for having been long."""
    queue = Queue(4)
    queue.submit("a", 100)
    queue.submit("b", prompt=100_000)
    queue.step()
    await queue.look()
    assert (queue.count("a"), queue.count("b")) == (3, 1)


async def test_the_urgent_go_first() -> None:
    """The lower priority before the higher, in a key and between keys; those that run make room."""
    queue = Queue(2)
    queue.submit("a", 4, priority=5)
    queue.submit("a", priority=-1)
    assert queue.on_engine[-1] == "a-5"
    queue.submit("b", 3, priority=2)
    assert (queue.count("a"), queue.count("b")) == (1, 1)


async def test_alone_a_key_has_jobs_ready_in_the_engine() -> None:
    """As many as there are places, so that none stands empty; another key's job is not behind them."""
    queue = Queue(4)
    queue.submit("a", 100)
    assert queue.count("a") == 8
    queue.submit("b")
    assert (queue.count("a"), queue.count("b")) == (3, 1)
    await queue.end("b-101")
    assert queue.count("a") == 8


async def test_the_engine_is_told_whose_turn_it_is() -> None:
    """Where it cannot begin all that it was sent, the first of each key are before the second of any."""
    queue = Queue(8)
    queue.submit("a", 3)
    queue.submit("b", 2)
    urgency = {name: queue.engine.job(name).urgency for name in queue.on_engine}
    assert urgency == {"a-1": 0, "a-2": 1, "a-3": 2, "b-4": 0, "b-5": 1}


async def test_what_was_put_back_goes_on_where_it_was() -> None:
    """Before jobs of its key that came later, with what it had generated; meanwhile it is paused."""
    queue = Queue(2)
    queue.submit("a", 3)
    queue.step()
    queue.submit("b")
    assert queue.work.is_paused("a-2")
    assert not queue.work.is_paused("a-3")
    await queue.end("b-4")
    job = queue.engine.job("a-2.1")
    assert (job.num_output_before, len(job.prompt_ids)) == (1, 2)
    assert not queue.work.is_paused("a-2")


async def test_the_wait_is_foretold() -> None:
    """From how fast jobs end while others wait, and from the key's share; nothing is said of what
    is not known."""
    queue = Queue(2)
    queue.submit("a", 30)
    assert queue.turns.wait_s(Requester("a")) == 0
    for _ in range(FEW):
        queue.now += 1.0
        await queue.end(queue.on_engine[0])
    assert queue.turns.wait_s(Requester("new")) == 0
    waiting = queue.turns.num_waiting
    alone = queue.turns.wait_s(Requester("a"))
    assert abs(alone - (waiting + 1) * (FEW - 1) / FEW) < 1e-6
    queue.submit("b", 30)
    assert queue.turns.wait_s(Requester("a")) > 1.9 * alone
    assert queue.turns.wait_s(Requester("a", 1.0, -1)) < alone / 5


async def test_who_waits_can_be_aborted() -> None:
    """And what is aborted leaves its place to the next."""
    queue = Queue(1)
    queue.submit("a", 4)
    queue.work.abort("a-4")
    queue.work.abort("a-1")
    await asyncio.sleep(0)
    assert (queue.on_engine, len(queue.work)) == (["a-2", "a-3"], 2)
