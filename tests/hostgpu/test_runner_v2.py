"""Our processor on vLLM's real V2 runner, CUDA build, simulated GPU: calls, arguments and slots, no numbers.

`make test-hostgpu` runs this; the engine runs in FAKE_GPU's own environment, once for all tests.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.hostgpu.kinds import KINDS

RUN = Path(os.environ.get("FAKE_GPU", "/nonexistent")) / "run"
if not RUN.is_file():
    pytest.skip("FAKE_GPU names no simulated GPU: see make test-hostgpu", allow_module_level=True)
pytestmark = pytest.mark.hostgpu

NUM_SLOTS, NUM_STEPS = 8, 4
TAKE_IN, BIAS, PENALISE, MIN_P = "_take_in_kernel", "_bias_kernel", "_penalise_kernel", "_min_p_kernel"
ALLOW, BAD_WORDS = "_allow_kernel", "_bad_words_kernel"
LIMIT, WEIGH, DRAW = "_limit_kernel", "_weigh_kernel", "_draw_kernel"
LAUNCHED: dict[str, set[str]] = {
    "plain": set(),
    "neutral": set(),
    "repetition": {TAKE_IN, PENALISE},
    "frequency": {TAKE_IN, PENALISE},
    "presence": {TAKE_IN, PENALISE},
    "bias": {BIAS},
    "long bias": set(),  # torch does it
    "allowed": {ALLOW},
    "bad words": {BAD_WORDS},
    "drawn": {WEIGH, DRAW},
    "min_p": {PENALISE, MIN_P, WEIGH, DRAW},
    "top_k": {LIMIT, WEIGH, DRAW},
    "top_p": {LIMIT, WEIGH, DRAW},
    "all": {TAKE_IN, BIAS, PENALISE, MIN_P, LIMIT, WEIGH, DRAW},
}
USED = {kind for kind, kernels in LAUNCHED.items() if kernels} | {"long bias"}


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What drive_runner_v2.py saw."""
    work = tmp_path_factory.mktemp("hostgpu")
    script = Path(__file__).parent / "drive_runner_v2.py"
    ended = subprocess.run([RUN, "python", script, work], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout[-4000:] + ended.stderr[-8000:]
    found: dict[str, Any] = json.loads(ended.stdout.splitlines()[-1])
    return found


def launched(step: dict[str, Any]) -> set[str]:
    return {name for name, times in step["launches"].items() if times}


def test_the_v2_runner_runs_our_class(seen: dict[str, Any]) -> None:
    """vLLM chooses its V2 runner on CUDA, and that has loaded our processor."""
    assert seen["is_v2"]
    assert seen["runner"] == "vllm.v1.worker.gpu.model_runner"
    assert seen["processor"] == "sampling.runner_v2:SamplingProcessor"
    assert seen["device"] == "cuda:0"


def test_unused_launches_nothing(seen: dict[str, Any]) -> None:
    """Requests that ask for nothing of ours launch no kernel, before and after others have."""
    for step in (seen["unused"], seen["afterwards"]):
        assert launched(step) == set()
        assert not any(step["used"])


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_launches_what_it_needs(seen: dict[str, Any], kind: str) -> None:
    """A request launches the kernels it needs, each once a step, and no other."""
    step = seen["kinds"][kind]
    assert {name: times for name, times in step["launches"].items() if times} == dict.fromkeys(
        LAUNCHED[kind], NUM_STEPS
    )
    assert step["used"] == [kind in USED]
    assert step["tokens"] == [NUM_STEPS]


def test_arguments_are_on_the_device(seen: dict[str, Any]) -> None:
    """Every tensor that a kernel is launched with is the device's."""
    for step in (*seen["kinds"].values(), seen["mixed"], seen["long"]):
        assert step["elsewhere"] == []
    assert {name for name, (_, _, is_cuda) in seen["tables"].items() if not is_cuda} == set()


def test_compiled_once_for_hopper(seen: dict[str, Any]) -> None:
    """Each kernel has one compiled form, for sm_90: no batch makes Triton compile while others wait."""
    assert seen["compiled"] == {name: [90] for name in set().union(*LAUNCHED.values())}


def test_slots_are_used_again(seen: dict[str, Any]) -> None:
    """Of many requests of every kind, all end, in slots that each belong to several of them in turn."""
    slots = seen["mixed"]["slots"]
    assert len(slots) == 4 * len(KINDS)
    assert set(slots) == set(range(NUM_SLOTS))
    assert seen["mixed"]["used"] == 4 * [kind in USED for kind in KINDS]
    assert set(seen["mixed"]["tokens"]) == {6}


def test_preempted_requests_keep_their_border(seen: dict[str, Any]) -> None:
    """A request that comes back after a preemption has a longer history; its output begins where it did."""
    long = seen["long"]
    assert len(long["slots"]) > NUM_SLOTS, "none was preempted"
    assert any(history > prompt for prompt, history in long["prompt_and_history"])
    assert long["output_from"] == [prompt - 2 for prompt, _ in long["prompt_and_history"]]
    assert set(long["tokens"]) == {60}


def test_tables_are_as_small_as_stated(seen: dict[str, Any]) -> None:
    """A bit and a count for each token and slot, and room for 512 biases a slot."""
    shapes = {name: shape for name, (shape, _, _) in seen["tables"].items()}
    num_slots, vocab_size = shapes["counts"]
    assert num_slots == NUM_SLOTS
    assert shapes["seen"] == [NUM_SLOTS, -(-vocab_size // 32)]
    assert shapes["bias_ids"] == shapes["bias_values"] == [NUM_SLOTS, 512]
