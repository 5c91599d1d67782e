"""What server/engine relies on of vLLM's inner interface, held against the vLLM that is installed."""

from __future__ import annotations

from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from sampling.params import RowParams
from server.config.model import ModelSettings
from server.contract.params import GenerationParams
from server.contract.values import MAX_HELD_BACK
from server.engine.base import Job, TopLogprobs
from server.engine.vllm import stats
from server.engine.vllm.host import engine_config, give_signs_of_life
from server.engine.vllm.translate import ALWAYS, FINISH_REASONS, WHERE_DRAWN, core_request, engine_output
from server.engine.vllm.wire import (
    ABORT,
    ADD,
    DEAD,
    QUESTION,
    UTILITY,
    Array,
    CoreLogprobs,
    CoreOutput,
    CoreOutputs,
    CoreParams,
    CoreRequest,
    Signs,
    cache_tokens,
    decode,
    encode,
)
from server.errors import InternalError, ServiceUnavailable

vllm = pytest.importorskip("vllm")
pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own, when vLLM is imported
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def job(**params: Any) -> Job:
    given = GenerationParams(**params)
    return Job("id", "r", [5, 6], given, (2,), max_tokens=7, seed=9, num_logprobs=given.num_logprobs)


def test_fields_are_in_vllms_order() -> None:
    """What travels is told by position: our structs are beginnings of vLLM's."""
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, EngineCoreRequest

    pairs = [
        (CoreOutput, EngineCoreOutput),
        (CoreOutputs, EngineCoreOutputs),
        (CoreRequest, EngineCoreRequest),
    ]
    for ours, theirs in pairs:
        names = ours.__struct_fields__
        assert theirs.__struct_fields__[: len(names)] == names  # type: ignore[attr-defined]


def test_params_have_vllms_names_and_defaults() -> None:
    """A field that we leave out has the same value at the other end."""
    from vllm import SamplingParams

    theirs = dict(zip(SamplingParams.__struct_fields__, SamplingParams.__struct_defaults__, strict=True))
    ours = dict(zip(CoreParams.__struct_fields__, CoreParams.__struct_defaults__, strict=True))
    assert {name: theirs[name] for name in ours} == ours


def test_a_step_is_as_large_as_in_vllms_own_server(smol_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What vLLM makes depend on who asks, the tokens of a step, is what its server gets."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.usage.usage_lib import UsageContext

    defaults = ({UsageContext.OPENAI_API_SERVER: 3072}, {UsageContext.OPENAI_API_SERVER: 7})
    monkeypatch.setattr(EngineArgs, "get_batch_defaults", lambda self, world_size: defaults)
    config, _ = engine_config(ModelSettings(id="m", path=smol_path), 1024)
    assert config.scheduler_config.max_num_batched_tokens == 3072


def test_limits_of_vllms_tables_are_the_contracts() -> None:
    """What the V2 runner keeps of ids that are held back; of its other tables nothing is used."""
    source = Path(vllm.__file__).parent / "v1/worker/gpu/sample/logit_bias.py"  # which imports Triton
    assert f"MAX_NUM_STOP_TOKEN_IDS = {MAX_HELD_BACK}\n" in source.read_text("utf-8")
    bias = dict.fromkeys(range(2000), 1.0)
    sent = core_request(job(logit_bias=bias, temperature=0.0)).sampling_params
    assert sent.extra_args == {"logit_bias": bias}
    unused = {"logit_bias", "allowed_token_ids", "bad_words", "logprob_token_ids"}
    assert not unused & set(CoreParams.__struct_fields__)


def test_signs() -> None:
    """The bytes and numbers that stand for something are vLLM's."""
    from vllm.v1.engine import EngineCoreEventType, EngineCoreRequestType, FinishReason
    from vllm.v1.engine.core import EngineCoreProc

    assert (EngineCoreRequestType.ADD.value, EngineCoreRequestType.ABORT.value) == (ADD, ABORT)
    assert EngineCoreProc.ENGINE_CORE_DEAD == DEAD
    assert tuple(map(str, FinishReason)) == stats.REASONS
    assert stats.REASONS[: len(FINISH_REASONS)] == FINISH_REASONS
    assert [event.value for event in EngineCoreEventType] == [stats.QUEUED, stats.SCHEDULED, stats.PREEMPTED]


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"temperature": 0.0},
        {"temperature": 0.7, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "logit_bias": {7: -100.0}},
        {"repetition_penalty": 1.2, "frequency_penalty": 0.5, "presence_penalty": -0.5, "num_logprobs": 3},
        {"stop_token_ids": (4, 4, 2), "min_tokens": 3},
        {"ignore_eos": True, "num_logprobs": 0},
    ],
)
def test_requests_arrive(params: dict[str, Any]) -> None:
    """The engine reads of our bytes what it would of vLLM's own, and what it checks passes."""
    from vllm import SamplingParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.serial_utils import MsgpackDecoder

    sent = core_request(job(**params))
    read = MsgpackDecoder(EngineCoreRequest).decode([encode(sent)])
    given = {
        name: value
        for name in CoreParams.__struct_fields__
        if (value := getattr(sent.sampling_params, name)) is not None
    }
    assert read.sampling_params == SamplingParams(**given)
    assert (read.request_id, read.prompt_token_ids, read.client_index) == ("id", [5, 6], 0)
    assert read.sampling_params.max_tokens == 7
    neutral = SamplingParams(temperature=0.0)
    for name in (*ALWAYS, *WHERE_DRAWN, "seed"):
        assert getattr(read.sampling_params, name) == getattr(neutral, name), "vLLM's own would act as well"


def test_a_grammar_arrives() -> None:
    """As the one kind of vLLM's that our own manager of grammars looks at, with vLLM's own interface."""
    from vllm.sampling_params import StructuredOutputsParams
    from vllm.v1.engine import EngineCoreRequest
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.request import Request
    from vllm.v1.serial_utils import MsgpackDecoder
    from vllm.v1.structured_output import StructuredOutputManager

    read = MsgpackDecoder(EngineCoreRequest).decode([encode(core_request(job(grammar="start: /a/")))])
    assert read.sampling_params.structured_outputs == StructuredOutputsParams(grammar="start: /a/")
    request = Request.from_engine_core_request(read, None)
    assert request.use_structured_output
    assert "grammar_init" in EngineCore.preprocess_add_request.__code__.co_names
    assert callable(StructuredOutputManager.grammar_init)
    assert (
        not MsgpackDecoder(EngineCoreRequest)
        .decode([encode(core_request(job()))])
        .sampling_params.structured_outputs
    )


@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_our_processors_read_what_was_asked(temperature: float) -> None:
    """Every field of our sampling arrives as it was asked; a greedy request draws nothing, and without
    penalties needs nothing at all."""
    penalties = {"logit_bias": {7: -100.0}, "repetition_penalty": 1.2, "presence_penalty": -0.5}
    asked = {"temperature": temperature, "top_p": 0.9, "top_k": 5, "min_p": 0.1}
    extra_args = core_request(job(**penalties, **asked)).sampling_params.extra_args
    read = RowParams.from_extra_args(extra_args)
    assert read == RowParams(**penalties, **(asked | {"seed": 9} if temperature else {}))
    neutral = core_request(job(temperature=temperature)).sampling_params.extra_args
    assert RowParams.from_extra_args(neutral).is_neutral is (neutral is None) is (temperature == 0.0)


@pytest.mark.parametrize("positions", [1, 200])  # 200: too large to be in the message
def test_outputs_arrive(positions: int) -> None:
    """Tokens, log-probabilities and the end of a request, as vLLM's engine sends them."""
    import torch
    from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs, FinishReason
    from vllm.v1.outputs import LogprobsLists, LogprobsTensors
    from vllm.v1.serial_utils import MsgpackEncoder

    ids = np.arange(3 * positions, dtype=np.int32).reshape(-1, 3)
    values = -np.arange(3 * positions, dtype=np.float32).reshape(-1, 3) / 7
    ranks = np.ones(positions, np.int32)
    tensors = LogprobsTensors(
        torch.from_numpy(ids.astype(np.int64)), torch.from_numpy(values), torch.from_numpy(ranks)
    )
    sent = EngineCoreOutputs(
        outputs=[
            EngineCoreOutput("a", [7]),
            EngineCoreOutput("b", [8], LogprobsLists(ids, values, ranks), tensors),
            EngineCoreOutput("c", [], finish_reason=FinishReason.LENGTH, num_nans_in_logits=3),
        ]
    )
    frames = MsgpackEncoder().encode(sent)
    assert (len(frames) > 1) == (positions == 200)
    first, second, third = decode(frames).outputs
    flat = TopLogprobs(3, ids.ravel().tolist(), values.ravel().tolist())
    assert (first.request_id, first.new_token_ids) == ("a", [7])
    for found in (second.new_logprobs, second.new_prompt_logprobs_tensors):
        assert found.top(3) == flat
    assert (third.finish_reason, third.num_nans_in_logits) == (1, 3)


def test_aborts_arrive() -> None:
    """The ids of requests to end, as vLLM's engine reads them."""
    from vllm.v1.serial_utils import MsgpackDecoder

    assert MsgpackDecoder().decode([encode(["a", "b"])]) == ["a", "b"]


def test_a_question_and_its_answer_arrive() -> None:
    """vLLM's engine is given the method that is asked for, counts the steps that run the model, and what it
    answers can be read."""
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine import EngineCoreOutputs, EngineCoreRequestType, UtilityOutput
    from vllm.v1.engine.core import EngineCoreProc
    from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder, UtilityResult

    class Core(EngineCoreProc):
        check_for_draft_tokens = False

        def __init__(self) -> None:
            """None of vLLM's."""
            self.scheduler = Scheduler.__new__(Scheduler)
            self.scheduler.running, self.scheduler.waiting = [1, 2, 3], [4]
            self.scheduler.kv_holding_waiting = [5]
            self.scheduler.kv_cache_manager = SimpleNamespace(usage=0.25)

        def has_work(self) -> bool:
            return True

    assert EngineCoreRequestType.UTILITY.value == UTILITY
    client, call, method, arguments = MsgpackDecoder().decode([encode((0, 0, QUESTION, ()))])
    assert (client, call, [*arguments]) == (0, 0, [])
    give_signs_of_life(Core)
    core = Core()
    for model_executed in (True, False, True):
        core.post_step(model_executed)
    answer = UtilityOutput(call_id=0, result=UtilityResult(getattr(core, method)()))
    read = decode(MsgpackEncoder().encode(EngineCoreOutputs(utility_output=answer)))
    signs = Signs(2, has_work=True, num_running=3, num_waiting=2, kv_usage=0.25)
    assert (read.utility_output.signs, read.outputs) == (signs, [])


def test_the_state_of_an_engine_arrives() -> None:
    """What the metrics read of a step's statistics has the names that vLLM gives it."""
    from vllm.v1.engine import EngineCoreEvent, EngineCoreEventType, EngineCoreOutput, EngineCoreOutputs
    from vllm.v1.metrics.stats import PrefillStats, PrefixCacheStats, SchedulerStats
    from vllm.v1.serial_utils import MsgpackEncoder
    from vllm.v1.spec_decode.metrics import SpecDecodingStats

    registry = CollectorRegistry()
    metrics = stats.EngineMetrics(registry).of("m")
    state = SchedulerStats(
        num_running_reqs=3, num_waiting_reqs=2, num_skipped_waiting_reqs=1, kv_cache_usage=0.5
    )
    state.prefix_cache_stats = PrefixCacheStats(queries=10, hits=4)
    state.spec_decoding_stats = SpecDecodingStats(3, num_drafts=2, num_draft_tokens=6, num_accepted_tokens=5)
    events = [
        EngineCoreEvent(EngineCoreEventType.QUEUED, 1.0),
        EngineCoreEvent(EngineCoreEventType.SCHEDULED, 2.0),
        EngineCoreEvent(EngineCoreEventType.PREEMPTED, 2.5),
    ]
    prefill = PrefillStats(num_prompt_tokens=5)
    prefill.set(num_prompt_tokens=5, num_local_cached_tokens=3, num_external_cached_tokens=1)
    output = EngineCoreOutput("a", [7], events=events, prefill_stats=prefill)
    sent = EngineCoreOutputs(outputs=[output], scheduler_stats=state)
    read = decode(MsgpackEncoder().encode(sent))
    request = stats.RequestStats(5)
    metrics.note(request, read.outputs[0], 3.0)
    metrics.record(read, 1, [])

    def value(name: str) -> float | None:
        return registry.get_sample_value(f"vllm:{name}", {"model_name": "m", "engine": "0"})

    assert (request.queued, request.scheduled, request.first_token) == (1.0, 2.0, 3.0)
    assert request.cached_tokens == 4
    assert (value("num_requests_running"), value("num_requests_waiting")) == (3, 3)
    assert (value("kv_cache_usage_perc"), value("num_preemptions_total")) == (0.5, 1)
    assert (value("prefix_cache_queries_total"), value("prefix_cache_hits_total")) == (10, 4)
    assert (value("prompt_tokens_total"), value("generation_tokens_total")) == (5, 1)
    drafts = [
        value(f"spec_decode_num_{name}_total") for name in ("drafts", "draft_tokens", "accepted_tokens")
    ]
    assert drafts == [2, 6, 5]


def test_metrics_have_vllms_names_and_buckets() -> None:
    """Every family is one that vLLM has too, so that a dashboard for vLLM finds it, with vLLM's buckets."""
    from vllm.v1.metrics import buckets, loggers
    from vllm.v1.spec_decode import metrics

    source = "".join(Path(str(module.__file__)).read_text("utf-8") for module in (loggers, metrics))
    registry = CollectorRegistry()
    stats.EngineMetrics(registry)
    families = {family.name for family in registry.collect()}
    assert len(families) > 15
    assert [name for name in families if f'"{name}"' not in source] == []
    assert stats.FIRST_TOKEN_S == buckets.TIME_TO_FIRST_TOKEN_BUCKETS
    assert stats.TOKEN_S == buckets.INTER_TOKEN_LATENCY_BUCKETS
    assert stats.REQUEST_S == buckets.REQUEST_LATENCY_BUCKETS
    assert stats.STEP_TOKENS == buckets.ITERATION_TOKENS_BUCKETS


@pytest.mark.parametrize("place", [2, 3, 4])
def test_nothing_pickled_is_read(place: int) -> None:
    """An extension that would run code when it is read is refused, as an array's bytes and elsewhere."""
    pickled = msgspec.msgpack.Ext(1, b"cos\nsystem\n")
    arrays = [["<i4", [1, 1], pickled], ["<f4", [1, 1], pickled]]
    output = ["a", [1], None, None, None]
    output[place] = pickled if place == 4 else arrays
    with pytest.raises(ValueError, match="pickled"):
        decode([msgspec.msgpack.encode([0, [output]])])


# --- what an output means for its job ----------------------------------------------------------------------


def core_logprobs(width: int, ids: list[int], values: list[float]) -> CoreLogprobs:
    """As they are read of a message."""
    shape, data = [len(ids) // width, width], (array("i", ids), array("f", values))
    one, two = (msgspec.msgpack.Ext(3, part.tobytes()) for part in data)
    return CoreLogprobs(Array("<i4", shape, one), Array("<f4", shape, two))


def test_values_are_as_wide_as_the_job_asked() -> None:
    """In a step whose widest request asked for 3, one that asked for 1 gets the sampled and the likeliest."""
    ids, values = [1, 2, 3, 4, 5, 6, 7, 8], [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0]
    wide = core_logprobs(4, ids, values)
    output = CoreOutput("id", [1, 5], wide, wide)
    narrow = TopLogprobs(2, [1, 2, 5, 6], [-1.0, -2.0, -5.0, -6.0])
    found = engine_output(job(num_logprobs=1), output)
    assert (found.logprobs, found.prompt_logprobs) == (narrow, narrow)
    assert engine_output(job(num_logprobs=3), output).logprobs == TopLogprobs(4, ids, values)
    assert engine_output(job(), output).logprobs is None


@pytest.mark.parametrize(("number", "reason"), [(None, None), (0, "stop"), (1, "length")])
def test_finish_reasons(number: int | None, reason: str | None) -> None:
    """Of vLLM's reasons to end, two are a reply's."""
    assert engine_output(job(), CoreOutput("id", [1], finish_reason=number)).finish_reason == reason


def test_ends_that_are_failures() -> None:
    """An engine that gave up is a 503; NaN among the logits is our fault."""
    with pytest.raises(ServiceUnavailable):
        engine_output(job(), CoreOutput("id", [], finish_reason=2))
    with pytest.raises(InternalError):
        engine_output(job(), CoreOutput("id", [1], num_nans_in_logits=1))


def test_an_engine_says_how_much_it_caches() -> None:
    """What vLLM's engine says to its clients when it has started is read, and noise is nothing."""
    from vllm.v1.engine import EngineCoreReadyResponse

    known = dict.fromkeys(EngineCoreReadyResponse.__dataclass_fields__, 0)
    ready = EngineCoreReadyResponse(**known | {"num_gpu_blocks": 100, "block_size": 32})
    assert cache_tokens(msgspec.msgpack.encode(ready)) == 3200
    assert cache_tokens(b"") == cache_tokens(b"READY") == 0
