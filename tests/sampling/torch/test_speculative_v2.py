"""Verification of drafts on vLLM's V2 runner: its sampler, its rejection sampler and its state, with our
processor, against a token at a time without drafts. All kernels, vLLM's and ours, are interpreted.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.sampling.torch.interpreter import IS_CHILD, interpret_vllms_kernels, interpreted

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # of NaN, in the interpreter
]
__all__ = ["interpreted"]

VOCAB_SIZE, LENGTH, END, MAX_DRAFTS = 120, 7, 7, 4
NAMED = {"logprob_token_ids": [2, 90, 119]}
KINDS: list[dict[str, Any]] = [
    {},
    {"seed": 3, "temperature": 0.8},
    {"seed": 4, "temperature": 1.5, "top_k": 9, "top_p": 0.9},
    {"seed": 5, "temperature": 0.7, "min_p": 0.05, "repetition_penalty": 1.3},
    {"frequency_penalty": 0.6, "presence_penalty": -0.4, "logit_bias": {11: 1.0}},
    {"seed": 6, "temperature": 1.0, "bad_words": [[5], [9, 12]], "allowed_token_ids": [*range(80)]},
    {"seed": 8, "temperature": 1.2, **NAMED},
]
BROKEN = VOCAB_SIZE - 1  # a token after which logits are NaN, where a test wants that


@dataclass
class Request:
    extra_args: dict[str, Any]
    min_tokens: int
    prompt: list[int]
    output: list[int] = field(default_factory=list)
    logprobs: list[tuple[list[int], list[float]]] = field(default_factory=list)


def requests(kinds: list[dict[str, Any]] = KINDS) -> list[Request]:
    """Of each kind one; every other one was resumed and may not end at once."""
    resumed = ({}, {"num_output_before": 2})
    return [
        Request(kind | resumed[number % 2], 5 * (number % 2), [21, 22, 5, 9])
        for number, kind in enumerate(kinds)
    ]


def model(history: list[int]) -> Any:
    """Logits that depend on the last two tokens, in steps so coarse that the largest one is often two. The
    end of the text is often the likeliest."""
    rng = np.random.default_rng(sum((k + 1) * token_id for k, token_id in enumerate(history[-2:])) % 23)
    logits = np.round(rng.normal(size=VOCAB_SIZE) * 3)
    logits[END] += 9
    return logits.astype(np.float32)


class Runner:
    """What vLLM's V2 runner does with a batch around its samplers."""

    def __init__(self, requests: list[Request], device: str) -> None:
        if IS_CHILD:
            interpret_vllms_kernels()
        from vllm import SamplingParams
        from vllm.v1.worker.gpu.sample import sampler
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState
        from vllm.v1.worker.gpu.spec_decode import rejection_sampler
        from vllm.v1.worker.gpu.states import RequestState

        from sampling.runner_v2 import SamplingProcessor
        from sampling.speculative_v2 import Verification

        for module in (sampler, rejection_sampler) if IS_CHILD else ():  # it calls CUDA's own library
            module.get_num_nans = lambda logits: torch.isnan(logits).sum(-1, dtype=torch.int32)
        num, self.device = len(requests), torch.device(device)
        self.state = RequestState(num, 64, 64, MAX_DRAFTS, VOCAB_SIZE, self.device)
        seen = LogitsProcRequestState.from_request_state(self.state)
        config = SimpleNamespace(
            speculative_config=SimpleNamespace(
                num_speculative_tokens=MAX_DRAFTS,
                enable_adaptive_verification=False,
                rejection_sample_method="standard",
            ),
            reasoning_config=None,
            model_config=None,
        )
        ours = SamplingProcessor(config, seen)
        self.sampler = sampler.Sampler(
            config, num, VOCAB_SIZE, self.device, seen, custom_logits_processors=[ours]
        )
        self.sampler.req_states = self.state
        self.sampler.compute_nans = True
        self.verification = Verification(self.sampler, config.speculative_config, self.device)
        self.requests, self.slots = requests, []
        for number, one in enumerate(requests):
            self.state.add_request(str(number), len(one.prompt), one.prompt, len(one.prompt) - 1, LENGTH)
            slot = self.state.req_id_to_index[str(number)]
            self.slots.append(slot)
            params = SamplingParams(
                temperature=0,
                min_tokens=one.min_tokens,
                stop_token_ids=[END],
                logprobs=3,
                extra_args=one.extra_args,
            )
            self.sampler.add_request(slot, params)
        self.state.apply_staged_writes()
        self.sampler.apply_staged_writes()

    def step(self, drafts: list[list[int]], *, broken: int | None = None) -> list[int]:
        """broken: a token after which logits are NaN. Returns the NaN logits of each request."""
        histories = [
            [*one.prompt, *one.output, *draft[:depth]]
            for one, draft in zip(self.requests, drafts, strict=True)
            for depth in range(len(draft) + 1)
        ]
        logits = torch.from_numpy(np.stack([model(history) for history in histories]))
        logits[[history[-1] == broken for history in histories]] = torch.nan
        logits = logits.to(self.device)
        batch = self._batch(drafts, histories)
        use = self.verification if any(drafts) else self.sampler
        found = use(logits, batch)
        num_sampled = found.num_sampled.tolist()
        told = found.logprobs_tensors.tolists()
        for number, (one, num) in enumerate(zip(self.requests, num_sampled, strict=True)):
            text = found.sampled_token_ids[number, :num].tolist()
            slot, end = self.slots[number], len(one.prompt) + len(one.output)
            self.state.all_token_ids.gpu[slot, end : end + num] = torch.tensor(text, dtype=torch.int32).to(
                self.device
            )
            self.state.total_len.gpu[slot] += num
            one.output.extend(text)
            ids, values, *_ = told.slice_request(number, num)
            one.logprobs.extend(zip(ids.tolist(), values.tolist(), strict=True))
        counts: list[int] = found.num_nans.tolist()
        return counts

    def _batch(self, drafts: list[list[int]], histories: list[list[int]]) -> Any:
        """vLLM's InputBatch, as far as its samplers look at it."""
        num_rows = np.array([len(draft) + 1 for draft in drafts])
        starts = np.concatenate([[0], np.cumsum(num_rows)]).astype(np.int32)
        slots = np.array(self.slots)
        lengths = np.array([len(one.prompt) + len(one.output) for one in self.requests])
        places = np.concatenate([np.arange(num) for num in num_rows])
        on_device = {
            "idx_mapping": slots,
            "expanded_idx_mapping": np.repeat(slots, num_rows),
            "expanded_local_pos": places.astype(np.int32),
            "cu_num_logits": starts,
            "logits_indices": np.arange(len(histories)),
            "input_ids": np.array([history[-1] for history in histories], np.int32),
            "positions": np.array([len(history) - 1 for history in histories]),
            "seq_lens": (lengths + num_rows - 1).astype(np.int32),
        }
        return SimpleNamespace(
            num_reqs=len(drafts),
            idx_mapping_np=slots,
            cu_num_logits_np=starts,
            seq_lens_cpu_upper_bound=torch.from_numpy(on_device["seq_lens"]),
            **{name: torch.from_numpy(values).to(self.device) for name, values in on_device.items()},
        )


@functools.cache  # a fixture would be made in the parent too
def plain(device: str) -> list[Request]:
    """A token at a time, by vLLM's sampler alone."""
    runner = Runner(requests(), device)
    for _ in range(LENGTH):
        runner.step([[] for _ in runner.requests])
    return runner.requests


@pytest.fixture
def device() -> str:
    return "cpu"


def drafted(device: str, seed: int) -> tuple[list[Request], int]:
    """The same requests with drafts, which are right for a while, then not; and how many steps it took."""
    rng, runner, num_steps = np.random.default_rng(seed), Runner(requests(), device), 0
    while min(len(one.output) for one in runner.requests) < LENGTH:
        drafts = []
        for one, whole in zip(runner.requests, plain(device), strict=True):
            right = whole.output[len(one.output) : len(one.output) + rng.integers(0, MAX_DRAFTS)]
            drafts.append([*right, *rng.integers(0, VOCAB_SIZE, rng.integers(0, 2)).tolist()])
        runner.step(drafts)
        num_steps += 1
    return runner.requests, num_steps


def assert_same(found: list[Request], plain: list[Request]) -> None:
    for one, whole in zip(found, plain, strict=True):
        assert one.output[:LENGTH] == whole.output
        for (ids, values), (whole_ids, whole_values) in zip(one.logprobs, whole.logprobs, strict=False):
            assert ids[0] == whole_ids[0]  # of the others, equals may come in any order
            assert values == pytest.approx(whole_values, abs=1e-5)


@pytest.mark.long
def test_drafts_change_nothing(device: str) -> None:
    """Texts, log-probabilities and those of named tokens are the same, whatever part of the drafts is right;
    of two largest logits the same one is taken."""
    found, num_steps = drafted(device, 1)
    assert num_steps < LENGTH
    assert_same(found, plain(device))
    assert {tuple(ids[1:]) for ids, _ in found[-1].logprobs} == {tuple(NAMED["logprob_token_ids"])}


@pytest.mark.long
def test_a_large_batch_is_verified_in_parts(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM takes some requests after the other where their rows are many: each has its own all the same."""
    plain(device)  # before vLLM's kernels are imported in another way
    from vllm.v1.worker.gpu.spec_decode import rejection_sampler

    monkeypatch.setattr(rejection_sampler, "get_max_chunk_logits", lambda vocab_size: 9)
    found, _ = drafted(device, 2)
    assert_same(found, plain(device))


@pytest.mark.long
def test_only_what_is_accepted_can_be_broken(device: str) -> None:
    """NaN counts against the request in whose text it stands, and not where a wrong draft has led there."""
    runner = Runner(requests([{}, {}, KINDS[1]]), device)
    runner.requests[2].prompt[-1] = BROKEN
    assert runner.step([[BROKEN, 3], [], [1]], broken=BROKEN) == [0, 0, VOCAB_SIZE]


def test_every_row_has_its_requests_adapter() -> None:
    """vLLM tells the output layer one for each request, which without drafts is one for each row."""
    from sampling.speculative_v2 import give_every_row_its_adapter

    told: list[tuple[int, ...]] = []
    batch = SimpleNamespace(cu_num_logits_np=np.array([0, 3, 4, 6]))
    runner = SimpleNamespace(
        prepare_inputs=lambda: batch, _set_active_loras=lambda of_rows, *more: told.append(of_rows)
    )
    give_every_row_its_adapter(runner)
    assert runner.prepare_inputs() is batch
    runner._set_active_loras((7, 0, 9), (), set())
    runner._set_active_loras((1, 2), (), set())  # of a warm-up, which prepares nothing
    assert told == [(7, 7, 7, 0, 9, 9), (1, 2)]
