"""Our processor inside a real engine: the same greedy texts as vLLM's own parameters give, and the right
distribution of what is drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from sampling.reference import Transforms, probabilities
from server.weights.builtin import builtin_path, is_prepared


@dataclass(frozen=True)
class Scale:
    num_prompts: int
    num_tokens: int
    num_draws: int


# Two cores need six minutes for the 50 prompts of docs/sampling.md, and about ten more for 50,000 draws.
# At full scale say also `-o faulthandler_timeout=4000`, or the run ends in the middle of a test.
FULL = os.environ.get("VERBATIM_TEST_SCALE") == "full"
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(3600 if FULL else 600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

MODEL = "smollm2-135m-instruct"
SCALES = [
    pytest.param(Scale(50, 64, 50_000) if FULL else Scale(5, 32, 400), id="full" if FULL else "short"),
    pytest.param(Scale(12, 64, 2_000), id="long", marks=pytest.mark.long),
]
# The 0.9999 quantile of chi-square with 9 degrees of freedom: of 10,000 right samplers, one would fail. The
# seeds are fixed, so that a right one does not fail today and pass tomorrow.
CHI_SQUARE_LIMIT = 33.7


@pytest.fixture(scope="module")
def llm() -> Iterator[Any]:
    """The built-in model on an engine with our processor."""
    pytest.importorskip("vllm")
    if not is_prepared(MODEL):
        pytest.skip("the built-in model is not prepared: make setup")
    from vllm import LLM

    engine = LLM(
        str(builtin_path(MODEL)),
        skip_tokenizer_init=True,
        enforce_eager=True,
        dtype="float32",  # in bfloat16, what else is in the batch moves logits across near ties
        max_model_len=256,
        max_num_seqs=256,
        enable_prefix_caching=False,  # or the second of two runs would prefill less, and round differently
        kv_cache_memory_bytes=2**31,
        logits_processors=["sampling.runner_v1:SamplingProcessor"],
    )
    yield engine
    core = engine.llm_engine.engine_core
    core.shutdown()
    # vLLM leaves its sockets' context to the garbage collector, whose warning would fail some later test.
    core.output_queue_thread.join(30)
    core.ctx.destroy(linger=0)


@pytest.fixture(scope="module", params=SCALES)
def scale(request: pytest.FixtureRequest) -> Scale:
    found: Scale = request.param
    return found


def prompts(scale: Scale) -> list[list[int]]:
    """Random ids: the model says something about anything, and repeats itself, which penalties are for."""
    draw = np.random.default_rng(7)
    return [draw.integers(1000, 40_000, size=draw.integers(4, 24)).tolist() for _ in range(scale.num_prompts)]


def whole(**params: Any) -> Any:
    """vLLM's parameters as the server sends them: it takes the largest logit."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0, detokenize=False, ignore_eos=True, **params)


PENALTIES: dict[str, dict[str, Any]] = {
    "repetition": {"repetition_penalty": 1.3},
    "frequency": {"frequency_penalty": 0.7},
    "presence": {"presence_penalty": 0.9},
    "all": {"repetition_penalty": 0.8, "frequency_penalty": 1.5, "presence_penalty": -0.4},
    "bias": {"logit_bias": {28: -100.0, 260: 3.0}},
    "allowed": {"allowed_token_ids": [*range(0, 2000, 3)]},
}
BANS = {"allowed_token_ids": [*range(0, 2000, 2)], "bad_words": [[28, 260], [198, 198], [260, 1000]]}
RESUMED = {"repetition_penalty": 1.1, "frequency_penalty": 0.9, "presence_penalty": 0.5, **BANS}
DRAWN = {"seed": 2**62 + 5, "temperature": 0.8, "top_k": 200, "top_p": 0.95, "min_p": 0.001}


@pytest.fixture(scope="module")
def texts(llm: Any, scale: Scale) -> dict[tuple[str, str], list[list[int]]]:
    """By (parameters, whose): the ids generated for each prompt. All in one go, for the machine's sake."""
    runs: dict[tuple[str, str], dict[str, Any]] = {
        ("none", "greedy"): {},
        ("repetition", "both"): {**PENALTIES["repetition"], "extra_args": PENALTIES["repetition"]},
        ("resumed", "greedy"): {"extra_args": RESUMED},
        ("resumed", "drawn"): {"extra_args": RESUMED | DRAWN},
    }
    for name, params in PENALTIES.items():
        runs[name, "ours"], runs[name, "native"] = {"extra_args": params}, params
    inputs, asked = [], []
    for params in runs.values():
        for ids in prompts(scale):
            inputs.append({"prompt_token_ids": ids})
            asked.append(whole(max_tokens=scale.num_tokens, **params))
    outputs = iter(llm.generate(inputs, asked, use_tqdm=False))
    return {run: [list(next(outputs).outputs[0].token_ids) for _ in range(scale.num_prompts)] for run in runs}


@pytest.mark.parametrize("name", PENALTIES)
def test_greedy_text_equals_native(texts: dict[tuple[str, str], list[list[int]]], name: str) -> None:
    """Greedy decoding under our penalties gives the ids that it gives under vLLM's own, for every prompt."""
    assert texts[name, "ours"] == texts[name, "native"]
    assert texts[name, "ours"] != texts["none", "greedy"], "the penalty did nothing"


def test_both_at_once_would_show(texts: dict[tuple[str, str], list[list[int]]]) -> None:
    """Ours and vLLM's own together are not ours alone: the tests above see a penalty that acts twice."""
    assert texts["repetition", "both"] != texts["repetition", "ours"]


@pytest.mark.parametrize(("how", "args"), [("greedy", RESUMED), ("drawn", RESUMED | DRAWN)])
def test_resumed_request_goes_on_as_if_never_stopped(
    llm: Any,
    scale: Scale,
    texts: dict[tuple[str, str], list[list[int]]],
    how: str,
    args: dict[str, Any],
) -> None:
    """A prompt whose trailing ids were generated before, and said so, continues with the same ids."""
    done, stop_at = texts["resumed", how], 20
    inputs = [
        {"prompt_token_ids": [*ids, *text[:stop_at]]} for ids, text in zip(prompts(scale), done, strict=True)
    ]
    params = whole(max_tokens=scale.num_tokens - stop_at, extra_args=args | {"num_output_before": stop_at})
    outputs = llm.generate(inputs, params, use_tqdm=False)
    resumed = [list(output.outputs[0].token_ids) for output in outputs]
    equal = sum(new == text[stop_at:] for new, text in zip(resumed, done, strict=True))
    # Prefilling 20 tokens at once rounds differently from computing them one by one, so one near tie may fall
    # the other way; without num_output_before hardly any text would be the same.
    assert equal >= scale.num_prompts - 1


def test_draws_follow_the_specification(llm: Any, scale: Scale) -> None:
    """Draws of one token are distributed as the reference says, all transforms on, by chi-square."""
    prompt = [504, 3575, 282, 4649, 314]
    first = llm.generate([{"prompt_token_ids": prompt}], whole(max_tokens=1, logprobs=20), use_tqdm=False)
    known = sorted(first[0].outputs[0].logprobs[0].items(), key=lambda item: -item[1].logprob)[:20]
    ids, logits = [i for i, _ in known], np.array([entry.logprob for _, entry in known])
    bias = {ids[0]: -2.0, ids[3]: 0.5}
    spec = Transforms(
        logit_bias={0: -2.0, 3: 0.5}, repetition_penalty=1.1, presence_penalty=0.3, temperature=1.4, top_k=10
    )
    seen = [ids.index(i) for i in prompt if i in ids]
    expected = scale.num_draws * probabilities(logits, spec, prompt=seen)
    extra = {"logit_bias": bias, "repetition_penalty": 1.1, "presence_penalty": 0.3, "min_p": 1e-6}
    extra |= {"temperature": 1.4, "top_k": 10}
    draws = [whole(max_tokens=1, extra_args=extra | {"seed": seed}) for seed in range(scale.num_draws)]
    outputs = llm.generate([{"prompt_token_ids": prompt}] * scale.num_draws, draws, use_tqdm=False)
    drawn = np.array([ids.index(output.outputs[0].token_ids[0]) for output in outputs])
    observed, kept = np.bincount(drawn, minlength=20), expected > 0
    assert expected[kept].min() > 5, "too few draws for chi-square"
    assert not observed[~kept].any(), "a token outside the top 10 was drawn"
    assert float(((observed - expected)[kept] ** 2 / expected[kept]).sum()) < CHI_SQUARE_LIMIT


def test_logprobs_are_the_raw_models(llm: Any) -> None:
    """Bias, penalties, truncation and the draw leave no trace in them; the drawn token is among them."""
    prompt = [{"prompt_token_ids": [504, 3575, 282, 4649, 314]}]

    def first(extra_args: dict[str, Any]) -> Any:
        asked = whole(max_tokens=1, logprobs=20, extra_args=extra_args or None)
        return llm.generate(prompt, asked, use_tqdm=False)[0].outputs[0]

    plain = first({})
    bias = {"logit_bias": {plain.token_ids[0]: -100.0}}
    drawn = first({**bias, "repetition_penalty": 1.5, "temperature": 1.5, "seed": 3, "top_k": 40})
    assert drawn.token_ids != plain.token_ids
    assert drawn.token_ids[0] in drawn.logprobs[0]
    for token_id, entry in plain.logprobs[0].items():
        assert drawn.logprobs[0][token_id].logprob == pytest.approx(entry.logprob, abs=1e-4)
