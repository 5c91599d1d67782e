"""The fast form of the twin's sampling against the reference, and what it says of its choices."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from sampling import reference
from sampling.reference import Transforms
from twin.language.model import Language
from twin.sampler import LIKELY, Row, Sampler, shape_of

PROMPT = [300, 400, 500]
SHAPES = [
    Transforms(),
    Transforms(temperature=0.0),
    Transforms(temperature=0.7, top_p=0.9),
    Transforms(temperature=1.5, top_k=40),
    Transforms(min_p=0.05),
]
PENALISED = [
    Transforms(repetition_penalty=1.3),
    Transforms(frequency_penalty=0.5, temperature=0.8),
    Transforms(presence_penalty=-1.0, top_k=50),
    Transforms(logit_bias={17: 3.0, 300: -100.0}),
    Transforms(logit_bias={17: 100.0}, temperature=0.0),
]


def row(transforms: Transforms, seed: int, length: int = 0) -> Row:
    output = [random.Random(seed).randrange(4096) for _ in range(length)]
    return Row([*PROMPT, *output], len(PROMPT), transforms, seed, shape_of(transforms))


@pytest.mark.parametrize("transforms", [*SHAPES, *PENALISED], ids=str)
def test_choice_is_the_references(language: Language, transforms: Transforms) -> None:
    """For many seeds, positions and contexts, all in one step."""
    rows = [row(transforms, seed, length=seed % 7) for seed in range(120)]
    expected = []
    for one in rows:
        logits = np.log(language.probabilities(one.tokens)) + LIKELY
        output = one.tokens[len(PROMPT) :]
        found = reference.probabilities(logits, transforms, PROMPT, output)
        is_greedy = transforms.temperature == 0.0
        expected.append(
            int(found.argmax()) if is_greedy else reference.draw(found, one.seed, position=len(output))
        )
    assert Sampler(language).choose(rows) == expected


def test_choice_does_not_depend_on_the_batch(language: Language) -> None:
    """Nor on what was kept of earlier steps."""
    sampler = Sampler(language)
    rows = [row(transforms, seed) for seed in range(20) for transforms in (*SHAPES, *PENALISED)]
    together = sampler.choose(rows)
    assert [Sampler(language).choose([one])[0] for one in rows[:30]] == together[:30]
    assert sampler.choose(rows[::-1])[::-1] == together


def test_ids_that_are_held_back_do_not_come(language: Language) -> None:
    """Until min_tokens, say."""
    sampler = Sampler(language)
    free = [row(Transforms(), seed) for seed in range(50)]
    chosen = sampler.choose(free)
    held = [replace(one, held_back=(token_id,)) for one, token_id in zip(free, chosen, strict=True)]
    assert all(a != b for a, b in zip(sampler.choose(held), chosen, strict=True))


def test_draws_follow_the_distribution(language: Language) -> None:
    """Of 4,000 draws the likeliest token has its share, within five standard deviations."""
    chosen = Sampler(language).choose([row(Transforms(), seed) for seed in range(4000)])
    found = language.probabilities(PROMPT)
    share = found.max()
    error = 5 * np.sqrt(share * (1 - share) / 4000)
    assert chosen.count(int(found.argmax())) / 4000 == pytest.approx(share, abs=error)


def test_what_is_kept_is_bounded(language: Language, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest makes room, and choices are the same without it."""
    monkeypatch.setattr("twin.sampler.MEMORY_BYTES", 10 * 8 * 4096)
    sampler = Sampler(language)
    rows = [row(Transforms(), seed, length=3) for seed in range(40)]
    assert sampler.choose(rows) == Sampler(language).choose(rows)
    assert len(sampler._distributions) == 10


def test_logprobs_are_the_languages(language: Language) -> None:
    """The token's own first, then the likeliest; all of them together are certain."""
    sampler = Sampler(language)
    ids, values = sampler.logprobs((400, 500), 7, 4096)
    assert ids[0] == 7
    assert values[0] == values[1:][ids[1:].index(7)]
    assert values[1:] == sorted(values[1:], reverse=True)
    assert np.exp(values[1:]).sum() == pytest.approx(1)
    assert sampler.logprobs((400, 500), 7, 0) == ([7], [values[0]])


def test_prompts_score_is_what_the_tokens_had_been(language: Language) -> None:
    """Each by those before it, the first one by none."""
    sampler = Sampler(language)
    found = sampler.prompt_logprobs([3, 4, 5, 6], 0)
    singles = [sampler.logprobs(before, k, 0)[1][0] for before, k in (((3,), 4), ((3, 4), 5), ((4, 5), 6))]
    assert (found.token_ids, found.logprobs) == ([4, 5, 6], singles)
