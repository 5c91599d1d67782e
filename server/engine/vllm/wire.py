"""The messages between the server and vLLM's engine: requests in; for each step, one message of outputs out.

The shapes are an internal interface of vLLM: the order of the fields, and how arrays are sent.
tests/engine/test_wire.py compares them with the installed vLLM.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from server.engine.base import TopLogprobs

ADD, ABORT, UTILITY = b"\x00", b"\x01", b"\x03"  # vLLM's EngineCoreRequestType
QUESTION = "signs_of_life"  # a method that host.py adds to vLLM's engine
SLEEP, WAKE, IN_WORKERS = "sleep", "wake_up", "collective_rpc"  # vLLM's own methods
DEAD = b"ENGINE_CORE_DEAD"  # an engine's last message when it fails
RAW_VIEW = 3  # the msgpack extension for the bytes of an array
FORMATS = {"<i4": "i", "<i8": "q", "<f4": "f", "int32": "i", "int64": "q", "float32": "f"}


class CoreParams(msgspec.Struct, omit_defaults=True):
    """The fields of vLLM's SamplingParams that we set, with their names and defaults. The engine validates
    them again."""

    temperature: float = 1.0
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    detokenize: bool = True
    structured_outputs: dict[str, Any] | None = None
    extra_args: dict[str, Any] | None = None


class CoreAdapter(msgspec.Struct, array_like=True):
    """The first fields of vLLM's LoRARequest, in its order."""

    lora_name: str
    lora_int_id: int
    lora_path: str


class CoreRequest(msgspec.Struct, array_like=True):
    """The first fields of vLLM's EngineCoreRequest, in its order."""

    request_id: str
    prompt_token_ids: list[int]
    mm_features: None
    sampling_params: CoreParams
    pooling_params: None
    arrival_time: float
    lora_request: CoreAdapter | None = None
    cache_salt: str | None = None
    data_parallel_rank: int | None = None
    prompt_embeds: None = None
    prompt_is_token_ids: None = None
    client_index: int = 0
    current_wave: int = 0
    priority: int = 0


class CoreOutput(msgspec.Struct, array_like=True, gc=False):
    """What a step brought for one request: the first fields of vLLM's EngineCoreOutput, in its order."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: Any = None  # once decoded a TopLogprobs, as wide as the widest request of the step
    new_prompt_logprobs_tensors: Any = None  # once decoded a TopLogprobs
    pooling_output: Any = None
    finish_reason: int | None = None
    stop_reason: Any = None
    events: Any = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    trace_headers: Any = None
    prefill_stats: Any = None
    routed_experts: Any = None
    num_nans_in_logits: int = 0


class Signs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The answer of an engine. num_steps: model steps so far, for any of its clients. has_work: whether there
    is more to do. num_running, num_waiting: its requests, of any client. kv_usage: share of its KV cache."""

    num_steps: int = 0
    has_work: bool = False
    num_running: int = 0
    num_waiting: int = 0
    kv_usage: float = 0.0


class Answer(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """CoreOutputs.utility_output: vLLM's UtilityOutput, whose last field is its UtilityResult.

    number: of the call. failure: why it failed; None: it succeeded.
    """

    number: int
    failure: str | None
    result: Any = None

    @property
    def signs(self) -> Signs:
        """The signs of life, if the call was the question."""
        return msgspec.convert(self.result[1], Signs)


class CoreOutputs(msgspec.Struct, array_like=True, gc=False):
    """One step of the engine, or an answer: the first fields of vLLM's EngineCoreOutputs, in its order."""

    engine_index: int = 0
    outputs: list[CoreOutput] = []
    scheduler_stats: Any = None
    timestamp: float = 0.0  # time.monotonic
    utility_output: Answer | None = None  # the answer to a call


class Ready(msgspec.Struct, frozen=True, gc=False):
    """What an engine tells each of its clients when it has started: some fields
    of vLLM's EngineCoreReadyResponse."""

    num_gpu_blocks: int = 0
    block_size: int = 0


def cache_tokens(message: bytes) -> int:
    """Capacity of the prefix cache in tokens, from a Ready; 0: not stated."""
    try:
        ready = msgspec.msgpack.decode(message, type=Ready)
    except msgspec.DecodeError:
        return 0
    return ready.num_gpu_blocks * ready.block_size


def encode(message: Any) -> bytes:
    """Encode a CoreRequest, a list of request ids, or a question."""
    return _encode(message)


def decode(frames: Sequence[Any]) -> CoreOutputs:
    """Decode a message. frames: the message, then the arrays that are too large to be in
    it. Raises msgspec.DecodeError."""
    outputs = _decode(frames[0])
    for output in outputs.outputs:
        if output.new_logprobs is not None:
            output.new_logprobs = _top_logprobs(output.new_logprobs, frames)
        if output.new_prompt_logprobs_tensors is not None:
            prompt = _top_logprobs(output.new_prompt_logprobs_tensors, frames)
            output.new_prompt_logprobs_tensors = prompt
    return outputs


def _raw_view(code: int, data: memoryview) -> memoryview:
    if code != RAW_VIEW:
        raise ValueError(f"the engine sent pickled data (extension {code}), which the server does not read")
    return data


def _top_logprobs(arrays: Sequence[Any], frames: Sequence[Any]) -> TopLogprobs:
    """TopLogprobs from vLLM's LogprobsLists or LogprobsTensors: token ids and values [num_positions, width],
    ranks, …"""
    token_ids, logprobs = arrays[0], arrays[1]
    return TopLogprobs(logprobs[1][1], _flat(token_ids, frames), _flat(logprobs, frames))


def _flat(array: Sequence[Any], frames: Sequence[Any]) -> list[Any]:
    """An array as a flat list. array: type, shape, and its bytes or the number of the frame that has them."""
    kind, _, data = array
    view = memoryview(frames[data]).cast("B") if isinstance(data, int) else data
    values: list[Any] = view.cast(FORMATS[kind]).tolist()  # type: ignore[call-overload]
    return values


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CoreOutputs, ext_hook=_raw_view).decode
