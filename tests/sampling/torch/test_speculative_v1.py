"""Verification of drafts beside vLLM's own sampler and processors, against a token at a time without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the sampler's torch is part of the engine's packages")
pytest.importorskip("vllm", reason="the verification is of vLLM's runner")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

VOCAB_SIZE, LENGTH, END = 300, 24, 7
KINDS: list[dict[str, Any]] = [
    {},
    {"seed": 3, "temperature": 0.8},
    {"seed": 4, "temperature": 1.5, "top_k": 9, "top_p": 0.9},
    {"seed": 5, "temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.3},
    {"frequency_penalty": 0.6, "presence_penalty": -0.4, "logit_bias": {11: 1.0}},
    {"seed": 6, "temperature": 1.0, "bad_words": [[5], [9, 12]], "allowed_token_ids": [*range(200)]},
    {"seed": 8, "temperature": 1.2, "logprob_token_ids": [2, 250]},
]


@dataclass
class Request:
    extra_args: dict[str, Any]
    min_tokens: int
    prompt: list[int]
    output: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)


def model(history: list[int]) -> Any:
    """Logits that depend on the last two tokens; the end of the text is often the likeliest."""
    rng = np.random.default_rng(sum((k + 1) * token_id for k, token_id in enumerate(history[-2:])) % 23)
    logits = rng.normal(size=VOCAB_SIZE) * 3
    logits[END] += 9
    return logits.astype(np.float32)


class Runner:
    """What vLLM's runner does with a batch around its sampler."""

    def __init__(self, requests: list[Request]) -> None:
        from vllm import SamplingParams
        from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessors
        from vllm.v1.sample.logits_processor.builtin import MinTokensLogitsProcessor
        from vllm.v1.sample.sampler import Sampler

        from sampling.runner_v1 import SamplingProcessor
        from sampling.speculative_v1 import Verification

        device = torch.device("cpu")
        ours = SamplingProcessor(None, device, is_pin_memory=False)
        self.processors = LogitsProcessors([MinTokensLogitsProcessor(None, device, False), ours])
        self.verification = Verification(Sampler(), ours)
        self.requests = requests
        added = [
            (
                number,
                SamplingParams(
                    temperature=0,
                    min_tokens=one.min_tokens,
                    stop_token_ids=[END],
                    extra_args=one.extra_args,
                ),
                one.prompt,
                one.output,
            )
            for number, one in enumerate(requests)
        ]
        self.update: Any = BatchUpdate(batch_size=len(requests), removed=[], added=added, moved=[])

    def step(self, drafts: list[list[int]], *, broken: int | None = None) -> list[int]:
        """broken: a token after which logits are NaN. Returns the NaN logits of each request."""
        from vllm.v1.sample.rejection_sampler import RejectionSampler
        from vllm.v1.spec_decode.metadata import SpecDecodeMetadata

        for processor in self.processors.all:
            processor.update_state(self.update)
        self.update = None
        histories = [
            [*one.prompt, *one.output, *draft[:depth]]
            for one, draft in zip(self.requests, drafts, strict=True)
            for depth in range(len(draft) + 1)
        ]
        logits = torch.from_numpy(np.stack([model(history) for history in histories]))
        logits[[history[-1] == broken for history in histories]] = torch.nan
        metadata = SpecDecodeMetadata.make_dummy(drafts, torch.device("cpu"))
        found = self.verification(metadata, None, logits, self._sampling())
        texts, logprobs = RejectionSampler.parse_output(
            found.sampled_token_ids, VOCAB_SIZE, (), found.logprobs_tensors
        )
        for number, (one, text) in enumerate(zip(self.requests, texts, strict=True)):
            one.output.extend(text)
            ids, values, *_ = logprobs.slice_request(number, len(text))
            one.logprobs.extend(zip(ids.tolist(), values.tolist(), strict=True))
        return self.verification.count_nans(logits)

    def _sampling(self) -> Any:
        from vllm.v1.sample.metadata import SamplingMetadata

        return SamplingMetadata(
            temperature=None,
            all_greedy=True,
            all_random=False,
            top_p=None,
            top_k=None,
            generators={},
            max_num_logprobs=2,
            no_penalties=True,
            prompt_token_ids=None,
            frequency_penalties=torch.empty(0),
            presence_penalties=torch.empty(0),
            repetition_penalties=torch.empty(0),
            output_token_ids=[one.output for one in self.requests],
            allowed_token_ids_mask=None,
            bad_words_token_ids={},
            logitsprocs=self.processors,
        )


def requests() -> list[Request]:
    """Of each kind, two; the second one of which was resumed and may not end at once."""
    return [
        Request(kind | resumed, min_tokens, [21, 22, 5, 9])
        for kind in KINDS
        for resumed, min_tokens in (({}, 0), ({"num_output_before": 2}, 9))
    ]


@pytest.fixture(scope="module")
def plain() -> list[Request]:
    """A token at a time."""
    runner = Runner(requests())
    for _ in range(LENGTH):
        runner.step([[] for _ in runner.requests])
    return runner.requests


def test_drafts_change_nothing(plain: list[Request]) -> None:
    """Texts and log-probabilities are those without, whatever part of the drafts is right."""
    rng = np.random.default_rng(1)
    runner, num_steps = Runner(requests()), 0
    while min(len(one.output) for one in runner.requests) < LENGTH:
        drafts = []
        for one, whole in zip(runner.requests, plain, strict=True):
            right = whole.output[len(one.output) : len(one.output) + rng.integers(0, 5)]
            drafts.append([*right, *rng.integers(0, VOCAB_SIZE, rng.integers(0, 3)).tolist()])
        runner.step(drafts)
        num_steps += 1
    assert num_steps < LENGTH
    for one, whole in zip(runner.requests, plain, strict=True):
        assert one.output[:LENGTH] == whole.output
        for (ids, values), (whole_ids, whole_values) in zip(one.logprobs, whole.logprobs, strict=False):
            assert ids == whole_ids
            assert values == pytest.approx(whole_values, abs=1e-5)


def test_only_what_is_accepted_can_be_broken(plain: list[Request]) -> None:
    """NaN counts against the request in whose text it stands, and not where a wrong draft has led there."""
    broken = VOCAB_SIZE - 1
    assert all(broken not in one.output for one in plain)
    runner = Runner(requests()[:3])
    runner.requests[2].prompt[-1] = broken
    assert runner.step([[broken, 3], [], [1]], broken=broken) == [0, 0, VOCAB_SIZE]
