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


class Array(msgspec.Struct, array_like=True, gc=False):
    """An array. kind: its type, as NumPy or torch name it. data: its bytes, or the number of the frame that
    has them."""

    kind: str
    shape: list[int]
    data: int | msgspec.msgpack.Ext

    def values(self) -> list[Any]:
        """All in one list. Needs the bytes."""
        assert isinstance(self.data, msgspec.msgpack.Ext), "fetched before"
        values: list[Any] = memoryview(self.data.data).cast(FORMATS[self.kind]).tolist()  # type: ignore[call-overload]
        return values


class CoreLogprobs(msgspec.Struct, array_like=True, gc=False):
    """The first fields of vLLM's LogprobsLists and of its LogprobsTensors, in their order.

    token_ids, logprobs: [num_positions, width].
    """

    token_ids: Array
    logprobs: Array

    def top(self, width: int) -> TopLogprobs:
        """The first entries of each position, this many: a step's are as wide as its widest request's."""
        token_ids, logprobs, has = self.token_ids.values(), self.logprobs.values(), self.logprobs.shape[1]
        if width == has:
            return TopLogprobs(width, token_ids, logprobs)
        starts = range(0, len(token_ids), has)
        return TopLogprobs(
            width,
            [token_id for start in starts for token_id in token_ids[start : start + width]],
            [logprob for start in starts for logprob in logprobs[start : start + width]],
        )


class CoreOutput(msgspec.Struct, array_like=True, gc=False):
    """What a step brought for one request: the first fields of vLLM's EngineCoreOutput, in its order."""

    request_id: str
    new_token_ids: list[int]
    new_logprobs: CoreLogprobs | None = None
    new_prompt_logprobs_tensors: CoreLogprobs | None = None
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
            _fetch(output.new_logprobs, frames)
        if output.new_prompt_logprobs_tensors is not None:
            _fetch(output.new_prompt_logprobs_tensors, frames)
    return outputs


def _fetch(logprobs: CoreLogprobs, frames: Sequence[Any]) -> None:
    for array in (logprobs.token_ids, logprobs.logprobs):
        if isinstance(array.data, int):
            array.data = msgspec.msgpack.Ext(RAW_VIEW, memoryview(frames[array.data]).cast("B"))
        else:
            _check(array.data.code)


def _raw_view(code: int, data: memoryview) -> memoryview:
    _check(code)
    return data


def _check(code: int) -> None:
    if code != RAW_VIEW:
        raise ValueError(f"the engine sent pickled data (extension {code}), which the server does not read")


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CoreOutputs, ext_hook=_raw_view).decode
