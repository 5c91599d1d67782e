"""The jobs of a model, over the deaths of its engines."""

from __future__ import annotations

import asyncio

import pytest

import server.engine.suspects as suspects_module
import server.engine.work as work_module
from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Requester, Sink, TopLogprobs
from server.engine.simulated.engine import SimulatedEngine
from server.engine.suspects import MANY_DEATHS
from server.engine.turns import Turns
from server.engine.work import Work
from server.errors import EngineDeathsError, InternalError, RequestFailure, ServiceUnavailable
from tests.helpers import until


class Hand(SimulatedEngine):
    """An engine that does what the test says."""

    def __init__(self) -> None:
        super().__init__(10)
        self.jobs: dict[str, tuple[Job, Sink]] = {}
        self.gone: list[str] = []

    def submit(self, job: Job, sink: Sink) -> None:
        self.jobs[job.id] = job, sink

    def abort(self, job_id: str) -> None:
        self.gone.append(job_id)

    def job(self, name: str) -> Job:
        return self.jobs[name][0]

    def say(self, name: str, *token_ids: int, end: bool = False) -> None:
        self.jobs[name][1](EngineOutput([*token_ids], None, None, "length" if end else None))


def job(name: str, **fields: object) -> Job:
    known: dict[str, object] = {"max_tokens": 10, "seed": 7}
    return Job(name, f"r-{name}", [1, 2], GenerationParams(), (0,), **{**known, **fields})  # type: ignore[arg-type]


class Jobs:
    """Work, its first engine, and what each job's sink got."""

    def __init__(self, *names: str, **settings: float) -> None:
        self.work = Work(**settings)  # type: ignore[arg-type]
        self.got: dict[str, list[EngineOutput | RequestFailure]] = {}
        self.engine = self.next()
        for name in names:
            self.submit(job(name))

    def submit(self, one: Job) -> None:
        self.got[one.id] = []
        self.work.submit(one, self.got[one.id].append)

    def next(self) -> Hand:
        """Another engine, ready."""
        self.work.lose()
        self.engine = Hand()
        self.work.begin(self.engine)
        return self.engine

    def tokens(self, name: str) -> list[int]:
        return [k for one in self.got[name] if isinstance(one, EngineOutput) for k in one.token_ids]

    def failure(self, name: str) -> RequestFailure:
        (found,) = [one for one in self.got[name] if isinstance(one, RequestFailure)]
        return found


async def test_the_next_engine_goes_on_where_the_last_has_stopped() -> None:
    """It gets the prompt with what was generated, which it is told, and what is left of the limits; the sink
    notices nothing."""
    jobs = Jobs()
    one = Job("a", "r", [1, 2], GenerationParams(min_tokens=4, repetition_penalty=1.5), (0,), 10, seed=7)
    jobs.submit(one)
    jobs.engine.say("a", 5)
    jobs.engine.say("a", 6, 5)
    (rest,) = [job for job, _ in jobs.next().jobs.values()]
    assert (rest.prompt_ids, rest.num_output_before, rest.seed) == ([1, 2, 5, 6, 5], 3, 7)
    assert (rest.max_tokens, rest.params.min_tokens, rest.params.repetition_penalty) == (7, 1, 1.5)
    jobs.engine.say(rest.id, 8, end=True)
    assert (jobs.tokens("a"), len(jobs.work)) == ([5, 6, 5, 8], 0)


async def test_a_job_without_a_token_is_sent_as_it_was() -> None:
    """Log-probabilities of its prompt included; with a token they have been sent."""
    jobs = Jobs()
    jobs.submit(job("a", num_logprobs=1, prompt_logprobs=True))
    (rest,) = [job for job, _ in jobs.next().jobs.values()]
    assert (rest.prompt_logprobs, rest.num_output_before, rest.max_tokens) == (True, 0, 10)
    jobs.engine.jobs[rest.id][1](EngineOutput([5], TopLogprobs(2, [5, 5], [0, 0]), TopLogprobs(2)))
    (rest,) = [job for job, _ in jobs.next().jobs.values()]
    assert (rest.prompt_logprobs, rest.num_output_before) == (False, 1)


async def test_no_name_is_used_twice() -> None:
    """An output that was on its way must not be taken for a later engine's."""
    jobs = Jobs("a")
    names = {*jobs.engine.jobs, *jobs.next().jobs, *jobs.next().jobs}
    assert len(names) == 3


async def test_an_abort_reaches_the_engine_that_works_on_it() -> None:
    """And one that waits goes nowhere any more."""
    jobs = Jobs("a", "b")
    jobs.work.lose()
    jobs.work.abort("b")
    (name,) = jobs.next().jobs
    jobs.work.abort("a")
    jobs.work.abort("a")
    assert (jobs.engine.gone, len(jobs.work), name.partition(".")[0]) == ([name], 0, "a")


async def test_what_comes_between_two_engines_waits() -> None:
    """In the order in which it came, behind those that have lost theirs."""
    jobs = Jobs("a")
    jobs.engine.say("a", 5)
    jobs.work.lose()
    jobs.submit(job("b"))
    assert jobs.work.num_resuming == 2
    assert [one.partition(".")[0] for one in jobs.next().jobs] == ["a", "b"]
    assert jobs.work.num_resuming == 0


async def test_nobody_waits_for_too_long() -> None:
    """After resume_timeout_s without an engine, a 503."""
    jobs = Jobs("a", resume_timeout_s=0.02)
    jobs.work.lose()
    await until(lambda: bool(jobs.got["a"]))
    assert isinstance(jobs.failure("a"), ServiceUnavailable)
    assert "resume_timeout_s" in jobs.failure("a").message
    assert not jobs.next().jobs


async def test_who_has_an_engine_again_is_not_timed_out() -> None:
    """The time counts while it waits."""
    jobs = Jobs("a", resume_timeout_s=0.03)
    jobs.next()
    await asyncio.sleep(0.05)
    assert not jobs.got["a"]


async def test_without_resuming() -> None:
    """Off: what runs fails with its engine."""
    jobs = Jobs("a", resume=False)
    jobs.work.lose()
    assert isinstance(jobs.failure("a"), ServiceUnavailable)


async def test_who_kills_engines_is_found() -> None:
    """Two engines die of it, the third of it alone; it fails with a 500 that says so; the others go on."""
    jobs = Jobs("a", "poison", "b")
    jobs.next()
    (first,) = jobs.next().jobs
    assert first.partition(".")[0] == "a"
    jobs.engine.say(first, 5)
    await asyncio.sleep(0)
    assert [name.partition(".")[0] for name in jobs.engine.jobs] == ["a", "poison"]
    assert not jobs.got["poison"]
    jobs.next()
    failure = jobs.failure("poison")
    assert isinstance(failure, EngineDeathsError)
    assert isinstance(failure, InternalError)
    assert "died 3 times" in failure.message
    assert "r-poison" in failure.message
    for _ in range(2):
        for name in [*jobs.engine.jobs]:
            jobs.engine.say(name, 6)
        await asyncio.sleep(0)
    assert (jobs.tokens("a")[:2], jobs.tokens("b")[:1]) == ([5, 6], [6])


async def test_who_generates_is_not_suspected() -> None:
    """However many engines are lost, as long as there is a token from each."""
    jobs = Jobs("a", "b")
    for _ in range(MANY_DEATHS - 1):
        for name in [*jobs.engine.jobs]:
            jobs.engine.say(name, 5)
        jobs.next()
        assert len(jobs.engine.jobs) == 2


async def test_even_so_not_for_ever() -> None:
    """One that kills each engine with its next token but one is tried alone to its end, and given up; those
    that were with it go on."""
    jobs = Jobs()
    jobs.submit(job("a", max_tokens=1000))
    jobs.submit(job("b", max_tokens=1000))
    for _ in range(MANY_DEATHS):
        assert len(jobs.engine.jobs) == 2
        for name in [*jobs.engine.jobs]:
            jobs.engine.say(name, 5)
        jobs.next()
    (name,) = jobs.engine.jobs
    jobs.engine.say(name, 5)
    jobs.next()
    assert isinstance(jobs.failure("a"), EngineDeathsError)
    (name,) = jobs.engine.jobs
    jobs.engine.say(name, 5, end=True)
    assert len(jobs.tokens("b")) == MANY_DEATHS + 1


async def test_who_was_tried_is_not_there_when_the_next_one_is() -> None:
    """It has a token and no verdict: if it kills at its second one, the other would be blamed."""
    jobs = Jobs("a", "b")
    jobs.next()
    jobs.next()
    jobs.engine.say("a.2", 5)
    await asyncio.sleep(0)
    assert [name for name in jobs.engine.jobs if name not in jobs.engine.gone] == ["b.2"]
    jobs.engine.say("b.2", 5)
    await asyncio.sleep(0)
    assert [name for name in jobs.engine.jobs if name not in jobs.engine.gone] == ["b.2", "a.3"]
    assert jobs.engine.job("a.3").num_output_before == 1


async def test_who_waits_for_a_trial_does_not_wait_for_an_engine() -> None:
    """There is one: resume_timeout_s is no matter."""
    jobs = Jobs("a", "b", resume_timeout_s=0.05)
    jobs.next()
    jobs.next()
    await asyncio.sleep(0.1)
    assert jobs.got == {"a": [], "b": []}


async def test_nothing_is_watched_that_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what waited for too long, nor what was aborted while it waited."""
    jobs = Jobs("a", "b", resume_timeout_s=0.05)
    looks = []
    look = jobs.work.waits._time_is_up
    monkeypatch.setattr(jobs.work.waits, "_time_is_up", lambda: (looks.append(1), look()))
    jobs.work.lose()
    jobs.work.abort("b")
    await until(lambda: bool(jobs.got["a"]))
    await asyncio.sleep(0.1)
    assert isinstance(jobs.failure("a"), ServiceUnavailable)
    assert len(looks) == 1


async def test_a_trial_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where several processes send, it is to be on an engine that was lost. If none of those comes back it is
    on another one, and who dies there is not given up: what else was there is not known."""
    monkeypatch.setattr(suspects_module, "EXPECTED_S", 0.1)
    monkeypatch.setattr(work_module, "LOOK_S", 0.01)
    jobs, others = Jobs("a"), {number: Hand() for number in (1, 2, 3)}
    jobs.work.num_senders = 2
    for number in (0, 1):
        jobs.work.lose(number)
        jobs.work.remove(number)
        jobs.work.begin(others[number + 1], number + 1)
    assert not others[2].jobs
    jobs.submit(job("b"))
    await until(lambda: bool(others[2].jobs))
    assert [*others[2].jobs] == ["a.2"]
    jobs.work.lose(2)
    assert not jobs.got["a"]
    jobs.work.begin(others[3], 2)
    assert len(others[3].jobs) == 1
    jobs.work.lose(2)  # which it had to itself
    assert isinstance(jobs.failure("a"), EngineDeathsError)


async def test_who_stays_where_another_replica_drains() -> None:
    """What runs on one that is to end keeps its places until then: nobody is put back for them."""
    work, first, second = Work(turns=Turns(6)), Hand(), Hand()
    work.begin(first, 0)
    work.begin(second, 1)
    for number in range(10):
        one = job(str(number), requester=Requester("ab"[number % 2]))
        work.submit(one, lambda output: None)
    work.drain(1)
    work.submit(job("more", requester=Requester("a")), lambda output: None)
    assert (first.gone, second.gone) == ([], [])
    assert work.turns.num_places == 6 + len(second.jobs)


@pytest.mark.parametrize("ends", ["aborted", "done"])
async def test_a_trial_ends_with_its_job(ends: str) -> None:
    """Whichever way; then the others have their turn."""
    jobs = Jobs("a", "b")
    jobs.next()
    (name,) = jobs.next().jobs
    if ends == "aborted":
        jobs.work.abort("a")
    else:
        jobs.engine.say(name, 5, end=True)
    await asyncio.sleep(0)
    assert [one.partition(".")[0] for one in jobs.engine.jobs] == ["a", "b"]


async def test_a_paused_job_goes_on_where_it_was() -> None:
    """Its engine is rid of it, and gets it under another name; meanwhile it is one of the jobs."""
    jobs = Jobs("a", "b")
    jobs.engine.say("a", 5, 6)
    jobs.work.pause("a")
    assert (jobs.engine.gone, len(jobs.work), jobs.work.num_placed(0)) == (["a"], 2, 1)
    assert jobs.work.is_paused("a")
    jobs.work.unpause("a")
    jobs.work.unpause("b")
    rest = jobs.engine.job("a.1")
    assert (rest.prompt_ids, rest.num_output_before, rest.max_tokens) == ([1, 2, 5, 6], 2, 8)
    jobs.engine.say("a.1", 7, end=True)
    assert (jobs.tokens("a"), [*jobs.engine.jobs]) == ([5, 6, 7], ["a", "b", "a.1"])


async def test_the_place_of_a_paused_job_is_another_ones() -> None:
    """It comes back before later jobs of its key, and nothing is predicted from its going."""
    jobs = Jobs()
    jobs.work.set_places(1)
    for name in "abcd":
        jobs.submit(job(name))
    jobs.engine.say("a", 5)
    jobs.work.pause("a")
    await asyncio.sleep(0)
    assert [*jobs.engine.jobs] == ["a", "b", "c"]  # while a key is alone, one is sent ahead
    jobs.work.unpause("a")
    jobs.engine.say("b", 5, end=True)
    await asyncio.sleep(0)
    assert [*jobs.engine.jobs] == ["a", "b", "c", "a.1"]
    assert len(jobs.work.turns._ended) == 1


async def test_a_paused_job_is_aborted() -> None:
    """Nothing of it is left, and it does not come back."""
    jobs = Jobs("a")
    jobs.engine.say("a", 5)
    jobs.work.pause("a")
    jobs.work.abort("a")
    jobs.work.unpause("a")
    assert (len(jobs.work), [*jobs.engine.jobs], jobs.work.turns._accounts) == (0, ["a"], {})


async def test_an_engine_dies_while_a_job_is_paused() -> None:
    """That is not the job's doing, nor does it go on by itself, nor does it wait for an engine."""
    jobs = Jobs("a", "b", resume_timeout_s=0.01)
    jobs.engine.say("a", 5)
    jobs.work.pause("a")
    jobs.work.lose()
    await until(lambda: jobs.got["b"])
    assert (len(jobs.got["a"]), jobs.work.num_resuming) == (1, 0)
    jobs.next()
    jobs.next()
    assert jobs.engine.jobs == {}
    jobs.work.unpause("a")
    assert [*jobs.engine.jobs] == ["a.1"]
    assert jobs.work._tickets["a"].all_deaths == 0


async def test_a_job_is_continued_without_an_engine() -> None:
    """It waits for the next one, and no longer than others."""
    jobs = Jobs("a", resume_timeout_s=0.01)
    jobs.engine.say("a", 5)
    jobs.work.pause("a")
    jobs.work.lose()
    jobs.work.unpause("a")
    await until(lambda: len(jobs.got["a"]) > 1)
    assert isinstance(jobs.failure("a"), ServiceUnavailable)


async def test_a_job_is_continued_while_the_model_is_unloaded() -> None:
    """It goes on when the model is loaded again."""
    jobs = Jobs("a")
    jobs.engine.say("a", 5)
    jobs.work.pause("a")
    jobs.work.unload(0)
    jobs.work.unpause("a")
    assert jobs.work.num_placed(0) == 0
    jobs.next()
    jobs.work.go_on()
    assert [*jobs.engine.jobs] == ["a.1"]


async def test_without_resuming_a_paused_job_ends_with_the_engine() -> None:
    """As the others do."""
    jobs = Jobs("a")
    jobs.work.resume = False
    jobs.engine.say("a", 5)
    jobs.work.pause("a")
    jobs.work.lose()
    assert isinstance(jobs.failure("a"), ServiceUnavailable)
    assert len(jobs.work) == 0


async def test_who_is_not_running_is_not_paused() -> None:
    """One that waits keeps waiting; nor is a suspect paused, whose trial must go on."""
    jobs = Jobs("a", "b")
    jobs.work.lose()
    jobs.work.pause("a")
    jobs.work.pause("nobody")
    assert {*jobs.next().jobs} == {"a.1", "b.1"}
    jobs.next()
    (name,) = jobs.engine.jobs
    jobs.work.pause(name.partition(".")[0])
    assert jobs.engine.gone == []


async def test_a_failure_of_the_engine_is_handed_on() -> None:
    """NaN, say: it is the request's, and no reason to try again."""
    jobs = Jobs("a")
    jobs.engine.jobs["a"][1](InternalError("r"))
    assert isinstance(jobs.failure("a"), InternalError)
    assert not jobs.next().jobs


async def test_a_failing_sink_may_abort_its_siblings() -> None:
    """The candidates of a request end with the first of them that fails."""
    work = Work(resume=False)
    work.begin(Hand())
    failed: list[str] = []

    def fails(name: str) -> Sink:
        def sink(output: EngineOutput | RequestFailure) -> None:
            failed.append(name)
            work.abort("b" if name == "a" else "a")

        return sink

    work.submit(job("a"), fails("a"))
    work.submit(job("b"), fails("b"))
    work.lose()
    assert (failed, len(work)) == (["a"], 0)
