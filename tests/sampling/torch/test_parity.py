"""Our processor inside a real engine: the same texts as vLLM's own parameters give, and the right
distribution."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sampling.reference import Transforms, probabilities
from server.weights.builtin import builtin_path, is_prepared

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
NUM_PROMPTS, NUM_TOKENS = 50 if FULL else 12, 64
NUM_DRAWS = 50_000 if FULL else 2_000
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
    core.output_queue_thread.join(10)
    core.ctx.destroy(linger=0)


def prompts() -> list[list[int]]:
    """Random ids: the model says something about anything, and repeats itself, which penalties are for."""
    draw = np.random.default_rng(7)
    return [draw.integers(1000, 40_000, size=draw.integers(4, 24)).tolist() for _ in range(NUM_PROMPTS)]


PENALTIES: dict[str, dict[str, float]] = {
    "repetition": {"repetition_penalty": 1.3},
    "frequency": {"frequency_penalty": 0.7},
    "presence": {"presence_penalty": 0.9},
    "all": {"repetition_penalty": 0.8, "frequency_penalty": 1.5, "presence_penalty": -0.4},
}
DRAWN: dict[str, dict[str, Any]] = {
    "min_p": {"min_p": 0.1},
    "logit_bias": {"logit_bias": {28: -100.0, 260: 3.0}},
}
RESUMED = {"repetition_penalty": 1.1, "frequency_penalty": 0.9, "presence_penalty": 0.5}


@pytest.fixture(scope="module")
def texts(llm: Any) -> dict[tuple[str, str], list[list[int]]]:
    """By (parameters, whose): the ids generated for each prompt. All in one go, for the machine's sake."""
    from vllm import SamplingParams

    runs: dict[tuple[str, str], dict[str, Any]] = {
        ("none", "greedy"): {"temperature": 0},
        ("none", "drawn"): {"temperature": 0.8},
        ("repetition", "both"): {
            "temperature": 0,
            **PENALTIES["repetition"],
            "extra_args": PENALTIES["repetition"],
        },
        ("resumed", "ours"): {"temperature": 0, "extra_args": RESUMED},
    }
    for temperature, group in ((0, PENALTIES), (0.8, DRAWN)):
        for name, params in group.items():
            runs[name, "ours"] = {"temperature": temperature, "extra_args": params}
            runs[name, "native"] = {"temperature": temperature, **params}
    inputs, asked = [], []
    for params in runs.values():
        for seed, ids in enumerate(prompts()):
            given = {"seed": seed} if params["temperature"] else {}
            inputs.append({"prompt_token_ids": ids})
            asked.append(
                SamplingParams(max_tokens=NUM_TOKENS, detokenize=False, ignore_eos=True, **params, **given)
            )
    outputs = iter(llm.generate(inputs, asked, use_tqdm=False))
    return {run: [list(next(outputs).outputs[0].token_ids) for _ in range(NUM_PROMPTS)] for run in runs}


@pytest.mark.parametrize("name", PENALTIES)
def test_greedy_text_equals_native(texts: dict[tuple[str, str], list[list[int]]], name: str) -> None:
    """Greedy decoding under our penalties gives the ids that it gives under vLLM's own, for every prompt."""
    assert texts[name, "ours"] == texts[name, "native"]
    assert texts[name, "ours"] != texts["none", "greedy"], "the penalty did nothing"


@pytest.mark.parametrize("name", DRAWN)
def test_sampled_text_equals_native(texts: dict[tuple[str, str], list[list[int]]], name: str) -> None:
    """With seeds, our min_p and logit_bias draw the ids that vLLM's own draw."""
    assert texts[name, "ours"] == texts[name, "native"]
    assert texts[name, "ours"] != texts["none", "drawn"], "the parameter did nothing"


def test_both_at_once_would_show(texts: dict[tuple[str, str], list[list[int]]]) -> None:
    """Ours and vLLM's own together are not ours alone: the tests above see a penalty that acts twice."""
    assert texts["repetition", "both"] != texts["repetition", "ours"]


def test_resumed_request_goes_on_as_if_never_stopped(
    llm: Any, texts: dict[tuple[str, str], list[list[int]]]
) -> None:
    """A prompt whose trailing ids were generated before, and said so, continues with the same ids."""
    from vllm import SamplingParams

    whole, stop_at = texts["resumed", "ours"], 20
    inputs = [
        {"prompt_token_ids": [*ids, *done[:stop_at]]} for ids, done in zip(prompts(), whole, strict=True)
    ]
    params = SamplingParams(
        max_tokens=NUM_TOKENS - stop_at,
        temperature=0,
        detokenize=False,
        ignore_eos=True,
        extra_args=RESUMED | {"num_output_before": stop_at},
    )
    outputs = llm.generate(inputs, params, use_tqdm=False)
    resumed = [list(output.outputs[0].token_ids) for output in outputs]
    equal = sum(new == done[stop_at:] for new, done in zip(resumed, whole, strict=True))
    # Prefilling 20 tokens at once rounds differently from computing them one by one, so one near tie may fall
    # the other way; without num_output_before hardly any text would be the same.
    assert equal >= NUM_PROMPTS - 1


def test_draws_follow_the_specification(llm: Any) -> None:
    """Draws of one token are distributed as the reference says, all transforms on, by chi-square."""
    from vllm import SamplingParams

    prompt = [504, 3575, 282, 4649, 314]
    first = llm.generate(
        [{"prompt_token_ids": prompt}],
        SamplingParams(max_tokens=1, logprobs=20, detokenize=False),
        use_tqdm=False,
    )
    known = sorted(first[0].outputs[0].logprobs[0].items(), key=lambda item: -item[1].logprob)[:20]
    ids, logits = [i for i, _ in known], np.array([entry.logprob for _, entry in known])
    bias = {ids[0]: -2.0, ids[3]: 0.5}
    spec = Transforms(
        logit_bias={0: -2.0, 3: 0.5}, repetition_penalty=1.1, presence_penalty=0.3, temperature=1.4, top_k=10
    )
    seen = [ids.index(i) for i in prompt if i in ids]
    expected = NUM_DRAWS * probabilities(logits, spec, prompt=seen)
    extra = {"logit_bias": bias, "repetition_penalty": 1.1, "presence_penalty": 0.3, "min_p": 1e-6}
    draws = [
        SamplingParams(max_tokens=1, temperature=1.4, top_k=10, seed=k, detokenize=False, extra_args=extra)
        for k in range(NUM_DRAWS)
    ]
    outputs = llm.generate([{"prompt_token_ids": prompt}] * NUM_DRAWS, draws, use_tqdm=False)
    drawn = np.array([ids.index(output.outputs[0].token_ids[0]) for output in outputs])
    observed, kept = np.bincount(drawn, minlength=20), expected > 0
    assert not observed[~kept].any(), "a token outside the top 10 was drawn"
    assert float(((observed - expected)[kept] ** 2 / expected[kept]).sum()) < CHI_SQUARE_LIMIT
