"""Our processor behind vLLM's V2 interface, on fakes of the runner's buffers, against naive slots."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from sampling.params import RowParams
from tests.sampling.torch.interpreter import interpreted
from tests.sampling.torch.specification import after_the_draw

torch = pytest.importorskip("torch", reason="the kernels' torch is part of the engine's packages")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.skipif(find_spec("triton") is None, reason="Triton is part of the engine's packages"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
__all__ = ["interpreted"]

VOCAB_SIZE, NUM_SLOTS, MAX_LENGTH = 41, 5, 64
# As in test_kernels.py, with counts of up to 64.
TOLERANCE = 5 * 2.0**-17
PENALTIES = {
    "logit_bias": {3: 2.0, 40: -5.0},
    "repetition_penalty": 1.4,
    "frequency_penalty": 0.3,
    "presence_penalty": -0.6,
}
BANS: dict[str, Any] = {"allowed_token_ids": [*range(3, 30)], "bad_words": [[5, 8, 11], [8, 12], [13]]}
FULL: dict[str, Any] = {**PENALTIES, **BANS, "min_p": 1e-6, "temperature": 0.9, "top_p": 0.9, "seed": 8}
Logits = npt.NDArray[np.float64]


class Buffer:
    """One of the runner's buffers: the same memory for the host and for what is the device here."""

    def __init__(self, *shape: int) -> None:
        self.np = np.zeros(shape, np.int32)
        self.gpu = torch.from_numpy(self.np)


@dataclass
class Request:
    """prompt ends with the num_before ids that were generated before the request was resumed."""

    extra_args: dict[str, Any]
    prompt: list[int]
    output: list[int] = field(default_factory=list)

    def wanted(self, logits: Logits, drafts: list[int]) -> Logits:
        params = RowParams.from_extra_args(self.extra_args)
        history = [*self.prompt, *self.output, *drafts]
        border = len(self.prompt) - self.extra_args.get("num_output_before", 0)
        return after_the_draw(logits, params, history[:border], history[border:])


class Runner:
    """The part of vLLM's model runner that a processor sees: slots, histories, steps over some of them."""

    def __init__(self) -> None:
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcRequestState

        from sampling.runner_v2 import SamplingProcessor
        from sampling.slots import Slots

        self.state = LogitsProcRequestState(
            device=torch.device("cpu"),
            max_num_reqs=NUM_SLOTS,
            vocab_size=VOCAB_SIZE,
            all_token_ids=Buffer(NUM_SLOTS, MAX_LENGTH),
            prompt_len=Buffer(NUM_SLOTS),
            prefill_len=Buffer(NUM_SLOTS),
            total_len=Buffer(NUM_SLOTS),
        )
        self.processor = SamplingProcessor(None, self.state)
        # Of the lists of biases here, some have room and some do not.
        self.processor._slots = Slots(NUM_SLOTS, VOCAB_SIZE, self.state.device, bias_room=3)
        self.requests: dict[int, Request] = {}

    def add(self, slot: int, request: Request) -> bool:
        """A request that is new, or comes back after a preemption with its output."""
        from vllm import SamplingParams

        history = [*request.prompt, *request.output]
        self.state.all_token_ids.np[slot] = 7  # what the slot's last request has left behind
        self.state.all_token_ids.np[slot, : len(history)] = history
        self.state.prompt_len.np[slot] = len(request.prompt)
        self.state.prefill_len.np[slot] = self.state.total_len.np[slot] = len(history)
        self.requests[slot] = request
        params = SamplingParams(temperature=0, extra_args=request.extra_args or None)
        return bool(self.processor.add_request(slot, params))

    def step(self, logits: Logits, drafts: dict[int, list[int]]) -> Logits:
        """One step over the slots that drafts names, in its order, with a row for each slot and draft."""
        from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext

        self.processor.apply_staged_writes()
        rows = [(slot, k) for slot, ids in drafts.items() for k in range(len(ids) + 1)]
        context = LogitsContext(
            expanded_idx_mapping=ints([slot for slot, _ in rows]),
            idx_mapping=ints(list(drafts)),
            idx_mapping_np=np.array(list(drafts), np.int32),
            expanded_local_pos=ints([k for _, k in rows]),
            input_ids=ints([drafts[slot][k - 1] if k else 9 for slot, k in rows]),
            pos=ints([self.state.total_len.np[slot] - 1 + k for slot, k in rows]),
            seq_lens_upper_bound_np=self.state.total_len.np[list(drafts)],
        )
        given_logits = torch.tensor(logits, dtype=torch.float32)
        got: Logits = self.processor.apply(given_logits, context).numpy().astype(np.float64)
        return got

    def generated(self, slot: int, token_ids: list[int]) -> None:
        """The tokens that a step has drawn or accepted, as the runner notes them on the device."""
        end = self.state.total_len.np[slot]
        self.state.all_token_ids.np[slot, end : end + len(token_ids)] = token_ids
        self.state.total_len.np[slot] += len(token_ids)
        self.requests[slot].output.extend(token_ids)


@contextmanager
def sending_nothing(runner: Runner) -> Iterator[None]:
    """The tables are the same afterwards, and none was written in between."""
    tables = runner.processor._slots.tables
    before = [getattr(tables, name)._version for name in tables.__slots__]
    yield
    assert [getattr(tables, name)._version for name in tables.__slots__] == before


def ints(values: list[int]) -> Any:
    return torch.tensor(values, dtype=torch.int32)


def drawn_words(rng: np.random.Generator, prompt: list[int]) -> list[list[int]]:
    """Of few tokens, so that some are met; one ends what the prompt ends with."""
    words = [rng.integers(0, VOCAB_SIZE, rng.integers(1, 4)).tolist() for _ in range(rng.integers(1, 12))]
    return [*words, [*prompt[-int(rng.integers(1, 3)) :], int(rng.integers(VOCAB_SIZE))]]


def drawn_extra_args(rng: np.random.Generator, prompt: list[int]) -> dict[str, Any]:
    """Each argument by itself there or not."""
    size = int(rng.integers(1, 6))
    bias = dict(zip(rng.permutation(VOCAB_SIZE)[:size].tolist(), rng.uniform(-9, 9, size), strict=True))
    choice = {
        "logit_bias": {token_id: float(np.float32(value)) for token_id, value in bias.items()},
        "repetition_penalty": float(rng.choice([0.5, 1.25, 2.0])),
        "frequency_penalty": float(rng.choice([-2.0, 0.5])),
        "presence_penalty": float(rng.choice([-1.0, 1.5])),
        "min_p": 1e-4,
        "temperature": float(rng.choice([0.5, 2.0])),
        "top_k": int(rng.integers(1, 20)),
        "top_p": float(rng.uniform(0.3, 0.99)),
        "seed": int(rng.integers(2**63)),
        "allowed_token_ids": rng.permutation(VOCAB_SIZE)[: rng.integers(1, 30)].tolist(),
        "bad_words": drawn_words(rng, prompt),
        "num_output_before": int(rng.integers(0, len(prompt) + 1)),
    }
    return {name: value for name, value in choice.items() if rng.random() < 0.35}


def change_slots(runner: Runner, rng: np.random.Generator) -> int:
    """Some slots get new requests, some lose theirs to a preemption and come back elsewhere; how many."""
    changed = rng.permutation(NUM_SLOTS)[: rng.integers(0, 4)].tolist()
    for slot in changed:
        before = runner.requests.get(int(rng.integers(NUM_SLOTS)))
        if before is not None and rng.random() < 0.3:
            request = Request(before.extra_args, before.prompt, list(before.output))
        else:
            prompt = rng.integers(0, VOCAB_SIZE, rng.integers(1, 12)).tolist()
            request = Request(drawn_extra_args(rng, prompt), prompt)
        params = RowParams.from_extra_args(request.extra_args)
        assert runner.add(slot, request) is not params.is_neutral
    return len(changed)


def one_step(runner: Runner, rng: np.random.Generator) -> int:
    """A step over some slots, compared row by row with the reference; how many rows."""
    roomy = [slot for slot, r in runner.requests.items() if len(r.prompt) + len(r.output) < MAX_LENGTH - 8]
    batch = [int(slot) for slot in rng.permutation(roomy)[: rng.integers(0, NUM_SLOTS + 1)]]
    if not batch:
        return 0
    most_drafts = int(rng.choice([1, 1, 3]))
    drafts = {slot: rng.integers(0, VOCAB_SIZE, rng.integers(0, most_drafts)).tolist() for slot in batch}
    places = [(slot, k) for slot, ids in drafts.items() for k in range(len(ids) + 1)]
    logits = rng.uniform(-30, 30, (len(places), VOCAB_SIZE)).astype(np.float32).astype(np.float64)
    got = runner.step(logits, drafts)
    for (slot, k), before, after in zip(places, logits, got, strict=True):
        wanted = runner.requests[slot].wanted(before, drafts[slot][:k])
        np.testing.assert_allclose(after, wanted, atol=TOLERANCE, rtol=0)
    for slot, ids in drafts.items():
        accepted = ids[: rng.integers(0, len(ids) + 1)]
        runner.generated(slot, [*accepted, int(rng.integers(VOCAB_SIZE))])
    return len(places)


@pytest.mark.parametrize(
    ("seed", "most"), [(0, 120), *(pytest.param(seed, 300, marks=pytest.mark.long) for seed in (0, 1, 2, 3))]
)
def test_slots_are_the_naive_slots(seed: int, most: int) -> None:
    """Through slots taken over, preempted, drafted for, stepped in any order, each row is the reference's."""
    rng, runner, num_operations = np.random.default_rng(seed), Runner(), 0
    while num_operations < most:
        num_operations += change_slots(runner, rng) + one_step(runner, rng)


def test_a_resumed_request_goes_on_as_if_it_had_never_stopped() -> None:
    """With num_output_before, or after a preemption, the same history gives the same logits and draw."""
    runner, prompt, output = Runner(), [1, 2, 3, 2], [3, 5, 5, 8]
    runner.add(0, Request(FULL, prompt))
    runner.processor.apply_staged_writes()
    logits = np.random.default_rng(0).uniform(-9, 9, (1, VOCAB_SIZE))
    for token_id in output:
        runner.step(logits, {0: []})
        runner.generated(0, [token_id])
    runner.add(3, Request({**FULL, "num_output_before": 3}, prompt + output[:3], output[3:]))
    runner.add(4, Request(FULL, prompt, output))
    runner.add(2, Request(FULL, prompt + output))  # a new request with that prompt is another matter
    got = runner.step(np.repeat(logits, 4, axis=0), {0: [], 3: [], 4: [], 2: []})
    assert got[0].tolist() == got[1].tolist() == got[2].tolist() != got[3].tolist()


def test_named_tokens_are_vllms_to_tell() -> None:
    """What a request names is handed on to vLLM, which looks at it after our processor; and is no work."""
    from vllm import SamplingParams

    runner, named = Runner(), {"logprob_token_ids": [5, 6]}
    params = SamplingParams(temperature=0, logprobs=2, extra_args=named)
    assert not runner.processor.add_request(0, params)
    assert params.logprob_token_ids == [5, 6]


def test_unused_costs_nothing() -> None:
    """Requests that need nothing launch no kernel and send nothing to the device."""
    runner = Runner()
    for slot, extra_args in enumerate([{}, {"min_p": 0.0}, {"logit_bias": {}}]):
        assert not runner.add(slot, Request(extra_args, [1]))
    assert not runner.add(3, Request({"top_p": 0.5, "temperature": 0.5}, [1]))  # no seed: nothing is drawn
    logits = np.ones((4, VOCAB_SIZE))
    runner.processor._kernels = runner.processor._choose = runner.processor._ban = None
    with sending_nothing(runner):
        assert runner.step(logits, {n: [] for n in range(4)}).tolist() == logits.tolist()


def test_a_slot_that_needs_nothing_again_costs_nothing_again() -> None:
    """A request without parameters in the slot of one with all of them is left as it is."""
    runner = Runner()
    runner.add(1, Request(FULL, [1, 2], [3]))
    runner.step(np.ones((1, VOCAB_SIZE)), {1: []})
    assert not runner.add(1, Request({}, [1, 2], [3]))
    runner.add(0, Request(FULL, [4]))
    logits = np.random.default_rng(1).uniform(-9, 9, (2, VOCAB_SIZE)).astype(np.float32).astype(np.float64)
    got = runner.step(logits, {1: [], 0: []})
    assert got[0].tolist() == logits[0].tolist() != got[1].tolist()


def test_the_batch_alone_decides_what_is_launched() -> None:
    """A step over slots that need nothing launches nothing and sends nothing, whatever other slots need."""
    runner = Runner()
    runner.add(0, Request(FULL, [1, 2], [3]))
    runner.add(1, Request({}, [1, 2], [3]))
    runner.step(np.ones((2, VOCAB_SIZE)), {0: [], 1: []})
    logits = np.ones((1, VOCAB_SIZE))
    runner.processor._kernels = runner.processor._choose = runner.processor._ban = None
    with sending_nothing(runner):
        assert runner.step(logits, {1: []}).tolist() == logits.tolist()


def test_vllm_loads_the_class() -> None:
    """vLLM's loader takes the name that the engine gives it, as a class of the V2 interface."""
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor, loader

    (found,) = loader._load_v2_logitsprocs_by_fqcns(["sampling.runner_v2:SamplingProcessor"])
    assert issubclass(found, LogitsProcessor)


def test_the_front_end_imports_no_kernel() -> None:
    """vLLM's front-end process imports the module to look at the class; kernels come with an object."""
    heavy = "{'sampling.slots', 'sampling.kernels', 'sampling.ban_kernels'} & sys.modules.keys()"
    code = f"import sampling.runner_v2, sys; sys.exit(len({heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0
