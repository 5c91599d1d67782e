from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from sampling import best_of
from server.contract.params import GenerationParams, candidate_seed
from server.engine.base import EngineOutput, Job, Sink, TopLogprobs
from server.engine.served import ServedModel
from server.errors import InvalidRequest, ServiceUnavailable
from server.generation.candidates import Generation
from server.generation.contest import Contest
from server.generation.outputs import CandidateText, Choice, Delta, PromptText, fold
from server.text.tokenizer import Tokenizer
from tests.helpers import Engine, number_of, says, served, until

# Candidates by the letters of their text: a has log-probability -1, b -2, and so on.
LETTERS = "abcdefgh"


class Letters(Engine):
    """Its candidates say the given words, each at once; a letter's place is its log-probability."""

    def __init__(self, *words: str) -> None:
        super().__init__()
        self.words = words

    def submit(self, job: Job, sink: Sink) -> None:
        self.jobs.append(job)
        places = [LETTERS.index(letter) for letter in self.words[number_of(job.id)]]
        ids = [66 + place for place in places]
        sink(EngineOutput(ids, TopLogprobs(1, ids, [-1.0 - place for place in places]), None, "stop"))


@asynccontextmanager
async def live(model: ServedModel) -> AsyncIterator[ServedModel]:
    """The model while its engine runs."""
    task = asyncio.create_task(model.engine.run())
    await until(lambda: model.engine.status.ready)
    try:
        yield model
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def generation(model: ServedModel, *prompts: list[int], **params: Any) -> Generation:
    given = [PromptText(ids) for ids in prompts or ([5],)]
    return Generation("r", given, GenerationParams(**params), model.engine, model.tokenizer)


async def choices(made: Generation) -> list[Choice]:
    deltas: list[Delta] = []
    await made.start(deltas.extend)
    return fold(made.num_choices, deltas)


def texts(found: list[Choice]) -> list[str]:
    return [choice.text for choice in found]


# --- candidates --------------------------------------------------------------------------------------------


async def test_n(directory: Path) -> None:
    """Each of n candidates is a job with a seed of its own, and becomes the choice of its number."""
    model = served(directory, engine := Engine())
    engine._script = says(model, "he", "hello", "é")
    async with live(model):
        made = generation(model, n=3, best_of=3, seed=7)
        assert texts(await choices(made)) == ["he", "hello", "é"]
    assert [job.seed for job in engine.jobs] == [candidate_seed(7, 0, number) for number in range(3)]
    assert (made.usage.prompt_tokens, made.usage.completion_tokens) == (1, 6)


async def test_several_prompts(directory: Path) -> None:
    """Choice index = prompt number × n + rank; each prompt's tokens count once."""
    model = served(directory, engine := Engine())
    engine._script = says(model, "a", "b", "c", "d")
    async with live(model):
        made = generation(model, [5, 6], [7], n=2, best_of=2, seed=7)
        found = await choices(made)
    assert [(choice.index, choice.text) for choice in found] == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]
    assert [job.prompt_ids for job in engine.jobs] == [[5, 6], [5, 6], [7], [7]]
    assert [job.seed for job in engine.jobs] == [candidate_seed(7, p, c) for p in (0, 1) for c in (0, 1)]
    assert made.usage.prompt_tokens == 3


async def test_same_seed_same_text(directory: Path) -> None:
    """The same seed gives the same candidates, another seed others."""
    async with live(served(directory, Engine())) as model:
        first, again, other = [
            texts(await choices(generation(model, n=4, best_of=4, seed=seed))) for seed in (42, 42, 43)
        ]
    assert first == again
    assert not set(first) & set(other)


async def test_no_seed(directory: Path) -> None:
    """Without a seed each request has another one, and each of its candidates one of its own."""
    model = served(directory, engine := Engine())
    async with live(model):
        for _ in range(2):
            await choices(generation(model, n=2, best_of=2))
    assert len({job.seed for job in engine.jobs}) == 4


async def test_length(directory: Path) -> None:
    """A candidate that does not end by itself ends after max_tokens."""
    async with live(served(directory, Engine(lambda job, position: 67))) as model:
        made = generation(model, max_tokens=3)
        assert await choices(made) == [Choice(0, "bbb", None, "length")]
    assert made.usage.completion_tokens == 3


async def test_what_the_engine_is_asked(directory: Path) -> None:
    """Log-probabilities are asked for where the request has them, those of the prompt with echo."""
    model = served(directory, engine := Engine())
    async with live(model):
        for params in (
            {},
            {"num_logprobs": 2},
            {"num_logprobs": 2, "echo": True},
            {"echo": True},
            {"best_of": 2},
        ):
            await choices(generation(model, [5, 6], **params))
    asked = [(job.num_logprobs, job.prompt_logprobs) for job in engine.jobs]
    assert asked == [(None, False), (2, False), (2, True), (None, False), (0, False), (0, False)]


# --- stop sequences and the end ----------------------------------------------------------------------------


async def test_stop_aborts_in_the_engine(directory: Path) -> None:
    """A candidate that meets a stop sequence is aborted alone; the others go on."""
    model = served(directory, engine := Engine())
    engine._script = says(model, "he or hello or", "é é é é")
    async with live(model):
        found = await choices(generation(model, n=2, best_of=2, stop=(" or",), max_tokens=30))
        await until(lambda: not engine.running)
    assert texts(found) == ["he or", "é é é é"]
    assert list(map(number_of, engine.aborted)) == [0]


class Hasty(Engine):
    """Sends two outputs at once."""

    def submit(self, job: Job, sink: Sink) -> None:
        for _ in range(2):
            sink(EngineOutput([66]))


async def test_what_comes_after_the_end_is_nobodys(directory: Path) -> None:
    """An output that was on its way when its candidate met a stop sequence adds nothing, and harms nobody."""
    async with live(served(directory, Hasty())) as model:
        asked = generation(model, n=2, best_of=2, stop=("a",))
        assert texts(await choices(asked)) == ["a", "a"]
    assert asked.usage.completion_tokens == 2


async def test_max_tokens_0(directory: Path) -> None:
    """Nothing to generate needs no engine, unless the prompt's log-probabilities are asked for."""
    model = served(directory, engine := Engine())
    async with live(model):
        assert texts(await choices(generation(model, max_tokens=0, echo=True))) == ["$"]
        assert engine.jobs == []
        found = await choices(generation(model, [5, 6], max_tokens=0, echo=True, num_logprobs=0))
    assert (found[0].text, found[0].finish_reason) == ("$%", "length")
    assert found[0].logprobs is not None
    assert found[0].logprobs.arrays()["tokens"] == ["$", "%"]
    assert [job.max_tokens for job in engine.jobs] == [0]


@pytest.mark.parametrize("max_tokens", [0, 3])
async def test_a_prompt_of_one_token_has_nothing_to_be_asked(directory: Path, max_tokens: int) -> None:
    """Its only token is the first, which has no log-probability."""
    model = served(directory, engine := Engine(lambda job, position: 67))
    async with live(model):
        made = generation(model, [5], max_tokens=max_tokens, echo=True, num_logprobs=1, n=2, best_of=2)
        found = await choices(made)
    assert [choice.logprobs.arrays()["token_logprobs"][0] for choice in found if choice.logprobs] == [
        None,
        None,
    ]
    assert [len(choice.logprobs.arrays()["tokens"]) for choice in found if choice.logprobs] == [
        1 + max_tokens
    ] * 2
    assert not any(job.prompt_logprobs for job in engine.jobs)


class AnyOrder:
    """An engine that hands out what its jobs get in an order of the test's."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.waiting: dict[str, tuple[Sink, list[EngineOutput]]] = {}

    def submit(self, job: Job, sink: Sink) -> None:
        self.jobs.append(job)
        self.waiting[job.id] = (sink, outputs_of(job, scored=job.prompt_logprobs))

    def abort(self, job_id: str) -> None:
        self.waiting.pop(job_id, None)

    async def run(self, order: Random) -> None:
        while self.waiting:
            sink, outputs = self.waiting[order.choice(list(self.waiting))]
            if outputs:
                sink(outputs.pop(0))
            if order.random() < 0.5:
                await asyncio.sleep(0)


def outputs_of(job: Job, *, scored: bool) -> list[EngineOutput]:
    """One letter after another, by the job's number."""
    ids = [66 + (number_of(job.id) * k) % 5 for k in range(1, job.max_tokens + 1)]
    outputs = [EngineOutput([i], TopLogprobs(2, [i, 66], [-0.1 * i, -0.5])) for i in ids] or [
        EngineOutput([])
    ]
    outputs[-1].finish_reason = "length"
    if scored:
        tail = job.prompt_ids[1:]
        outputs[0].prompt_logprobs = TopLogprobs(
            2, [x for i in tail for x in (i, 70)], [-1.5, -0.5] * len(tail)
        )
    return outputs


@given(
    params=st.builds(
        dict,
        n=st.integers(1, 3),
        more=st.integers(0, 3),
        max_tokens=st.integers(0, 4),
        stop=st.sampled_from([(), ("b",), ("cd",)]),
        give_up=st.booleans(),
    ),
    order=st.randoms(),
)
def test_one_candidate_asks_for_the_prompts_logprobs(
    bytes_tokenizer: Tokenizer, params: dict[str, Any], order: Random
) -> None:
    """In whatever order the outputs come, the choices are those of candidates that have each asked."""
    more = params.pop("more")
    asked = GenerationParams(echo=True, num_logprobs=1, best_of=params["n"] + more, **params)
    prompts, engine = [PromptText([5, 6, 7]), PromptText([8, 9], ")*", [0, 1])], AnyOrder()

    async def ask() -> list[Choice]:
        deltas: list[Delta] = []
        made = Generation("r", prompts, asked, engine, bytes_tokenizer)  # type: ignore[arg-type]
        ended = made.start(deltas.extend)
        await engine.run(order)
        await asyncio.wait_for(ended, 30)
        return fold(made.num_choices, deltas)

    found = asyncio.run(ask())
    assert found == [
        choice for k, prompt in enumerate(prompts) for choice in each_asks(k, prompt, asked, bytes_tokenizer)
    ]
    assert [job.prompt_ids for job in engine.jobs if job.prompt_logprobs] == [
        prompt.ids for prompt in prompts
    ]


def each_asks(k: int, prompt: PromptText, params: GenerationParams, tokenizer: Tokenizer) -> list[Choice]:
    """The choices of a prompt whose candidates have all asked for its log-probabilities."""
    contest = Contest(0, prompt, structs.replace(params, give_up=False), tokenizer)
    deltas: list[Delta] = []
    for number in range(params.best_of):
        name = f"x-{k * params.best_of + number}"
        outputs = outputs_of(Job(name, "r", prompt.ids, params, (1,), params.max_tokens), scored=True)
        text = CandidateText(number, prompt, params, tokenizer)
        while outputs and text.finish_reason is None:
            deltas.append(text.push(output := outputs.pop(0)))
            contest.receive(number, output)
    ranked = params.best_of > params.n
    return [
        replace(choice, index=k * params.n + choice.index)
        for choice in fold(params.n, contest.winners() if ranked else deltas)
    ]


async def test_a_failure_of_the_one_that_asks_fails_those_that_wait(directory: Path) -> None:
    """Nothing waits for ever."""
    model = served(directory, engine := Engine(lambda job, position: 67, step_s=0.001))
    model.engine.work.resume = False
    async with live(model):
        made = generation(model, [5, 6], n=3, best_of=3, echo=True, num_logprobs=0, max_tokens=10_000)
        ended = made.start(lambda deltas: None)
        engine.death.set()
        with pytest.raises(ServiceUnavailable):
            await asyncio.wait_for(ended, 30)


@pytest.mark.parametrize("batches", [0, 1])
async def test_leaving_aborts_every_candidate(directory: Path, batches: int) -> None:
    """Closing ends the work of all candidates at once, whether or not anything came."""
    model = served(directory, engine := Engine(lambda job, position: 67, step_s=0.001))
    async with live(model):
        made = generation(model, [5], [6], n=2, best_of=2, max_tokens=10_000)
        taken: list[Delta] = []
        made.start(taken.extend)
        await until(lambda: len(engine.running) == 4 and len(taken) >= batches)
        made.close()
        assert engine.running == set()
        assert sorted(map(number_of, engine.aborted)) == [0, 1, 2, 3]
        assert model.engine.pending == 0


# --- ranking -----------------------------------------------------------------------------------------------


async def test_best_of(directory: Path) -> None:
    """The n candidates with the best mean log-probability per token, best first."""
    async with live(served(directory, Letters("ccc", "ad", "b", "aab", "ee"))) as model:
        made = generation(model, n=3, best_of=5)
        found = await choices(made)
    assert [(choice.index, choice.text) for choice in found] == [(0, "aab"), (1, "b"), (2, "ad")]
    assert made.usage.completion_tokens == 11


async def test_best_of_ties(directory: Path) -> None:
    """Equal means are in the order of their numbers, whatever their length."""
    async with live(served(directory, Letters("bb", "b", "ac", "bbb"))) as model:
        assert texts(await choices(generation(model, n=3, best_of=4))) == ["bb", "b", "ac"]


async def test_best_of_several_prompts(directory: Path) -> None:
    """Each prompt has a contest of its own."""
    async with live(served(directory, Letters("b", "a", "d", "c"))) as model:
        assert texts(await choices(generation(model, [5], [6], n=1, best_of=2))) == ["a", "c"]


async def test_best_of_counts_to_the_stop(directory: Path) -> None:
    """Tokens after a stop sequence do not weigh."""
    async with live(served(directory, Letters("ahhh", "bbbb"))) as model:
        assert texts(await choices(generation(model, n=1, best_of=2, stop=("a",)))) == ["a"]


@pytest.mark.parametrize("num_logprobs", [None, 0])
async def test_best_of_keeps_its_logprobs(directory: Path, num_logprobs: int | None) -> None:
    """Log-probabilities that were needed for ranking alone are not in the reply."""
    async with live(served(directory, Letters("b", "a"))) as model:
        found = await choices(generation(model, n=1, best_of=2, num_logprobs=num_logprobs))
    assert (found[0].logprobs is None) == (num_logprobs is None)


async def test_best_of_nothing(directory: Path) -> None:
    """Without tokens all candidates tie."""
    async with live(served(directory, Engine())) as model:
        assert texts(await choices(generation(model, n=2, best_of=3, max_tokens=0))) == ["", ""]


async def test_same_request_id_twice(directory: Path) -> None:
    """Two requests of one id, at the same time, do not meet in the engine."""
    model = served(directory, engine := Engine())
    async with live(model):
        await asyncio.gather(choices(generation(model)), choices(generation(model)))
    assert len({job.id for job in engine.jobs}) == 2
    assert {job.request_id for job in engine.jobs} == {"r"}


# --- pauses ------------------------------------------------------------------------------------------------

WORSE, BETTER = (0, 2), (1, 3)


class Unequal(Engine):
    """Of four candidates the better two end after 12 and 14 tokens, and the worse ones never. Tokens depend
    on the seed and on the place."""

    def __init__(self, *, step_s: float = 0.0) -> None:
        super().__init__(self._letter, step_s=step_s)

    @staticmethod
    def _letter(job: Job, position: int) -> int:
        number = number_of(job.id) % 4
        return 1 if number in BETTER and position == 10 + number else 66 + (job.seed + position) % 8

    def _logprobs(self, job: Job, position: int, token_id: int) -> TopLogprobs:
        number = number_of(job.id) % 4
        return TopLogprobs(1, [token_id], [-0.01 * number - (1.0 if number in BETTER else 1.5)])


PAUSES: dict[str, Any] = {"best_of": 4, "n": 1, "max_tokens": 40, "seed": 5, "num_logprobs": 0, "pause": True}


@pytest.fixture
def early(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(best_of, "AFTER", 4)


async def paused(model: ServedModel, engine: Engine) -> None:
    """Return when the worse candidates are paused."""
    await until(lambda: {number_of(job_id) for job_id in engine.running} == {*BETTER})
    assert model.engine.pending == 4


@pytest.mark.usefixtures("early")
@pytest.mark.parametrize(
    "more",
    [
        *({}, {"stop": ("zz", "z ")}, {"min_tokens": 9}, {"echo": True}, {"n": 2}),
        {"echo": True, "n": 2, "stop": ("hg",), "num_logprobs": None},
    ],
)
async def test_pausing_changes_no_choice(directory: Path, more: dict[str, Any]) -> None:
    """The reply is the one without it, the tokens that the worse ones got are counted once, and those are
    generated while others are not there."""
    asked = PAUSES | more
    async with live(served(directory, plain := Unequal())) as model:
        without = await choices(generation(model, [5, 6], [7], **asked | {"give_up": False}))
    async with live(served(directory, engine := Unequal())) as model:
        made = generation(model, [5, 6], [7], **asked)
        assert await choices(made) == without
        outcomes = made.outcomes()
        assert made.usage.completion_tokens == sum(one.num_tokens for one in outcomes)
        await until(lambda: not engine.running)
        assert (model.engine.pending, model.engine.work.turns._accounts) == (0, {})
    assert len(plain.jobs) == 8
    for job in engine.jobs[8:]:
        assert number_of(job.id) % 4 in WORSE
        assert job.num_output_before >= 4
        assert job.prompt_ids[: -job.num_output_before] in ([5, 6], [7])
    assert "stop" in more or len(engine.jobs) == 12


class Uneven(Engine):
    """Candidates of random log-probabilities, ends and speeds; the first two are functions of the seed and
    the place."""

    def __init__(self, random: Random) -> None:
        super().__init__(self._letter)
        self._random = random

    def _letter(self, job: Job, position: int) -> int:
        self.step_s = self._random.choice((0.0, 0.0, 0.0, 0.0005))
        return Random(f"{job.seed}/{position}").choice((1, *range(66, 86)))

    def _logprobs(self, job: Job, position: int, token_id: int) -> TopLogprobs:
        value = Random(f"{job.seed}/{position}/").choice((0.0, -0.125, -0.5, -2.0)) * (1 + job.seed % 4)
        return TopLogprobs(1, [token_id], [value])


async def test_pausing_changes_no_choice_at_random(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In whatever order the candidates advance, with few places and many, and with an engine that dies."""
    continued = 0
    for seed in range(40):
        random = Random(seed)
        monkeypatch.setattr(best_of, "AFTER", random.randint(1, 8))
        best = random.randint(2, 9)
        asked = {
            "best_of": best,
            "n": random.randint(1, best - 1),
            "seed": seed,
            "num_logprobs": 0,
            "max_tokens": random.randint(1, 30),
            "stop": random.choice(((), ("a",), ("bc", "d"))),
        }
        async with live(served(directory, Uneven(random))) as model:
            without = await choices(generation(model, **asked, give_up=False))
        model = served(directory, engine := Uneven(random))
        model.engine.work.set_places(random.choice((2, 5, 256)))
        model.engine.patience.backoff_s = (0.0,)
        async with live(model):
            deltas: list[Delta] = []
            made = generation(model, **asked, pause=True)
            ended = made.start(deltas.extend)
            if random.random() < 0.5:
                await asyncio.sleep(0.002)
                death, engine.death = engine.death, asyncio.Event()
                death.set()
            await asyncio.wait_for(ended, 30)
            assert fold(made.num_choices, deltas) == without
            assert made.usage.completion_tokens == sum(one.num_tokens for one in made.outcomes())
            assert (model.engine.pending, model.engine.work.turns._accounts) == (0, {})
        continued += sum(job.num_output_before > 0 for job in engine.jobs)
    assert continued > 10


@pytest.mark.usefixtures("early")
async def test_fewer_tokens_with_pauses(directory: Path) -> None:
    """The worse ones are given up sooner, because their sums are smaller when a good mean is known."""
    tokens = []
    for pause in (True, False):
        async with live(served(directory, Unequal())) as model:
            made = generation(model, **PAUSES | {"pause": pause, "max_tokens": 16})
            await choices(made)
            tokens.append(made.usage.completion_tokens)
    assert tokens[0] < tokens[1]


@pytest.mark.usefixtures("early")
async def test_leaving_while_candidates_are_paused(directory: Path) -> None:
    """Nothing of them is left."""
    model = served(directory, engine := Unequal(step_s=0.005))
    async with live(model):
        made = generation(model, **PAUSES)
        made.start(lambda deltas: None)
        await paused(model, engine)
        made.close()
        assert (engine.running, model.engine.pending, model.engine.work.turns._accounts) == (set(), 0, {})


@pytest.mark.usefixtures("early")
async def test_the_engine_dies_while_candidates_are_paused(directory: Path) -> None:
    """The next one has the better ones first, and the choice is the same."""
    async with live(served(directory, Unequal())) as model:
        without = await choices(generation(model, **PAUSES | {"give_up": False}))
    model = served(directory, engine := Unequal(step_s=0.005))
    model.engine.patience.backoff_s = (0.0,)
    async with live(model):
        taken: list[Delta] = []
        ended = generation(model, **PAUSES).start(taken.extend)
        await paused(model, engine)
        before, death = len(engine.jobs), engine.death
        engine.death = asyncio.Event()
        death.set()
        await asyncio.wait_for(ended, 30)
    assert {number_of(job.id) for job in engine.jobs[before : before + 2]} == {*BETTER}
    assert fold(1, taken) == without


@pytest.mark.usefixtures("early")
async def test_the_engine_is_gone_while_candidates_are_paused(directory: Path) -> None:
    """Without another one, the request fails as a whole."""
    model = served(directory, engine := Unequal(step_s=0.005))
    model.engine.work.resume = False
    async with live(model):
        ended = generation(model, **PAUSES).start(lambda deltas: None)
        await paused(model, engine)
        engine.death.set()
        with pytest.raises(ServiceUnavailable):
            await asyncio.wait_for(ended, 30)
        assert model.engine.pending == 0


@pytest.mark.usefixtures("early")
async def test_the_model_is_unloaded_while_candidates_are_paused(directory: Path) -> None:
    """They continue with the others when it is loaded again."""
    model = served(directory, engine := Unequal(step_s=0.005))
    async with live(model):
        ended = generation(model, **PAUSES).start(lambda deltas: None)
        await paused(model, engine)
        await model.engine.unload()
        assert (engine.running, model.engine.pending) == (set(), 4)
        model.engine.load()
        await until(lambda: model.engine.status.ready)
        model.engine.work.go_on()
        await asyncio.wait_for(ended, 30)
        assert model.engine.pending == 0


# --- failures ----------------------------------------------------------------------------------------------


class Refusing(Engine):
    """Fails every job but the first."""

    def submit(self, job: Job, sink: Sink) -> None:
        if self.jobs:
            self.jobs.append(job)
            sink(InvalidRequest("the engine cannot do this"))
        else:
            super().submit(job, sink)


async def test_one_failure_fails_all(directory: Path) -> None:
    """What one candidate fails with is raised, and the others are aborted."""
    model = served(directory, engine := Refusing(lambda job, position: 67, step_s=0.001))
    async with live(model):
        with pytest.raises(InvalidRequest, match="cannot do this"):
            await choices(generation(model, n=2, best_of=2, max_tokens=10_000))
        assert ([number_of(job_id) for job_id in engine.aborted], model.engine.pending) == ([0], 0)


async def test_engine_dies(directory: Path) -> None:
    """The engine's death in the middle of an answer, where nothing is resumed, is a ServiceUnavailable, which
    says to come again."""
    model = served(directory, engine := Engine(lambda job, position: 67, step_s=0.001))
    model.engine.work.resume = False
    async with live(model):
        taken: list[Delta] = []
        ended = generation(model, max_tokens=10_000).start(taken.extend)
        await until(lambda: taken)
        engine.death.set()
        with pytest.raises(ServiceUnavailable) as caught:
            await ended
    assert caught.value.retry_after_s > 0


async def test_engine_is_not_ready(directory: Path) -> None:
    """An engine that has gone between the check and the start fails the request."""
    model = served(directory, Engine())
    with pytest.raises(ServiceUnavailable):
        await choices(generation(model, n=2, best_of=2))
