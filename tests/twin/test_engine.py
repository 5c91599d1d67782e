"""The twin's engine: steps of a batch, ends, prompts, and fixed replies."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from server.contract.params import GenerationParams
from server.engine.base import EngineOutput, Job, Phase, Status
from tests.helpers import until
from twin.engine import Reply, TwinEngine
from twin.language.model import Language
from twin.latency import Latency, Profile
from twin.sampler import Sampler

EOS = 0
PROMPT = [300, 400, 500]


class Asked:
    """An engine, and all that came of its jobs."""

    def __init__(self, language: Language, profile: Profile = Profile(), reply: Reply | None = None) -> None:  # noqa: B008
        self.engine = TwinEngine(Sampler(language), Latency(profile), reply)
        self.got: dict[str, list[EngineOutput]] = {}

    def submit(self, name: str, prompt: list[int] = PROMPT, max_tokens: int = 8, **more: Any) -> None:
        both = set(GenerationParams.__struct_fields__) - set(Job.__struct_fields__)
        fields = {name: more.pop(name) for name in list(more) if name in both}
        fields = {"temperature": 0.0, "ignore_eos": True} | fields
        self.got[name] = []
        params = GenerationParams(**fields)
        job = Job(name, name, prompt, params, (EOS,), max_tokens, seed=more.pop("job_seed", 1), **more)
        self.engine.submit(job, self.got[name].append)  # type: ignore[arg-type]

    async def tokens(self, name: str) -> list[int]:
        await until(lambda: self.got[name] and self.got[name][-1].finish_reason)
        return [token_id for output in self.got[name] for token_id in output.token_ids]


@pytest.fixture
async def asked(language: Language) -> Asked:
    return Asked(language)


async def test_life(asked: Asked) -> None:
    """It is ready at once, and nothing comes after its end."""
    seen: list[Status] = []
    await asked.engine.start(seen.append)
    assert [status.phase for status in seen] == [Phase.READY]
    asked.submit("a", max_tokens=10**6)
    await until(lambda: asked.got["a"])
    await asked.engine.close()
    num = len(asked.got["a"])
    await asyncio.sleep(0.02)
    assert len(asked.got["a"]) == num


async def test_one_token_a_step_to_the_length(asked: Asked) -> None:
    """Of each that runs, whatever else does."""
    for k in range(5):
        asked.submit(f"{k}", max_tokens=5 + k)
    alone = [await asked.tokens(f"{k}") for k in range(5)]
    assert [len(tokens) for tokens in alone] == [5, 6, 7, 8, 9]
    assert all(tokens == alone[-1][: len(tokens)] for tokens in alone)
    assert all(len(output.token_ids) == 1 for output in asked.got["4"])
    assert asked.got["0"][-1].finish_reason == "length"


async def test_given_up_job_gets_nothing_more(asked: Asked) -> None:
    """Also in the same step, from another one's sink."""
    asked.submit("a", max_tokens=10**6)
    await until(lambda: asked.got["a"])
    asked.engine.abort("a")
    asked.engine.abort("unknown")
    num = len(asked.got["a"])
    asked.submit("b")
    await asked.tokens("b")
    assert len(asked.got["a"]) == num


async def test_stop_ids_end_it_and_min_tokens_holds_them_back(asked: Asked) -> None:
    """The token that ends it is the last one."""
    asked.submit("plain")
    third = (await asked.tokens("plain"))[2]
    asked.submit("stops", stop_token_ids=(third,))
    assert (await asked.tokens("stops"))[-1] == third
    assert asked.got["stops"][-1].finish_reason == "stop"
    asked.submit("held", stop_token_ids=(third,), min_tokens=6)
    assert third not in (await asked.tokens("held"))[:6]


async def test_end_of_text_ends_it_unless_it_is_ignored(asked: Asked) -> None:
    """As eos_ids say."""
    asked.submit("ends", max_tokens=400, ignore_eos=False, temperature=1.0)
    tokens = await asked.tokens("ends")
    assert (tokens[-1], asked.got["ends"][-1].finish_reason) == (EOS, "stop")


async def test_resumed_job_goes_on_as_it_would_have(asked: Asked) -> None:
    """From any token on: drawn, penalised, and counted as output."""
    fields = {"temperature": 1.0, "frequency_penalty": 1.0, "max_tokens": 12}
    asked.submit("whole", **fields)
    whole = await asked.tokens("whole")
    for at in (1, 5, 11):
        rest = fields | {"max_tokens": 12 - at}
        asked.submit(f"from {at}", [*PROMPT, *whole[:at]], num_output_before=at, **rest)
        assert await asked.tokens(f"from {at}") == whole[at:]


async def test_step_that_fails_is_the_engines_death(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs it is told, and its jobs can go on in another one."""

    def fails(self: Sampler, rows: object) -> list[int]:
        raise ValueError("no distribution")

    monkeypatch.setattr(Sampler, "choose", fails)
    asked.submit("a")
    death = await asyncio.wait_for(asked.engine.died(), 30)
    assert death.how == "a step has failed: ValueError: no distribution"


async def test_logprobs_are_there_where_they_are_asked_for(asked: Asked) -> None:
    """Of each token, and once of the prompt; also of a prompt alone."""
    asked.submit("a", num_logprobs=3, prompt_logprobs=True)
    await asked.tokens("a")
    first, *others = asked.got["a"]
    assert first.prompt_logprobs is not None
    assert len(first.prompt_logprobs.sampled) == len(PROMPT) - 1
    assert all(output.prompt_logprobs is None for output in others)
    assert all(output.logprobs and len(output.logprobs.token_ids) == 4 for output in asked.got["a"])
    asked.submit("scored", max_tokens=0, num_logprobs=0, prompt_logprobs=True)
    assert await asked.tokens("scored") == []
    (only,) = asked.got["scored"]
    assert only.prompt_logprobs is not None
    assert only.prompt_logprobs.sampled == first.prompt_logprobs.sampled
    assert all(-math.inf < value < 0 for value in only.prompt_logprobs.sampled)


async def test_long_prompt_keeps_the_first_token_waiting(language: Language) -> None:
    """It is computed in parts, and others go on meanwhile."""
    asked = Asked(language, Profile(step_s=0.001, prefill=10_000, chunk=100))
    asked.submit("runs", max_tokens=10**6)
    await until(lambda: asked.got["runs"])
    before = len(asked.got["runs"])
    asked.submit("long", [300] * 1000, max_tokens=1)
    await asked.tokens("long")
    assert len(asked.got["runs"]) - before >= 9
    await asked.engine.close()


async def test_fixed_reply_comes_and_ends(language: Language) -> None:
    """With the end of the text after it, or the language's own where that is ignored."""
    asked = Asked(language, reply=lambda prompt: [7, 8, 9] if prompt == PROMPT else None)
    asked.submit("fixed", ignore_eos=False, temperature=1.0)
    assert await asked.tokens("fixed") == [7, 8, 9, EOS]
    assert asked.got["fixed"][-1].finish_reason == "stop"
    asked.submit("longer")
    assert (await asked.tokens("longer"))[:3] == [7, 8, 9]
    asked.submit("held", ignore_eos=False, min_tokens=6, max_tokens=20)
    held = await asked.tokens("held")
    assert (held[:3], held[6:], held.count(EOS)) == ([7, 8, 9], [EOS], 1)
    asked.submit("other", [300])
    assert (await asked.tokens("other"))[:3] != [7, 8, 9]
